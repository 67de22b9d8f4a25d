//! `sequin incident …`: what is or was wrong for long enough that somebody should know.

use std::process::ExitCode;

use chrono::SecondsFormat;
use clap::{Args, Subcommand};

use super::{
    answers::{Delivery, Incident, List, Notice},
    client::{Answer, Client},
    figures,
    output::{Output, note, print},
    problem::indented,
    table::{Column, Table},
    watch::{Shown, Thing},
};

#[derive(Subcommand)]
pub(super) enum IncidentCommand {
    /// List what is wrong, the newest first.
    List(ListArguments),
    /// Show an incident, and who was told of it.
    #[command(visible_alias = "get")]
    Show {
        /// Its id.
        incident: String,
    },
}

#[derive(Args)]
pub(super) struct ListArguments {
    /// What is over, too.
    #[arg(long)]
    all: bool,
    /// Those of this kind only, such as `consumer_behind`.
    #[arg(long)]
    kind: Option<String>,
    /// Those of this database only, and of consumers that write to it.
    #[arg(long)]
    target: Option<String>,
    /// Those of this consumer only.
    #[arg(long)]
    consumer: Option<String>,
}

pub(super) async fn run(client: &Client, output: Output, command: &IncidentCommand) -> anyhow::Result<ExitCode> {
    match command {
        IncidentCommand::List(arguments) => {
            let answer = client.list(&["incidents"], &arguments.parameters()).await?;
            match output {
                Output::Json => print(answer.text())?,
                Output::Table => list(&answer, arguments.all)?,
            }
        }
        IncidentCommand::Show { incident } => show(output, &client.get(&["incidents", incident]).await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl ListArguments {
    fn parameters(&self) -> Vec<(&'static str, &str)> {
        let filters = [("kind", &self.kind), ("target", &self.target), ("consumer", &self.consumer)];
        let filters = filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        (!self.all).then_some(("open", "true")).into_iter().chain(filters).collect()
    }
}

fn list(answer: &Answer, is_all: bool) -> anyhow::Result<()> {
    let incidents = answer.read::<List<Incident>>()?.data;
    if incidents.is_empty() {
        note(if is_all { "nothing was wrong" } else { "nothing is wrong; --all shows what was" });
        return Ok(());
    }
    print(table(&incidents))
}

/// The incidents, a line each.
pub(super) fn table<'a>(incidents: impl IntoIterator<Item = &'a Incident>) -> Table {
    let columns = ["opened", "status", "kind", "what", "id"].map(Column::Left);
    let mut table = Table::new(columns);
    for Incident { opened_at, status, kind, title, id, .. } in incidents {
        let cells = [&figures::ago(*opened_at), status, kind, title, id];
        table.row(cells.map(Clone::clone));
    }
    table
}

/// An incident, to be watched.
pub(super) fn thing(shown: &Shown<Incident>) -> Thing {
    let Incident { id, title, .. } = &shown.resource;
    Thing::of(format!("incident {id}"), title.clone(), &shown.json)
}

fn show(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    let incident: Incident = answer.read()?;
    let time = |time: chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut facts = Table::of_facts();
    facts.fact("incident", &incident.title);
    facts.fact("id", &incident.id);
    facts.fact("kind", &incident.kind);
    facts.fact("status", &incident.status);
    facts.fact("opened", time(incident.opened_at));
    if let Some(resolved_at) = incident.resolved_at {
        facts.fact("resolved", time(resolved_at));
    }
    facts.fact("consumers", figures::count(incident.consumers));
    if let Some(url) = &incident.url {
        facts.fact("console", url);
    }
    print(facts)?;
    print(indented(&incident.reason))?;
    for Notice { event, at, deliveries } in incident.notices {
        for Delivery { channel, destination, state, error } in deliveries {
            let error = error.map(|error| format!(": {error}")).unwrap_or_default();
            print(format_args!("{} {event}, {channel} {destination}: {state}{error}", time(at)))?;
        }
    }
    Ok(())
}
