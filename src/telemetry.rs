//! Logs: to standard error, filtered by `RUST_LOG` (default `info`), as JSON lines when `SEQUIN_LOG=json`.

#[cfg_attr(not(test), expect(dead_code, reason = "nobody has set a provider of traces yet"))]
mod link_sampler;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets the logs up for the whole process. Only the first call counts.
pub(crate) fn init() {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // An actor's own span lives as long as the actor: nothing is to hang on it. The driver logs what it sends, which is
    // our customers' data.
    for quiet in ["ractor=warn", "tokio_postgres=info"] {
        filter = filter.add_directive(quiet.parse().expect("a directive"));
    }
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let wants_json = std::env::var("SEQUIN_LOG").is_ok_and(|form| form == "json");
    let _ =
        if wants_json { logs.json().try_init() } else { logs.with_ansi(std::io::stderr().is_terminal()).try_init() };
}
