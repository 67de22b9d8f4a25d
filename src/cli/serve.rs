//! `sequin serve`: runs the service until it is asked to end, or can't go on.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use sequin_actors::EngineSettings;

use super::{FAILED, WRONG_USAGE, WrongUsage, output::note, signals::Signals};
use crate::{
    config::{Backend, Config, ConfigError},
    service::Service,
    telemetry::{self, Telemetry, TelemetrySettings},
};

#[derive(Args)]
pub(super) struct ServeArguments {
    /// A TOML file with the settings, under the names that they have in the environment, which wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let (config, telemetry) = match set_up(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            note(format_args!("error: {error}"));
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    // Before anything starts: a signal that comes meanwhile ends it in order too.
    let mut signals = Signals::listen()?;
    let served = serve(&config, &mut signals).await;
    // A second signal ends at once, here too.
    let told = signals.unless_asked_to_end(telemetry.shutdown()).await;
    served.map(|code| if told.is_some() { code } else { ExitCode::from(FAILED) })
}

/// Reads the settings, and has the process tell of itself from there on.
fn set_up(file: Option<&Path>) -> Result<(Config, Telemetry), ConfigError> {
    let (config, settings) = (Config::load(file)?, TelemetrySettings::load()?);
    let telemetry = telemetry::init(&settings, &config)?;
    Ok((config, telemetry))
}

/// Runs the service until the end.
async fn serve(config: &Config, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let started = Service::start(config, EngineSettings::default()).await;
    let mut service = started.map_err(|error| match error {
        error if error.is_wrong_setting() => anyhow::Error::new(WrongUsage(error.to_string())),
        error => error.into(),
    })?;
    if config.admin_token.is_none()
        && let Backend::Embedded(directory) = &config.backend
    {
        note(format_args!("the admin token is in {}", directory.join("admin-token").display()));
    }
    let failure = signals.unless_asked_to_end(service.failed()).await;
    match &failure {
        Some(failure) => tracing::error!(%failure, "the node can't go on, and ends"),
        None => note("ending: every consumer finishes what is in flight; a second signal ends at once"),
    }
    let stopped = signals.unless_asked_to_end(service.stop()).await;
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok(ExitCode::from(if stopped.is_some() { 0 } else { FAILED })),
    }
}
