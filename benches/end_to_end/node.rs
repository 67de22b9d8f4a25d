//! The program itself, `sequin serve`, on an empty directory, and a client that speaks HTTP to it.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Client, Method};
use sequin::demo::{crm::PROVIDER, postgres::ThrowawayPostgres};
use sequin_actors::model::TableName;
use serde_json::{Value, json};
use tempfile::TempDir;

const TOKEN: &str = "a-token-for-benches-0123456789";

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that is gone, process and files, when this is dropped.
pub(crate) struct Node {
    client: Client,
    url: String,
    process: Child,
    _directory: TempDir,
}

impl Node {
    /// Starts it, and waits until it is ready.
    pub(crate) async fn start() -> Self {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let process = serve(directory.path(), &address.to_string());
        let node = Self { client: Client::new(), url: format!("http://{address}"), process, _directory: directory };
        node.until("ready", async || node.call(Method::GET, "/readyz", None).await.is_some()).await;
        node
    }

    /// Makes the server a target, and forwards all records to a table of it.
    pub(crate) async fn forward_to(&self, server: &ThrowawayPostgres, table: &TableName) {
        let connection = json!({
            "host": "127.0.0.1", "port": server.port(), "database": "postgres", "username": server.superuser(),
            "password": server.password(), "tls": {"mode": "disable"},
        });
        self.post("/v1/targets", &json!({"name": "bench", "connection": connection})).await;
        let consumer = json!({
            "name": "bench", "target": "bench", "filter": {"provider": PROVIDER},
            "schema": table.schema, "table": table.table,
        });
        self.post("/v1/consumers", &consumer).await;
        self.post("/v1/consumers/bench/start", &Value::Null).await;
        self.until("live", async || {
            let consumer = self.call(Method::GET, "/v1/consumers/bench", None).await;
            consumer.is_some_and(|consumer| consumer["state"] == "live")
        })
        .await;
    }

    /// Publishes lines of JSON; returns the position of the last record, once it is acknowledged.
    pub(crate) async fn publish(&self, lines: Bytes) -> i64 {
        let request = self.client.post(format!("{}/v1/records", self.url)).bearer_auth(TOKEN);
        let answer =
            request.header("content-type", "application/x-ndjson").body(lines).send().await.expect("an answer");
        let answer = answer.error_for_status().expect("accepted").bytes().await.expect("a body");
        let accepted: Value = serde_json::from_slice(&answer).expect("JSON");
        accepted["last_updated_idx"].as_i64().expect("a position")
    }

    async fn post(&self, path: &str, body: &Value) {
        assert!(self.call(Method::POST, path, Some(body)).await.is_some(), "{path} was refused");
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Option<Value> {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(TOKEN);
        let request = body.filter(|body| !body.is_null()).into_iter().fold(request, |request, body| request.json(body));
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

impl Drop for Node {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// With the settings that a new user has, and nothing of our environment's.
fn serve(directory: &Path, address: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sequin"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEQUIN_")) {
        command.env_remove(name);
    }
    let log = File::create(directory.join("log")).expect("a log");
    command
        .arg("serve")
        .env("SEQUIN_LISTEN", address)
        .env("SEQUIN_BACKEND", format!("embedded:{}", directory.join("data").display()))
        .env("SEQUIN_ADMIN_TOKEN", TOKEN)
        .env_remove("RUST_LOG")
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log);
    command.spawn().expect("the program")
}
