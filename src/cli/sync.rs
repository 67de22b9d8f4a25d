//! `sequin sync …`: the syncs whose records are in the stream.

use std::process::ExitCode;

use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    answers::{Cleanup, List, Removed, Sync},
    client::{Answer, Client},
    connection::parse_metadata,
    figures,
    output::{Output, note, print},
    table::{Column, Table},
};

#[derive(Subcommand)]
pub(super) enum SyncCommand {
    /// List the syncs.
    List {
        /// Those of this provider only.
        #[arg(long)]
        provider: Option<String>,
    },
    /// Show a sync.
    #[command(visible_alias = "show")]
    Get(Which),
    /// Say what a sync is known by, before its first record or later: rows that are written from now on have it.
    Set(SetArguments),
    /// Remove a sync's records from the stream. Rows stay in the tables; the SQL that removes those is printed.
    Delete(Which),
    /// Remove the records of one of a sync's collections from the stream, likewise.
    DeleteCollection {
        #[command(flatten)]
        sync: Which,
        /// The collection's id, such as `contact`.
        collection: String,
    },
}

#[derive(Args)]
pub(super) struct Which {
    /// The sync's id.
    sync: String,
}

#[derive(Args)]
pub(super) struct SetArguments {
    #[command(flatten)]
    sync: Which,
    /// The provider that it belongs to: needed before its first record.
    #[arg(long)]
    provider: Option<String>,
    /// What you know it by; without, by nothing.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Notes of yours, a JSON object; without, none.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Map<String, Value>>,
}

pub(super) async fn run(client: &Client, output: Output, command: SyncCommand) -> anyhow::Result<ExitCode> {
    match command {
        SyncCommand::List { provider } => {
            let parameters: Vec<_> = provider.iter().map(|provider| ("provider", provider.as_str())).collect();
            let answer = client.list(&["syncs"], &parameters).await?;
            match output {
                Output::Json => print(answer.text())?,
                Output::Table => print(table(&answer.read::<List<Sync>>()?.data))?,
            }
        }
        SyncCommand::Get(Which { sync }) => show(output, &client.get(&["syncs", &sync]).await?)?,
        SyncCommand::Set(SetArguments { sync: Which { sync }, provider, external_id, metadata }) => {
            let request = json!({"provider": provider, "external_id": external_id, "metadata": metadata});
            show(output, &client.put_json(&["syncs", &sync], &request).await?)?;
        }
        SyncCommand::Delete(Which { sync }) => removed(output, &client.delete(&["syncs", &sync]).await?)?,
        SyncCommand::DeleteCollection { sync: Which { sync }, collection } => {
            removed(output, &client.delete(&["syncs", &sync, "collections", &collection]).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(output: Output, answer: &Answer) -> anyhow::Result<()> {
    match output {
        Output::Json => print(answer.text()),
        Output::Table => print(table(&[answer.read()?])),
    }
}

/// Prints the SQL that is left to run, a statement a line.
fn removed(output: Output, answer: &Answer) -> anyhow::Result<()> {
    let Removed { removed, cleanup_sql } = answer.read()?;
    let records = figures::counted(removed, "record");
    let rows = if cleanup_sql.is_empty() { "no table holds any of it" } else { "to remove the rows from the tables:" };
    note(format_args!("{records} removed from the stream; {rows}"));
    if output == Output::Json {
        return print(answer.text());
    }
    cleanup_sql.iter().try_for_each(|Cleanup { consumer, target, sql }| {
        print(format_args!("-- in target {target}, written by consumer {consumer}\n{sql}"))
    })
}

fn table(syncs: &[Sync]) -> Table {
    let mut table = Table::new([
        Column::Left("sync"),
        Column::Left("provider"),
        Column::Left("external id"),
        Column::Right("records"),
        Column::Right("last updated_idx"),
        Column::Left("last published"),
    ]);
    for sync in syncs {
        table.row([
            sync.id.clone(),
            sync.provider.clone(),
            sync.external_id.clone().unwrap_or_default(),
            figures::count(sync.records),
            sync.last_updated_idx.to_string(),
            sync.last_published_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default(),
        ]);
    }
    table
}
