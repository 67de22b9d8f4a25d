//! `sequin plan`, `apply` and `export`: targets, consumers and alerting as a file says.

mod alerting;
mod calls;
mod difference;
mod document;
mod export;
mod plan;
mod shape;
mod url;
mod variables;
mod wanted;

use std::{env, io::Read, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use self::{document::Wrong, plan::Plan};
use super::{
    answers::List,
    client::Client,
    output::{Output, note, print},
};

/// What the file holds, for `--help`.
const FILE: &str = "\
The file holds `targets` and `consumers`, lists of what the API takes, and whom to tell in `alerting`, so that one file is enough to make everything again:

  targets:
    - name: app
      connection:
        host: db.example.com
        database: app
        username: sequin
        password: ${TARGET_APP_PASSWORD}
        tls: { mode: verify-full }
        bastion:                         # where the database is behind one
          host: bastion.example.com
          username: sequin
          private_key: ${TARGET_APP_BASTION_KEY}
          host_key: ssh-ed25519 AAAA…
    - name: by-url
      connection:
        url: ${DATABASE_URL}             # postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full
  consumers:
    - name: hubspot-to-app
      target: app
      filter: { provider: hubspot }    # or { sync: UUID }
      schema: sequin
      table: hubspot
      create_table: true               # make it where it is not there, and Sequin's user may
      state: running                   # or paused, or draft; running is the default
  alerting:
    recipients: [ops@example.com]
    webhooks:
      - name: chat
        url: ${WEBHOOK_CHAT_URL}
        format: slack                  # or cloud_events, the default

${VAR} takes a value from the environment, ${VAR:-default} has a default, and $${ stands for ${ itself. What is left out is as it is
when the API is not told, but a secret or a bastion's host_key that is left out stays as it is, and `password: null` removes it. Secrets are never shown.
The server never gives them away either: it is asked whether the file's are the same, and so another password is a change.";

#[derive(Args)]
#[command(after_long_help = FILE)]
pub(super) struct FileArguments {
    /// The file, in YAML; `-` reads standard input.
    #[arg(short, long)]
    file: PathBuf,
    /// Delete what is there and not in the file.
    #[arg(long)]
    prune: bool,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{file} can't be used as it is:\n{}", listed(.wrong))]
struct WrongFile {
    file: String,
    wrong: Vec<Wrong>,
}

fn listed(wrong: &[Wrong]) -> String {
    let mut lines: Vec<&Wrong> = wrong.iter().collect();
    lines.sort_by_key(|wrong| wrong.line);
    lines.iter().map(|wrong| format!("  {wrong}")).collect::<Vec<_>>().join("\n")
}

/// Shows what `apply` would do.
pub(super) async fn plan(client: &Client, output: Output, arguments: &FileArguments) -> anyhow::Result<ExitCode> {
    show(output, &compare(client, arguments).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes what is there what the file says.
pub(super) async fn apply(client: &Client, output: Output, arguments: &FileArguments) -> anyhow::Result<ExitCode> {
    let plan = compare(client, arguments).await?;
    if output == Output::Table {
        show(output, &plan)?;
    }
    calls::make(client, output, &plan.calls).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what is there as a file.
pub(super) async fn export(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let targets = client.list(&["targets"], &[]).await?.read::<List<Value>>()?.data;
    let consumers = client.list(&["consumers"], &[]).await?.read::<List<Value>>()?.data;
    let alerting = client.get(&["alerting"]).await?.read()?;
    let exported = export::export(targets, consumers, &alerting)?;
    if !exported.variables.is_empty() {
        let variables: Vec<String> = exported.variables.into_iter().collect();
        note(format_args!("secrets stay here: set {} where you apply the file", variables.join(", ")));
    }
    match output {
        // JSON is YAML as well.
        Output::Json => print(serde_saphyr::from_str::<Value>(&exported.yaml)?)?,
        Output::Table => print(exported.yaml)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn compare(client: &Client, arguments: &FileArguments) -> anyhow::Result<Plan> {
    let (name, text) = read(arguments)?;
    let wrong = |wrong| WrongFile { file: name.clone(), wrong };
    let wanted = wanted::parse(&text, &|name| env::var(name).ok()).map_err(wrong)?;
    Ok(plan::plan(client, wanted, arguments.prune).await?.map_err(wrong)?)
}

/// What the file is called, and what it holds.
fn read(FileArguments { file, .. }: &FileArguments) -> anyhow::Result<(String, String)> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
        return Ok(("standard input".into(), text));
    }
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    Ok((name, text))
}

fn show(output: Output, plan: &Plan) -> anyhow::Result<()> {
    match output {
        Output::Json => print(serde_json::to_string(plan)?),
        Output::Table => print(plan),
    }
}
