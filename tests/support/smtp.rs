//! A mail server on this machine: a real one, aiosmtpd, that keeps what it is sent and fails when it is told; gone afterwards.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// A message as the server took it, and as Python's own parser reads it.
#[derive(Debug, Deserialize)]
pub(crate) struct Mail {
    /// The sender of the envelope.
    pub(crate) from: String,
    /// The recipients of the envelope.
    pub(crate) to: Vec<String>,
    /// Whether it came encrypted.
    pub(crate) encrypted: bool,
    /// Who had logged in.
    pub(crate) login: Option<String>,
    /// Names and values, decoded, in their order.
    pub(crate) headers: Vec<(String, String)>,
    /// Its media type.
    pub(crate) kind: String,
    /// Those of its parts.
    pub(crate) parts: Vec<String>,
    /// What is against the rules.
    pub(crate) defects: Vec<String>,
    pub(crate) text: String,
    pub(crate) html: String,
}

impl Mail {
    /// The value of a header that is there once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next().unwrap_or_else(|| panic!("no {name}: {:?}", self.headers));
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }
}

/// A server. Dropping it ends it, and so does the end of this process.
pub(crate) struct Smtp {
    folder: TempDir,
    arguments: Vec<String>,
    port: u16,
    /// `None` while it does not run.
    process: Option<Child>,
}

impl Smtp {
    /// Starts a server with more arguments than most have (see `smtp.py`).
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// Starts a server that finds these files in its folder.
    pub(crate) fn start_with(arguments: &[&str], files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { folder, arguments, port: 0, process: None };
        server.start_again();
        server
    }

    /// Starts it again, at the same port and with what it has kept.
    pub(crate) fn start_again(&mut self) {
        let script = workspace().join("tests/support/smtp.py");
        let mut process = Command::new(env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
            .arg(script)
            .arg(self.folder.path())
            .args(["--port", &self.port.to_string()])
            .args(&self.arguments)
            .env("PYTHONPATH", tools().join("python"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python 3");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("the server's port");
        self.port = line.trim().parse().expect("a mail server that starts: deploy/setup.sh installs aiosmtpd");
        self.process = Some(process);
    }

    /// Ends it, without a word.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Errors mean that it has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How it fails from now on (see `smtp.py`); `{}` is not at all.
    pub(crate) fn behave(&self, behaviour: &Value) {
        // What is looked at while it is written is whole.
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("behaviour"));
        fs::write(&new, behaviour.to_string()).expect("a file");
        fs::rename(new, file).expect("a file");
    }

    /// What it has taken.
    pub(crate) fn messages(&self) -> Vec<Mail> {
        let kept = fs::read_to_string(self.folder.path().join("messages")).unwrap_or_default();
        // The last line may be under way.
        let whole = kept.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a message")).collect()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where `deploy/setup.sh` puts what it installs.
fn tools() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from).join("tools")
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_root = |place: &&Path| place.join("Cargo.lock").is_file();
    package.ancestors().find(is_root).expect("the workspace has a Cargo.lock").into()
}
