//! The command line: parses it, and dispatches to a file a noun.
//!
//! Results go to standard output; progress and notes to standard error. The exit status is 0, 1 for what failed and 2
//! for wrong usage.

mod alerting;
mod answers;
mod audit;
mod client;
mod connection;
mod consumer;
mod declare;
mod demo;
mod figures;
mod incident;
mod manual;
mod migrate;
mod node;
mod output;
mod problem;
mod progress;
mod provider;
mod publish;
mod quarantine;
mod rotate_keys;
mod serve;
mod signals;
mod status;
mod sync;
mod table;
mod target;
mod token;
mod watch;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use self::{
    client::Server,
    output::{NobodyReads, Output, note},
};
use crate::api;

/// Forwards a durable stream of API records to tables in Postgres databases.
#[derive(Parser)]
#[command(name = "sequin", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    server: Server,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Everywhere")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole thing at work: a stream, a backfill and live changes in a real PostgreSQL.
    Demo(Box<demo::DemoArguments>),
    /// Run the service.
    Serve(serve::ServeArguments),
    /// Move what a data directory holds to a cluster on NATS.
    Migrate(migrate::MigrateArguments),
    /// Print the description of the HTTP API, in OpenAPI 3.1.
    Openapi,
    /// Publish records.
    Publish(publish::PublishArguments),
    /// Show how everything is.
    Status(status::StatusArguments),
    /// The databases that records are forwarded to.
    #[command(subcommand)]
    Target(target::TargetCommand),
    /// What is forwarded, and to which table.
    #[command(subcommand)]
    Consumer(consumer::ConsumerCommand),
    /// The records that a consumer's database refused.
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// The syncs whose records are in the stream.
    #[command(subcommand)]
    Sync(sync::SyncCommand),
    /// What is or was wrong for long enough that somebody should know.
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// Whom to tell of incidents.
    #[command(subcommand)]
    Alerting(alerting::AlertingCommand),
    /// Who may call the API, and what for.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show who changed what.
    Audit(audit::AuditArguments),
    /// Seal all secrets under the first of the keys in `SEQUIN_ENCRYPTION_KEY`, so that the others can go.
    RotateKeys,
    /// The providers whose records are in the stream.
    #[command(subcommand)]
    Provider(provider::ProviderCommand),
    /// The nodes that run consumers.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show what `apply` would change to make targets, consumers and alerting what a file says.
    Plan(declare::FileArguments),
    /// Make targets, consumers and alerting what a file says.
    Apply(declare::FileArguments),
    /// Print the targets, the consumers and the alerting that are there as a file for `apply`; secrets are left to the environment.
    Export,
    /// Print what makes a shell complete this program's arguments.
    Completions(manual::CompletionsArguments),
    /// Print the manual page, or write one for every command.
    Man(manual::ManArguments),
}

/// Wrong usage that only shows after the arguments were parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// How long what runs on may hold up the end of the process.
const SHUTDOWN: Duration = Duration::from_secs(1);

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = runtime.block_on(Box::pin(run(arguments)));
    // What is left is dropped, which closes files in order. What can't be, such as a look-up of a name, has nobody who
    // waits for it.
    runtime.shutdown_timeout(SHUTDOWN);
    outcome.unwrap_or_else(|error| fail(&error))
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { server, output, command } = arguments;
    match command {
        Command::Demo(arguments) => demo::run(*arguments).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Migrate(arguments) => migrate::run(output, &arguments).await,
        Command::Openapi => {
            output::print(api::openapi_json())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Publish(arguments) => publish::run(&server.client()?, output, arguments).await,
        Command::Status(arguments) => status::run(&server.client()?, output, &arguments).await,
        Command::Target(command) => target::run(&server.client()?, output, command).await,
        Command::Consumer(command) => consumer::run(&server.client()?, output, command).await,
        Command::Quarantine(command) => quarantine::run(&server.client()?, output, command).await,
        Command::Sync(command) => sync::run(&server.client()?, output, command).await,
        Command::Incident(command) => incident::run(&server.client()?, output, &command).await,
        Command::Alerting(command) => alerting::run(&server.client()?, output, command).await,
        Command::Token(command) => token::run(&server.client()?, output, command).await,
        Command::Audit(arguments) => audit::run(&server.client()?, output, &arguments).await,
        Command::RotateKeys => rotate_keys::run(&server.client()?, output).await,
        Command::Provider(command) => provider::run(&server.client()?, output, &command).await,
        Command::Node(command) => node::run(&server.client()?, output, &command).await,
        Command::Plan(arguments) => declare::plan(&server.client()?, output, &arguments).await,
        Command::Apply(arguments) => declare::apply(&server.client()?, output, &arguments).await,
        Command::Export => declare::export(&server.client()?, output).await,
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
    }
}

/// Says what went wrong, and with which exit status to end.
fn fail(error: &anyhow::Error) -> ExitCode {
    // Whoever reads the results has seen enough of them.
    if error.is::<NobodyReads>() {
        return ExitCode::SUCCESS;
    }
    note(format_args!("error: {}", with_causes(error.chain())));
    ExitCode::from(if error.is::<WrongUsage>() { WRONG_USAGE } else { FAILED })
}

/// An error with what is behind it, as far as it does not say that itself.
fn with_causes<'a>(errors: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut text = String::new();
    for cause in errors.map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn refusal(line: &str) -> ErrorKind {
        let words = std::iter::once("sequin").chain(line.split(' '));
        Arguments::try_parse_from(words).err().expect("wrong usage").kind()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_cause_that_the_error_tells_already_is_not_told_again() {
        let error = anyhow::anyhow!("address in use").context("can't listen on :1: address in use").context("serving");
        assert_eq!(with_causes(error.chain()), "serving: can't listen on :1: address in use");
    }

    #[test]
    fn a_consumer_takes_a_provider_or_a_sync_and_not_both() {
        let add = "consumer add c --target t --schema s --table t";
        assert_eq!(refusal(add), ErrorKind::MissingRequiredArgument);
        let both = format!("{add} --provider hubspot --sync 0dea6e4e-64b9-4b1c-ac03-2e6b25795c18");
        assert_eq!(refusal(&both), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_quarantine_is_discarded_by_the_record_or_expressly_as_a_whole() {
        assert_eq!(refusal("quarantine discard c"), ErrorKind::MissingRequiredArgument);
        let record = "0dea6e4e-64b9-4b1c-ac03-2e6b25795c18";
        assert_eq!(refusal(&format!("quarantine discard c {record} --all")), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("quarantine discard c everything"), ErrorKind::ValueValidation);
        assert_eq!(refusal("quarantine retry"), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn a_token_has_one_of_three_roles_and_at_most_one_end() {
        assert_eq!(refusal("token create t"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refusal("token create t --role owner"), ErrorKind::InvalidValue);
        let read = "token create t --role read";
        assert_eq!(refusal(&format!("{read} --expires-at tomorrow")), ErrorKind::ValueValidation);
        let both = format!("{read} --expires-in 90d --expires-at 2027-01-31T00:00:00Z");
        assert_eq!(refusal(&both), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("audit --all --limit 3"), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_target_takes_a_url_or_the_parts_of_one() {
        assert_eq!(refusal("target add t"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refusal("target add t postgres://u@h/d --host h"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("target add t --host h --database d"), ErrorKind::MissingRequiredArgument);
        // --url is where the server is, there as everywhere.
        assert_eq!(refusal("target add t --url postgres://u@h/d"), ErrorKind::ValueValidation);
    }
}
