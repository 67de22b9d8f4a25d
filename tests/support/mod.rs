//! What the tests stand on: real servers on free ports, gone afterwards, and a model to compare tables with.

pub(crate) mod api;
pub(crate) mod certificates;
pub(crate) mod cli;
pub(crate) mod cluster;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod engine;
pub(crate) mod gate;
pub(crate) mod metrics;
pub(crate) mod model;
pub(crate) mod nats;
pub(crate) mod node;
pub(crate) mod pgbouncer;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod scripted;
pub(crate) mod setup;
pub(crate) mod smtp;
pub(crate) mod sshd;
pub(crate) mod status;

use std::time::{Duration, Instant};

/// How long a condition may take to come true: ample, since the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits for a condition. `Err` says what is seen instead; when the time is up, the test fails with that.
pub(crate) async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, condition).await
}

/// Waits for a condition that may take longer than others.
pub(crate) async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(seen) => assert!(Instant::now() < deadline, "waited {patience:?} for {what}, but {seen}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `Ok` if it holds, and else what is seen.
pub(crate) fn holds(condition: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(seen()) }
}
