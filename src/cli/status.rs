//! `sequin status`: how everything is, on one screen.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

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
};

#[derive(Args)]
pub(super) struct StatusArguments {
    /// Show it again every second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

const EVERY: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) async fn run(client: &Client, output: Output, arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    loop {
        let (is_ready, text) = look(client, output).await?;
        let redraw = arguments.watch && output == Output::Table && std::io::stdout().is_terminal();
        print(format_args!("{}{text}", if redraw { CLEAR } else { "" }))?;
        if !arguments.watch {
            return Ok(ExitCode::from(if is_ready { 0 } else { FAILED }));
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(client: &Client, output: Output) -> anyhow::Result<(bool, String)> {
    if let Err(problem) = client.ready().await? {
        let text = match output {
            Output::Json => json!({"ready": false, "detail": problem.detail}).to_string(),
            Output::Table => format!("not ready: {problem}"),
        };
        return Ok((false, text));
    }
    let targets = client.list(&["targets"], &[]).await?;
    let consumers = client.list(&["consumers"], &[]).await?;
    let text = match output {
        Output::Json => {
            let data = |list: List<Box<RawValue>>| list.data;
            let (targets, consumers) = (data(targets.read()?), data(consumers.read()?));
            let all = Everything { ready: true, targets, consumers };
            serde_json::to_string(&all)?
        }
        Output::Table => page(&targets.read::<List<Target>>()?.data, &consumers.read::<List<Consumer>>()?.data),
    };
    Ok((true, text))
}

#[derive(serde::Serialize)]
struct Everything {
    ready: bool,
    targets: Vec<Box<RawValue>>,
    consumers: Vec<Box<RawValue>>,
}

fn page(targets: &[Target], consumers: &[Consumer]) -> String {
    let mut sections = vec!["ready\n".to_owned()];
    match targets {
        [] => sections.push("no targets yet: `sequin target add` adds one\n".into()),
        _ => sections.push(target::table(targets).to_string()),
    }
    match consumers {
        [] => sections.push("no consumers yet: `sequin consumer add` adds one\n".into()),
        _ => sections.push(consumer::table(consumers).to_string()),
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
