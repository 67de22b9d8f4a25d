//! `sequin sync …`: the syncs whose records are in the stream.

use std::process::ExitCode;

use chrono::SecondsFormat;
use clap::Subcommand;

use super::{
    answers::{List, Sync},
    client::Client,
    figures,
    output::{Output, print},
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
    Get {
        /// Its id.
        sync: String,
    },
}

pub(super) async fn run(client: &Client, output: Output, command: SyncCommand) -> anyhow::Result<ExitCode> {
    let answer = match &command {
        SyncCommand::List { provider } => {
            let parameters: Vec<_> = provider.iter().map(|provider| ("provider", provider.as_str())).collect();
            client.list(&["syncs"], &parameters).await?
        }
        SyncCommand::Get { sync } => client.get(&["syncs", sync]).await?,
    };
    match (output, &command) {
        (Output::Json, _) => print(answer.text())?,
        (Output::Table, SyncCommand::List { .. }) => print(table(&answer.read::<List<Sync>>()?.data))?,
        (Output::Table, SyncCommand::Get { .. }) => print(table(&[answer.read()?]))?,
    }
    Ok(ExitCode::SUCCESS)
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
