//! The command line, as a person uses it at a terminal: the program itself.

use std::process::Stdio;

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{
    api::{Api, TOKEN},
    node::sequin,
};

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `sequin` with these arguments, which have no spaces in them, against a node.
pub(crate) async fn run(api: &Api, arguments: &str) -> Ran {
    run_with(api, arguments, &[], "").await
}

/// The same, with further variables in the environment, and something to read.
pub(crate) async fn run_with(api: &Api, arguments: &str, variables: &[(&str, &str)], stdin: &str) -> Ran {
    let mut child = command(api, arguments).envs(variables.iter().copied()).spawn().expect("the program");
    let mut input = child.stdin.take().expect("its input");
    // One that ends without reading it has no need of it.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.expect("its end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `sequin` with these arguments, against a node, all that it reads and prints by pipes.
pub(crate) fn command(api: &Api, arguments: &str) -> Command {
    let mut command = sequin();
    command.args(arguments.split(' ')).env("SEQUIN_URL", api.url()).env("SEQUIN_TOKEN", TOKEN);
    let mut command = Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Ran {
    /// What it printed, if it did what was asked.
    #[track_caller]
    pub(crate) fn expect_done(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// The JSON that it printed, likewise.
    #[track_caller]
    pub(crate) fn expect_json(self) -> Value {
        serde_json::from_str(&self.expect_done()).expect("JSON")
    }
}
