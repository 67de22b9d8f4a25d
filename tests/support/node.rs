//! A node: the program itself, `sequin serve`, as a process.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use tempfile::TempDir;

use super::{
    PATIENCE,
    api::{Api, TOKEN},
    eventually, holds,
};

/// How many ports are tried, each of which somebody else may take before the node does.
const PORTS_TRIED: u32 = 5;

/// How much of a node's log a failed test shows, in bytes.
const LOG_SHOWN: usize = 20_000;

/// A node that is gone, process and files, when this is dropped.
pub(crate) struct Node {
    pub(crate) api: Api,
    process: Child,
    directory: TempDir,
}

impl Node {
    /// Starts a node on an empty directory, and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_on(tempfile::tempdir().expect("a directory")).await
    }

    /// Starts a node whose data lies in the folder `data` of `directory`.
    pub(crate) async fn start_on(directory: TempDir) -> Self {
        Self::start_with(directory, &[]).await
    }

    /// Starts a node likewise, with settings that others don't have.
    pub(crate) async fn start_with(directory: TempDir, settings: &[(&str, &str)]) -> Self {
        let (api, process) = launch(directory.path(), settings).await;
        Self { api, process, directory }
    }

    /// Where its data lies.
    pub(crate) fn data(&self) -> PathBuf {
        data(self.directory.path())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The most memory that it has taken since it started, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(log(self.directory.path())).expect("a log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Asks it to end, as a service manager does, and waits until it has.
    pub(crate) async fn sigterm(&mut self) -> ExitStatus {
        let told = Command::new("kill").args(["-s", "TERM", &self.pid().to_string()]).status().expect("kill");
        assert!(told.success(), "the node has ended by itself");
        self.end().await
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        eventually("the node to end", async || {
            self.process.try_wait().expect("its status").ok_or_else(|| "it runs".to_owned())
        })
        .await
    }

    /// Kills it outright.
    pub(crate) fn sigkill(&mut self) {
        self.process.kill().expect("the kill");
        self.process.wait().expect("its end");
    }

    /// Starts it again on what it left behind.
    pub(crate) async fn start_again(&mut self) {
        self.start_again_with(&[]).await;
    }

    /// Starts it again likewise, with settings that others don't have.
    pub(crate) async fn start_again_with(&mut self, settings: &[(&str, &str)]) {
        (self.api, self.process) = launch(self.directory.path(), settings).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = self.log();
            let shown = log.ceil_char_boundary(log.len().saturating_sub(LOG_SHOWN));
            eprintln!("the node's log:\n{}", &log[shown..]);
        }
    }
}

/// `sequin` with nothing of our environment's settings.
pub(crate) fn sequin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sequin"));
    for (name, _) in std::env::vars_os()
        .filter(|(name, _)| ["SEQUIN_", "OTEL_"].iter().any(|ours| name.to_string_lossy().starts_with(ours)))
    {
        command.env_remove(name);
    }
    command
}

/// `sequin serve`, its data in the folder `data` of `directory`.
fn serve(directory: &Path, port: u16) -> Command {
    let mut command = sequin();
    command
        .arg("serve")
        .env("SEQUIN_LISTEN", format!("127.0.0.1:{port}"))
        .env("SEQUIN_BACKEND", format!("embedded:{}", data(directory).display()))
        .env("SEQUIN_ADMIN_TOKEN", TOKEN)
        .env("RUST_LOG", "info,sequin=debug,sequin_actors=debug")
        .current_dir(directory)
        .stdin(Stdio::null());
    command
}

/// How a start ended that was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The exit status.
    pub(crate) status: Option<i32>,
    /// What was said to standard error.
    pub(crate) lines: Vec<String>,
}

/// Starts a node that must end at once; an empty setting is one that is not set.
pub(crate) async fn refuse_to_start(directory: &Path, settings: &[(&str, &str)]) -> Refusal {
    let mut command = tokio::process::Command::from(serve(directory, free_port()));
    command.envs(settings.iter().copied()).env("RUST_LOG", "error").kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.expect("the start to be refused").expect("the program");
    let lines = String::from_utf8_lossy(&output.stderr).lines().map(ToOwned::to_owned).collect();
    Refusal { status: output.status.code(), lines }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

async fn launch(directory: &Path, settings: &[(&str, &str)]) -> (Api, Child) {
    for _ in 0..PORTS_TRIED {
        let port = free_port();
        let api = Api::new(format!("http://127.0.0.1:{port}"));
        let log = File::options().create(true).append(true).open(log(directory)).expect("a log");
        let stdout = log.try_clone().expect("the log");
        let mut command = serve(directory, port);
        let mut process =
            command.envs(settings.iter().copied()).stdout(stdout).stderr(log).spawn().expect("the program");
        let is_ready = eventually("the node to be ready", async || {
            if process.try_wait().expect("its status").is_some() {
                return Ok(false);
            }
            holds(api.is_ready().await, || "it is not".into()).map(|()| true)
        });
        if is_ready.await {
            return (api, process);
        }
    }
    let log = std::fs::read_to_string(log(directory)).unwrap_or_default();
    panic!("the node does not start:\n{log}");
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn log(directory: &Path) -> PathBuf {
    directory.join("log")
}
