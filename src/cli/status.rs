//! `sequin status`: how everything is, on one screen.

use std::process::ExitCode;

use clap::Args;
use serde_json::{json, value::RawValue};

use super::{
    FAILED,
    answers::{Consumer, List, Reason, Target},
    client::Client,
    consumer,
    output::{Output, print},
    problem::indented,
    target,
    watch::{Look, Shown, Thing, Watch},
};

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
    Ok(ExitCode::from(if matches!(seen, Seen::Ready { .. }) { 0 } else { FAILED }))
}

/// What one look at everything shows.
enum Seen {
    NotReady { problem: String, detail: String },
    Ready { targets: Vec<Shown<Target>>, consumers: Vec<Shown<Consumer>> },
}

async fn look(client: &Client) -> anyhow::Result<Seen> {
    if let Err(problem) = client.ready().await? {
        return Ok(Seen::NotReady { problem: problem.to_string(), detail: problem.detail });
    }
    let targets = client.list(&["targets"], &[]).await?.read::<List<_>>()?.data;
    let consumers = client.list(&["consumers"], &[]).await?.read::<List<_>>()?.data;
    Ok(Seen::Ready { targets, consumers })
}

#[derive(serde::Serialize)]
struct Everything<'a> {
    ready: bool,
    targets: Vec<&'a RawValue>,
    consumers: Vec<&'a RawValue>,
}

impl Seen {
    fn to_json(&self) -> anyhow::Result<String> {
        let (targets, consumers) = match self {
            Self::NotReady { detail, .. } => return Ok(json!({"ready": false, "detail": detail}).to_string()),
            Self::Ready { targets, consumers } => (targets, consumers),
        };
        Ok(serde_json::to_string(&Everything {
            ready: true,
            targets: targets.iter().map(|target| &*target.json).collect(),
            consumers: consumers.iter().map(|consumer| &*consumer.json).collect(),
        })?)
    }

    fn page(&self) -> String {
        match self {
            Self::NotReady { problem, .. } => format!("not ready: {problem}"),
            Self::Ready { targets, consumers } => page(targets, consumers),
        }
    }

    fn into_look(self) -> Look {
        let page = self.page();
        let is_all = matches!(self, Self::Ready { .. });
        let things = match self {
            Self::NotReady { problem, detail } => {
                let json = json!({"ready": false, "detail": detail}).to_string();
                vec![Thing { name: "the server".into(), state: format!("not ready: {problem}"), json }]
            }
            Self::Ready { targets, consumers } => {
                let ready = Thing {
                    name: "the server".into(),
                    state: "ready".into(),
                    json: json!({"ready": true}).to_string(),
                };
                let targets = targets.iter().map(target::thing);
                std::iter::once(ready).chain(targets).chain(consumers.iter().map(consumer::thing)).collect()
            }
        };
        Look { page, things, is_all }
    }
}

fn page(targets: &[Shown<Target>], consumers: &[Shown<Consumer>]) -> String {
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
    let of_targets = targets.iter().map(|target| ("target", &target.name, &target.health.reasons));
    let of_consumers = consumers.iter().map(|consumer| ("consumer", &consumer.name, &consumer.health.reasons));
    for (kind, name, reasons) in of_targets.chain(of_consumers) {
        sections.extend(reasons.iter().map(|reason| about(kind, name, reason)));
    }
    sections.join("\n")
}

fn about(kind: &str, name: &str, reason: &Reason) -> String {
    format!("{kind} {name}:\n{}\n", indented(reason))
}
