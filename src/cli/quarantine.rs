//! `sequin quarantine …`: the records that a consumer's database refused.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};

use super::{
    answers::{List, Quarantined},
    client::{Answer, Client},
    consumer, figures,
    output::{Output, note, print},
    table::{Column, Table},
};

#[derive(Subcommand)]
pub(super) enum QuarantineCommand {
    /// List the records that the database refused, and why.
    List {
        /// The consumer's name or id.
        consumer: String,
    },
    /// Try all of a consumer's records again now.
    Retry {
        /// The consumer's name or id.
        consumer: String,
    },
    /// Give up records, until newer versions of them come.
    Discard(DiscardArguments),
}

#[derive(Args)]
pub(super) struct DiscardArguments {
    /// The consumer's name or id.
    consumer: String,
    #[command(flatten)]
    which: WhichRecords,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhichRecords {
    /// The record, by the `sequin_id` that the list shows.
    #[arg(value_name = "SEQUIN_ID")]
    record: Option<uuid::Uuid>,
    /// All of the consumer's records that are in quarantine.
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(client: &Client, output: Output, command: QuarantineCommand) -> anyhow::Result<ExitCode> {
    match command {
        QuarantineCommand::List { consumer } => {
            list(output, &client.list(&["consumers", &consumer, "quarantine"], &[]).await?)?;
        }
        QuarantineCommand::Retry { consumer } => {
            let answer = client.post(&["consumers", &consumer, "quarantine", "retry"]).await?;
            note(format_args!("consumer {consumer} tries its records again; what is refused once more stays listed"));
            consumer::show(output, &answer)?;
        }
        QuarantineCommand::Discard(DiscardArguments { consumer, which }) => {
            let quarantine = ["consumers", &consumer, "quarantine"];
            match which.record.map(|record| record.to_string()) {
                Some(record) => {
                    client.delete(&[&quarantine[..], &[&record]].concat()).await?;
                    note(format_args!("record {record} is discarded; a newer version of it is applied as usual"));
                }
                None => {
                    client.delete(&quarantine).await?;
                    note(format_args!("all are discarded; newer versions of them are applied as usual"));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    let List { data: records, unreadable, .. } = answer.read::<List<Quarantined>>()?;
    if records.is_empty() {
        if unreadable.is_empty() {
            note("nothing is in quarantine");
        }
        return Ok(());
    }
    print(table(&records))?;
    print("")?;
    ways_out(&records).into_iter().try_for_each(|(sqlstate, fix)| print(format_args!("{sqlstate}: {fix}")))
}

fn table(records: &[Quarantined]) -> Table {
    let mut table = Table::new([
        Column::Left("sequin_id"),
        Column::Left("sync"),
        Column::Left("collection"),
        Column::Left("upstream id"),
        Column::Right("updated_idx"),
        Column::Right("attempts"),
        Column::Left("last refused"),
        Column::Left("next try"),
        Column::Left("sqlstate"),
        Column::Left("message"),
    ]);
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    for record in records {
        table.row([
            record.sequin_id.clone(),
            record.sync_id.clone(),
            record.collection_id.clone(),
            record.upstream_id.clone(),
            record.updated_idx.to_string(),
            figures::count(record.attempts),
            time(record.last_failed_at),
            record.retry_at.map_or("when asked".into(), time),
            record.sqlstate().to_owned(),
            record.message.clone(),
        ]);
    }
    table
}

/// What to do about each kind of refusal: said once, however many records there are.
fn ways_out(records: &[Quarantined]) -> Vec<(&str, &str)> {
    let mut ways = Vec::new();
    for way in records.iter().map(|record| (record.sqlstate(), record.fix.as_str())) {
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}
