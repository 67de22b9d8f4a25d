//! `sequin status`: how everything is, on one screen.

use std::process::ExitCode;

use clap::Args;
use serde_json::{json, value::RawValue};

use super::{
    FAILED,
    answers::{Alerting, Consumer, Incident, List, Reason, Target},
    client::Client,
    consumer, incident,
    output::{Output, print},
    problem::indented,
    target,
    watch::{Look, Shown, Thing, Watch},
};

/// How many incidents one screen has room for.
const INCIDENTS: &str = "20";

#[derive(Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    watch: Watch,
}

pub(super) async fn run(client: &Client, output: Output, arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    if arguments.watch.watch {
        let look = async || Ok(look(client).await?.into_look());
        return arguments.watch.run(output, look).await;
    }
    let seen = look(client).await?;
    match output {
        Output::Json => print(seen.to_json()?)?,
        Output::Table => print(seen.page())?,
    }
    Ok(ExitCode::from(if matches!(seen, Seen::Ready(_)) { 0 } else { FAILED }))
}

/// What one look at everything shows.
enum Seen {
    NotReady { problem: String, detail: String },
    Ready(Box<Ready>),
}

struct Ready {
    targets: Vec<Shown<Target>>,
    consumers: Vec<Shown<Consumer>>,
    /// The newest of those that are not over.
    incidents: Vec<Shown<Incident>>,
    /// Whether there are more.
    has_more_incidents: bool,
    alerting: Shown<Alerting>,
}

async fn look(client: &Client) -> anyhow::Result<Seen> {
    if let Err(problem) = client.ready().await? {
        return Ok(Seen::NotReady { problem: problem.to_string(), detail: problem.detail });
    }
    let targets = client.list(&["targets"], &[]).await?.read::<List<_>>()?.data;
    let consumers = client.list(&["consumers"], &[]).await?.read::<List<_>>()?.data;
    let newest = [("open", "true"), ("limit", INCIDENTS)];
    let List { data: incidents, next, .. } = client.get_with(&["incidents"], &newest).await?.read()?;
    let alerting = client.get(&["alerting"]).await?.read()?;
    Ok(Seen::Ready(Box::new(Ready { targets, consumers, incidents, has_more_incidents: next.is_some(), alerting })))
}

#[derive(serde::Serialize)]
struct Everything<'a> {
    ready: bool,
    targets: Vec<&'a RawValue>,
    consumers: Vec<&'a RawValue>,
    incidents: Vec<&'a RawValue>,
    has_more_incidents: bool,
    alerting: &'a RawValue,
}

impl Seen {
    fn to_json(&self) -> anyhow::Result<String> {
        let Ready { targets, consumers, incidents, has_more_incidents, alerting } = match self {
            Self::NotReady { detail, .. } => return Ok(json!({"ready": false, "detail": detail}).to_string()),
            Self::Ready(ready) => &**ready,
        };
        Ok(serde_json::to_string(&Everything {
            ready: true,
            targets: targets.iter().map(|target| &*target.json).collect(),
            consumers: consumers.iter().map(|consumer| &*consumer.json).collect(),
            incidents: incidents.iter().map(|incident| &*incident.json).collect(),
            has_more_incidents: *has_more_incidents,
            alerting: &alerting.json,
        })?)
    }

    fn page(&self) -> String {
        match self {
            Self::NotReady { problem, .. } => format!("not ready: {problem}"),
            Self::Ready(ready) => page(ready),
        }
    }

    fn into_look(self) -> Look {
        let page = self.page();
        let is_all = matches!(&self, Self::Ready(ready) if !ready.has_more_incidents);
        let things = match self {
            Self::NotReady { problem, detail } => {
                let json = json!({"ready": false, "detail": detail}).to_string();
                vec![Thing { name: "the server".into(), state: format!("not ready: {problem}"), json }]
            }
            Self::Ready(seen) => {
                let ready = Thing {
                    name: "the server".into(),
                    state: "ready".into(),
                    json: json!({"ready": true}).to_string(),
                };
                let targets = seen.targets.iter().map(target::thing);
                let consumers = seen.consumers.iter().map(consumer::thing);
                let incidents = seen.incidents.iter().map(incident::thing);
                let alerting = alerting_thing(&seen.alerting);
                std::iter::once(ready).chain(targets).chain(consumers).chain(incidents).chain([alerting]).collect()
            }
        };
        Look { page, things, is_all }
    }
}

/// Whether what people are told arrives, to be watched.
fn alerting_thing(shown: &Shown<Alerting>) -> Thing {
    let health = &shown.resource.health;
    let facts = std::iter::once(&health.status).chain(health.reasons.iter().map(|reason| &reason.summary));
    Thing::of("alerting".into(), facts.cloned().collect::<Vec<_>>().join(", "), &shown.json)
}

fn page(Ready { targets, consumers, incidents, has_more_incidents, alerting }: &Ready) -> String {
    let targets: Vec<&Target> = targets.iter().map(|target| &target.resource).collect();
    let consumers: Vec<&Consumer> = consumers.iter().map(|consumer| &consumer.resource).collect();
    let mut sections = vec!["ready\n".to_owned()];
    match targets.as_slice() {
        [] => sections.push("no targets yet: `sequin target add` adds one\n".into()),
        _ => sections.push(target::table(targets.iter().copied()).to_string()),
    }
    match consumers.as_slice() {
        [] => sections.push("no consumers yet: `sequin consumer add` adds one\n".into()),
        _ => sections.push(consumer::table(consumers.iter().copied()).to_string()),
    }
    if !incidents.is_empty() {
        let mut table = incident::table(incidents.iter().map(|incident| &incident.resource)).to_string();
        if *has_more_incidents {
            table.push_str("… and more: `sequin incident list` lists them\n");
        }
        sections.push(table);
    }
    let of_targets = targets.iter().map(|target| ("target", &target.name, &target.health.reasons));
    let of_consumers = consumers.iter().map(|consumer| ("consumer", &consumer.name, &consumer.health.reasons));
    for (kind, name, reasons) in of_targets.chain(of_consumers) {
        sections.extend(reasons.iter().map(|reason| about(&format!("{kind} {name}"), reason)));
    }
    sections.extend(alerting.resource.health.reasons.iter().map(|reason| about("alerting", reason)));
    sections.join("\n")
}

fn about(what: &str, reason: &Reason) -> String {
    format!("{what}:\n{}\n", indented(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_incidents_the_newest_are_shown_and_that_there_are_more() {
        let incident = json!({
            "id": "i", "kind": "consumer_behind", "status": "open", "title": "Consumer c is behind", "consumers": 1,
            "reason": {"summary": "s", "fix": "f"}, "opened_at": "2026-01-01T00:00:00Z", "notices": [],
        });
        let alerting = json!({
            "recipients": [], "webhooks": [], "reminder_minutes": 0, "email": {}, "pending": 0,
            "health": {"status": "healthy", "reasons": []},
        });
        for has_more_incidents in [true, false] {
            let seen = Seen::Ready(Box::new(Ready {
                targets: Vec::new(),
                consumers: Vec::new(),
                incidents: serde_json::from_value(json!([incident])).expect("incidents"),
                has_more_incidents,
                alerting: serde_json::from_value(alerting.clone()).expect("settings"),
            }));
            let json: serde_json::Value = serde_json::from_str(&seen.to_json().expect("JSON")).expect("JSON");
            assert_eq!(json["has_more_incidents"], has_more_incidents);
            let look = seen.into_look();
            assert!(look.page.contains("Consumer c is behind"), "{}", look.page);
            assert_eq!(look.page.contains("and more"), has_more_incidents, "{}", look.page);
            assert_eq!(look.is_all, !has_more_incidents, "what is not shown is not gone");
        }
    }
}
