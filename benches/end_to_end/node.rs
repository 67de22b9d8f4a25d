//! The program itself, `sequin serve`, in a process of its own, and a client that speaks HTTP to it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use sequin::demo::{crm::PROVIDER, postgres::ThrowawayPostgres};
use sequin_actors::{model::TableName, store::Keyring};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cpu;

const TOKEN: &str = "a-token-for-benches-0123456789";

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that is gone, process and files of its own, when this is dropped.
pub(crate) struct Node {
    client: Client,
    url: String,
    process: Process,
    _directory: Option<TempDir>,
}

/// Ended when it is dropped.
struct Process(Child);

impl Node {
    /// Starts it on a directory of its own.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it on a directory of its own, with further settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let backend = format!("embedded:{}", data.display());
        let settings = [&[("SEQUIN_BACKEND", backend.as_str())], settings].concat();
        let node = Self::launch(&settings, &Keyring::generate_base64(), &data.with_extension("log")).await;
        Self { _directory: Some(directory), ..node }
    }

    /// Starts it on a data directory whose secrets are sealed with `key`, and waits until it is ready. It logs beside the
    /// directory.
    pub(crate) async fn start_on(data: &Path, key: &str) -> Self {
        let backend = format!("embedded:{}", data.display());
        Self::launch(&[("SEQUIN_BACKEND", &backend)], key, &data.with_extension("log")).await
    }

    /// Starts one of a cluster on NATS, and waits until it is ready.
    pub(crate) async fn join(nats: &str, key: &str, name: &str, log: &Path) -> Self {
        Self::launch(&[("SEQUIN_BACKEND", nats), ("SEQUIN_NODE", name)], key, log).await
    }

    async fn launch(settings: &[(&str, &str)], key: &str, log: &Path) -> Self {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())).to_string();
        let process = Process(serve(settings, key, &address, log));
        let node = Self { client: Client::new(), url: format!("http://{address}"), process, _directory: None };
        node.until("ready", async || node.call(Method::GET, "/readyz", None).await.is_some()).await;
        node
    }

    /// Makes the server a target, and forwards all records to a table of it.
    pub(crate) async fn forward_to(&self, server: &ThrowawayPostgres, table: &TableName) {
        self.forward_by(&to(server), table).await;
    }

    /// The same, with a server that is reached so.
    pub(crate) async fn forward_by(&self, connection: &Value, table: &TableName) {
        self.post("/v1/targets", &json!({"name": "bench", "connection": connection})).await;
        let consumer = json!({
            "name": "bench", "target": "bench", "filter": {"provider": PROVIDER},
            "schema": table.schema, "table": table.table,
        });
        self.post("/v1/consumers", &consumer).await;
        self.post("/v1/consumers/bench/start", &Value::Null).await;
        self.consumer_is("live", |consumer| consumer["state"] == "live").await;
    }

    /// Waits until everything up to this position is in the table.
    pub(crate) async fn reaches(&self, idx: i64) {
        self.consumer_is("there", |consumer| consumer["checkpoint"].as_i64() >= Some(idx)).await;
    }

    async fn consumer_is(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let consumer = async || self.call(Method::GET, "/v1/consumers/bench", None).await;
        self.until(what, async || consumer().await.as_ref().is_some_and(&is)).await;
    }

    /// Publishes lines of JSON; gives the position of the last record, once it is acknowledged.
    pub(crate) fn publish(&self, lines: Bytes) -> impl Future<Output = i64> + Send + use<> {
        let request = self.client.post(format!("{}/v1/records", self.url)).body(lines);
        let accepted = answer(request.header("content-type", "application/x-ndjson"));
        async move { accepted.await["last_updated_idx"].as_i64().expect("a position") }
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

    /// What whoever scrapes it gets.
    pub(crate) async fn metrics(&self) -> String {
        let request = self.client.get(format!("{}/metrics", self.url)).bearer_auth(TOKEN);
        let answer = request.send().await.expect("an answer").error_for_status().expect("metrics");
        answer.text().await.expect("text")
    }

    /// The CPU time that it has spent.
    pub(crate) fn cpu(&self) -> Duration {
        cpu::spent_by(self.process.0.id())
    }

    /// A line of what the kernel says of its memory, in MiB: `VmRSS`, what it takes, or `VmHWM`, the most that it has
    /// taken. See <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>.
    pub(crate) fn memory_mib(&self, line: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).expect("it runs");
        let line = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).expect("such a line");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib / 1024.0
    }

    /// Sends it a signal: `TERM`, as a service manager does, or `KILL`.
    pub(crate) fn signal(&self, signal: &str) {
        let told = Command::new("kill").args(["-s", signal, &self.process.0.id().to_string()]).status();
        assert!(told.expect("kill").success(), "the node has ended by itself");
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.process.0.try_wait().expect("its status").is_none() {
            assert!(Instant::now() < deadline, "the node has not ended after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn post(&self, path: &str, body: &Value) {
        assert!(self.call(Method::POST, path, Some(body)).await.is_some(), "{path} was refused");
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Option<Value> {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(TOKEN);
        let request = body.filter(|body| !body.is_null()).into_iter().fold(request, reqwest::RequestBuilder::json);
        let answer = request.send().await.ok()?.error_for_status().ok()?.bytes().await.ok()?;
        Some(serde_json::from_slice(&answer).unwrap_or_default())
    }

    async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is().await {
            assert!(Instant::now() < deadline, "the node is not {what} after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How the server is reached plainly.
pub(crate) fn to(server: &ThrowawayPostgres) -> Value {
    json!({
        "host": "127.0.0.1", "port": server.port(), "database": "postgres", "username": server.superuser(),
        "password": server.password(), "tls": {"mode": "disable"},
    })
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Asks again if the node has been too busy to answer.
async fn answer(request: RequestBuilder) -> Value {
    let request = request.bearer_auth(TOKEN);
    loop {
        let answer = request.try_clone().expect("its body is in memory").send().await.expect("an answer");
        if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
            let answer = answer.error_for_status().expect("done").bytes().await.expect("a body");
            return serde_json::from_slice(&answer).expect("JSON");
        }
    }
}

/// With the settings that a new user has, but for these, and nothing of our environment's.
fn serve(settings: &[(&str, &str)], key: &str, address: &str, log: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sequin"));
    let is_ours = |name: &str| ["SEQUIN_", "OTEL_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    let log = File::options().create(true).append(true).open(log).expect("a log");
    command
        .arg("serve")
        .env("SEQUIN_LISTEN", address)
        .envs(settings.iter().copied())
        .env("SEQUIN_ADMIN_TOKEN", TOKEN)
        .env("SEQUIN_ENCRYPTION_KEY", key)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log);
    command.spawn().expect("the program")
}
