//! `sequin node …`: the nodes that run consumers.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    answers::{List, Node},
    client::Client,
    figures,
    output::{Output, print},
    table::{Column, Table},
};

#[derive(Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes, with the targets that each of them owns.
    List,
}

pub(super) async fn run(client: &Client, output: Output, command: &NodeCommand) -> anyhow::Result<ExitCode> {
    let NodeCommand::List = command;
    let answer = client.list(&["nodes"], &[]).await?;
    match output {
        Output::Json => print(answer.text())?,
        Output::Table => {
            let mut table = Table::new([Column::Left("node"), Column::Left("seen"), Column::Left("targets")]);
            for Node { name, targets, seen_at } in answer.read::<List<Node>>()?.data {
                let targets: Vec<String> = targets.into_iter().filter_map(|target| target.name).collect();
                table.row([name, figures::ago(seen_at), targets.join(" ")]);
            }
            print(table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
