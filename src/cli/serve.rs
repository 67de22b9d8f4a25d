//! `sequin serve`: runs the service until it is asked to end.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use sequin_actors::EngineSettings;

use super::{FAILED, WRONG_USAGE, output::note, signals::Signals};
use crate::{
    config::{Backend, Config},
    service::Service,
    telemetry,
};

#[derive(Args)]
pub(super) struct ServeArguments {
    /// A TOML file with the settings, under the names that they have in the environment, which wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            note(format_args!("error: {error}"));
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    telemetry::init();
    // Before anything starts: a signal that comes meanwhile ends it in order too.
    let mut signals = Signals::listen()?;
    let service = Service::start(&config, EngineSettings::default()).await?;
    if config.admin_token.is_none() {
        let Backend::Embedded(directory) = &config.backend;
        note(format_args!("the admin token is in {}", directory.join("admin-token").display()));
    }
    signals.next().await;
    note("ending: every consumer finishes what is in flight; a second signal ends at once");
    let stopped = signals.unless_asked_to_end(service.stop()).await;
    Ok(ExitCode::from(if stopped.is_some() { 0 } else { FAILED }))
}
