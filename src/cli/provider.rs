//! `sequin provider …`: the providers whose records are in the stream.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    answers::{List, Provider},
    client::Client,
    output::{Output, print},
    table::{Column, Table},
};

#[derive(Subcommand)]
pub(super) enum ProviderCommand {
    /// List the providers.
    List,
}

pub(super) async fn run(client: &Client, output: Output, command: &ProviderCommand) -> anyhow::Result<ExitCode> {
    let ProviderCommand::List = command;
    let answer = client.list(&["providers"], &[]).await?;
    match output {
        Output::Json => print(answer.text())?,
        Output::Table => {
            let mut table = Table::new([Column::Left("provider")]);
            answer.read::<List<Provider>>()?.data.into_iter().for_each(|provider| table.row([provider.name]));
            print(table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
