//! `sequin audit`: who changed what, when, and from where.

use std::process::ExitCode;

use chrono::SecondsFormat;
use clap::Args;

use super::{
    answers::{AuditEntry, List},
    client::Client,
    output::{Output, note, print},
    table::{Column, Table},
};

#[derive(Args)]
pub(super) struct AuditArguments {
    /// How many changes to show: the newest.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Show everything that is kept.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

pub(super) async fn run(client: &Client, output: Output, arguments: &AuditArguments) -> anyhow::Result<ExitCode> {
    let answer = if arguments.all {
        client.list(&["audit"], &[]).await?
    } else {
        client.get_with(&["audit"], &[("limit", &arguments.limit.to_string())]).await?
    };
    if output == Output::Json {
        print(answer.text())?;
        return Ok(ExitCode::SUCCESS);
    }
    let list: List<AuditEntry> = answer.read()?;
    if list.data.is_empty() {
        note("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    print(table(list.data))?;
    if list.next.is_some() {
        note("there is more: --limit shows more of it, --all everything");
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: Vec<AuditEntry>) -> Table {
    let mut table = Table::new([
        Column::Left("at"),
        Column::Left("token"),
        Column::Left("action"),
        Column::Left("kind"),
        Column::Left("resource"),
        Column::Right("status"),
        Column::Left("from"),
        Column::Left("request"),
    ]);
    for AuditEntry { at, token, action, resource, status, from, request_id } in entries {
        let name = resource.name.or(resource.id).unwrap_or_default();
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        table.row([at, token.name, action, resource.kind, name, status.to_string(), from, request_id]);
    }
    table
}
