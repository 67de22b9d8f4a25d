//! The command line, as a person uses it at a terminal: the program itself.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    PATIENCE,
    api::{Api, TOKEN},
    eventually,
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
    let output = command(api.url(), arguments).output().await.expect("the program");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The same, with something to read on its standard input.
pub(crate) async fn run_with(api: &Api, arguments: &str, input: &str) -> Ran {
    let mut running = Running::start(api.url(), arguments);
    running.write(input).await;
    running.end().await
}

/// The same, with further variables in the environment.
pub(crate) async fn run_with_variables(api: &Api, arguments: &str, variables: &[(&str, &str)], input: &str) -> Ran {
    let mut command = command(api.url(), arguments);
    command.envs(variables.iter().copied());
    let mut running = Running::of(command);
    running.write(input).await;
    running.end().await
}

fn command(url: &str, arguments: &str) -> Command {
    let mut command = sequin();
    command.args(arguments.split(' ')).env("SEQUIN_URL", url).env("SEQUIN_TOKEN", TOKEN);
    command.into()
}

/// A command that reads what it is told as it runs.
pub(crate) struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it against the node at this URL.
    pub(crate) fn start(url: &str, arguments: &str) -> Self {
        Self::of(command(url, arguments))
    }

    fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program");
        let stdin = child.stdin.take().expect("its standard input");
        let stdout = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        Self { child, stdin, stdout }
    }

    /// Writes to its standard input, which it may have closed.
    pub(crate) async fn write(&mut self, text: &str) {
        let _ = self.stdin.write_all(text.as_bytes()).await;
        let _ = self.stdin.flush().await;
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.stdout.next_line()).await.expect("a line in time");
        line.expect("text").expect("a line")
    }

    /// The next line that it prints with these words in it; what comes before is passed over.
    pub(crate) async fn line_with(&mut self, words: &str) -> String {
        eventually(&format!("a line with {words:?}"), async || {
            let line = self.line().await;
            if line.contains(words) { Ok(line) } else { Err(format!("it says {line:?}")) }
        })
        .await
    }

    /// Asks it to end, as Ctrl-C does; returns its exit status.
    pub(crate) async fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-s", "INT", &pid]).status().await.expect("kill").success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("its end in time").expect("its status").code()
    }

    /// Closes its standard input, and waits for its end.
    pub(crate) async fn end(self) -> Ran {
        let Self { child, stdin, mut stdout } = self;
        drop(stdin);
        let rest = async {
            let mut text = String::new();
            while let Some(line) = stdout.next_line().await.expect("text") {
                text += &line;
                text += "\n";
            }
            text
        };
        let (output, stdout) = tokio::join!(child.wait_with_output(), rest);
        let output = output.expect("its end");
        let stderr = String::from_utf8(output.stderr).expect("text");
        Ran { status: output.status.code(), stdout, stderr }
    }
}

/// That a command has failed, with these words in what it said.
#[track_caller]
pub(crate) fn failed(ran: &Ran, says: &[&str]) {
    assert_eq!(ran.status, Some(1), "{ran:?}");
    for says in says {
        assert!(ran.stderr.contains(says), "{says}: {ran:?}");
    }
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
