//! A node: the program itself, in a process of its own, so that what it takes is known.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

use super::cpu;

const TOKEN: &str = "a-token-for-benches-0123456789";

/// `sequin serve`, gone when this is dropped.
pub(crate) struct Node {
    process: Child,
    client: Client,
    url: String,
}

impl Node {
    /// Starts it on a data directory whose secrets are sealed with `key`, and waits until it answers. It logs beside the
    /// directory.
    pub(crate) async fn start(data: &Path, key: &str) -> Self {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let log = File::create(data.with_extension("log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sequin"));
        command
            .arg("serve")
            .env("SEQUIN_LISTEN", format!("127.0.0.1:{port}"))
            .env("SEQUIN_BACKEND", format!("embedded:{}", data.display()))
            .env("SEQUIN_ADMIN_TOKEN", TOKEN)
            .env("SEQUIN_ENCRYPTION_KEY", key)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log);
        let url = format!("http://127.0.0.1:{port}");
        let node = Self { process: command.spawn().expect("the program"), client: Client::new(), url };
        while node.client.get(format!("{}/readyz", node.url)).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        node
    }

    /// Publishes lines of JSON; returns once that is acknowledged.
    pub(crate) fn publish(&self, lines: String) -> impl Future<Output = ()> + Send + 'static {
        let request =
            self.client.post(format!("{}/v1/records", self.url)).header("content-type", "application/x-ndjson");
        let answer = answer(request.body(lines));
        async move { drop(answer.await) }
    }

    /// One resource.
    pub(crate) async fn get(&self, path: &str) -> Value {
        answer(self.client.get(format!("{}{path}", self.url))).await
    }

    /// Every item of a list.
    pub(crate) async fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = self.get(&format!("{path}?limit=1000{after}")).await;
            items.append(page["data"].as_array_mut().expect("a list"));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return items,
            }
        }
    }

    /// The CPU time that it has spent.
    pub(crate) fn cpu(&self) -> Duration {
        cpu::spent_by(self.process.id())
    }

    /// A line of what the kernel says of its memory, in MiB: `VmRSS`, what it takes, or `VmHWM`, the most that it has
    /// taken. See <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>.
    pub(crate) fn memory_mib(&self, line: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).expect("such a line");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib / 1024.0
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again if the node has been too busy to answer.
async fn answer(request: RequestBuilder) -> Value {
    let request = request.bearer_auth(TOKEN);
    loop {
        let answer = request.try_clone().expect("its body is in memory").send().await.expect("an answer");
        if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
            return answer.error_for_status().expect("done").json().await.expect("JSON");
        }
    }
}
