//! `sequin migrate`: moves what a data directory holds to a cluster on NATS. It works on both itself, without a node.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    WrongUsage,
    figures::counted,
    output::{Output, note, print},
    progress::{Progress, Unit},
    table::{Column, Table},
};
use crate::{
    config::MigrationConfig,
    service::migration::{Migration, MigrationError, Moved},
};

const EXAMPLES: &str = "\
Examples:
  sequin migrate --from embedded:./sequin-data --to nats://nats-1:4222,nats-2:4222,nats-3:4222

How to come in to NATS, and the name of the cluster, are read from the same settings as those of `sequin serve`: SEQUIN_NATS_USER,
SEQUIN_CLUSTER and so on. Stop the node first. The directory stays as it is. A migration that broke off is run again.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MigrateArguments {
    /// The data directory, of which no node runs.
    #[arg(long, value_name = "embedded:DIRECTORY")]
    from: String,
    /// The servers of a cluster that no node has been started on.
    #[arg(long, value_name = "nats://HOST:PORT,…")]
    to: String,
    /// A TOML file with settings, under the names that they have in the environment, which wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(output: Output, arguments: &MigrateArguments) -> anyhow::Result<ExitCode> {
    let config = MigrationConfig::load(&arguments.from, &arguments.to, arguments.config.as_deref());
    let config = config.map_err(|error| WrongUsage(error.to_string()))?;
    let migration = Migration::open(&config).await.map_err(usage)?;
    let mut progress = Progress::new("Moving", Unit::Records, Some(migration.records().await?));
    let moved = migration.run(&mut |records| progress.advance(records)).await;
    drop(progress);
    let Moved { records, documents } = moved.map_err(usage)?;
    match output {
        Output::Json => {
            let records = records.iter().map(|(provider, records)| (provider.to_string(), (*records).into()));
            let records = serde_json::Value::Object(records.collect());
            print(serde_json::json!({"records": records, "documents": documents}))?;
        }
        Output::Table => {
            let mut table = Table::new([Column::Left("provider"), Column::Right("records")]);
            for (provider, records) in &records {
                table.row([provider.to_string(), records.to_string()]);
            }
            print(table)?;
        }
    }
    note(format_args!(
        "moved, and counted on both sides; so were {} of the control store",
        counted(documents, "document")
    ));
    match migration.key_file() {
        Some(file) => {
            let file = file.display();
            note(format_args!(
                "the nodes need the key that passwords are sealed with: SEQUIN_ENCRYPTION_KEY=$(cat {file})"
            ));
        }
        None => note("the nodes need the same SEQUIN_ENCRYPTION_KEY as before"),
    }
    note("the directory is left as it was: start no node on it again, or two would write to the same tables");
    Ok(ExitCode::SUCCESS)
}

fn usage(error: MigrationError) -> anyhow::Error {
    match error {
        MigrationError::NothingThere(_) => WrongUsage(error.to_string()).into(),
        MigrationError::Service(service) if service.is_wrong_setting() => WrongUsage(service.to_string()).into(),
        error => error.into(),
    }
}
