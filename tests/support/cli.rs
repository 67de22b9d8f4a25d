//! The command line, as a person uses it at a terminal: the program itself.

use serde_json::Value;

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
    let mut command = sequin();
    command.args(arguments.split(' ')).env("SEQUIN_URL", api.url()).env("SEQUIN_TOKEN", TOKEN);
    let output = tokio::process::Command::from(command).output().await.expect("the program");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
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
