//! `sequin rotate-keys`: seals everything under the first of the encryption keys.

use std::process::ExitCode;

use super::{
    FAILED,
    answers::Rotation,
    client::Client,
    figures::counted,
    output::{Output, note, print},
};

pub(super) async fn run(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let answer = client.post(&["rotate-keys"]).await?;
    let Rotation { resealed, unreadable } = answer.read()?;
    match output {
        Output::Json => print(answer.text())?,
        Output::Table => print(format_args!("{} sealed anew", counted(resealed, "document")))?,
    }
    for one in &unreadable {
        note(format_args!("not sealed anew: {}", one.detail));
    }
    if unreadable.is_empty() {
        note("everything is sealed under the first key; the others are needed only for older backups");
        Ok(ExitCode::SUCCESS)
    } else {
        note("keep the other keys: what was not sealed anew may need them");
        Ok(ExitCode::from(FAILED))
    }
}
