//! `sequin demo`: the main job on one machine, for real, in one process.
//!
//! A throwaway PostgreSQL (or the user's own) and the service are started; the rest goes over HTTP, as anybody's would:
//! publish, set up, backfill, look, and then live changes until somebody ends it.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use self::stage::Stage;
use super::{
    FAILED,
    figures::parse_span,
    output::{note, print},
    problem::indented,
    signals::Signals,
};

mod latency;
mod live;
mod scenes;
mod stage;

#[derive(Args)]
pub(super) struct DemoArguments {
    /// A database of yours, to be used instead of a throwaway one; everything there happens in the schema `sequin_demo`.
    #[arg(long, value_name = "URL")]
    target_url: Option<String>,
    /// Records of yours, a JSON object a line, instead of a CRM that does not exist.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["records", "syncs", "rate"])]
    file: Option<PathBuf>,
    /// How many records there are at first.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    records: u64,
    /// How many syncs the records belong to.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    syncs: u32,
    /// How many changes there are a second, once it is live.
    #[arg(long, value_name = "N/s", default_value = "200", value_parser = parse_rate)]
    rate: u32,
    /// How long to be live, such as 30s or 5m; otherwise until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span)]
    lasting: Option<Duration>,
}

fn parse_rate(text: &str) -> Result<u32, String> {
    match text.strip_suffix("/s").unwrap_or(text).parse() {
        Ok(rate @ 1..=1_000_000) => Ok(rate),
        _ => Err("takes a number of changes a second, such as 200".into()),
    }
}

pub(super) async fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    if std::env::var_os("RUST_LOG").is_some() {
        crate::telemetry::init_logs();
    }
    // A Ctrl-C that comes while the stage is set counts once it is.
    let mut signals = Signals::listen()?;
    heading("Sequin: from a stream of records to a table in PostgreSQL")?;
    let stage = Stage::set(&arguments).await?;
    let played = play(&stage, &arguments, &mut signals).await;
    let cleared = signals.unless_asked_to_end(stage.clear()).await;
    let ended_in_order = played? && cleared.is_some();
    Ok(ExitCode::from(if ended_in_order { 0 } else { FAILED }))
}

/// Plays all scenes, and tells whether everything was as it should be.
async fn play(stage: &Stage, arguments: &DemoArguments, signals: &mut Signals) -> anyhow::Result<bool> {
    let prepared = signals.unless_asked_to_end(Box::pin(scenes::prepare(stage, arguments))).await;
    let played = match prepared {
        Some(Ok(scene)) => live::run(stage, scene, arguments, signals).await,
        Some(Err(error)) => Err(error),
        None => {
            note("\nended before it was live");
            Ok(true)
        }
    };
    if let Some(sql) = stage.leftovers() {
        say(format_args!("{sql} -- removes what the demo made in your database"))?;
    }
    played
}

/// Begins a section.
fn heading(title: &str) -> anyhow::Result<()> {
    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    print(format_args!("\n{bold}{title}{plain}"))
}

/// Prints a line of a section.
fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    print(indented(text))
}
