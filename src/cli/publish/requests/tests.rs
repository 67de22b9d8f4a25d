//! Against a server that answers as it is told, and writes down what it was asked.

use std::{collections::HashMap, sync::Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use reqwest::Url;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::cli::problem::{Finding, Problem};

/// What the server saw.
#[derive(Default)]
struct Seen {
    /// How many requests there were, answered or not.
    requests: u64,
    under_way: usize,
    most_under_way: usize,
    /// The records that are in requests under way.
    records: HashSet<String>,
    /// The last number that came of each record.
    last: HashMap<String, u64>,
}

struct Server {
    seen: Mutex<Seen>,
    /// Which requests are refused, and how.
    refusals: HashMap<u64, StatusCode>,
}

async fn start(refusals: HashMap<u64, StatusCode>) -> (Arc<Server>, Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Arc::new(Server { seen: Mutex::default(), refusals });
    let router = Router::new().route("/v1/records", post(publish)).with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (server, Client::new(Url::parse(&url).expect("a URL"), None).expect("a client"))
}

fn lines_of(body: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("JSON");
        (value["upstream_id"].as_str().expect("text").to_owned(), value["payload"].as_u64().expect("a number"))
    };
    body.lines().map(line).collect()
}

async fn publish(State(server): State<Arc<Server>>, body: String) -> Response {
    let lines = lines_of(&body);
    let number = {
        let mut seen = server.seen.lock().expect("the lock");
        seen.requests += 1;
        seen.under_way += 1;
        seen.most_under_way = seen.most_under_way.max(seen.under_way);
        let distinct: HashSet<&String> = lines.iter().map(|(id, _)| id).collect();
        for id in distinct {
            assert!(seen.records.insert(id.clone()), "{id} is in two requests at once");
        }
        seen.requests
    };
    // Later ones may be faster.
    tokio::time::sleep(Duration::from_millis(20 - number % 4 * 5)).await;
    let mut seen = server.seen.lock().expect("the lock");
    seen.under_way -= 1;
    for (id, _) in &lines {
        seen.records.remove(id);
    }
    if let Some(&status) = server.refusals.get(&number) {
        let problem = json!({"status": status.as_u16(), "title": "no", "detail": "not now"});
        return (status, [(header::RETRY_AFTER, "0")], Json(problem)).into_response();
    }
    for (id, version) in &lines {
        assert!(seen.last.insert(id.clone(), *version) <= Some(*version), "an older version of {id} came later");
    }
    Json(json!({"accepted": lines.len(), "last_updated_idx": number})).into_response()
}

fn line(id: u64, version: u64) -> String {
    let sync = Uuid::nil();
    json!({"sync_id": sync, "collection_id": "c", "upstream_id": id.to_string(), "payload": version}).to_string()
}

async fn publish_all(client: &Client, lines: impl Iterator<Item = String>) -> anyhow::Result<Summary> {
    let mut progress = Progress::new("publishing", Unit::Bytes, None).quiet_elsewhere();
    let mut publisher = Publisher::new(client, Sending { parallel: 4, ..Sending::LOCAL }, &mut progress);
    for line in lines {
        publisher.line(line.as_bytes()).await?;
    }
    publisher.finish().await
}

#[tokio::test]
async fn requests_go_at_once_unless_they_share_a_record() {
    let (server, client) = start(HashMap::new()).await;
    let distinct = publish_all(&client, (0..24_000).map(|id| line(id, 0))).await.expect("published");
    assert_eq!(distinct.accepted, 24_000);
    assert_eq!(server.seen.lock().expect("the lock").most_under_way, 4);
    // Each request but the first shares records with the one before; the server finds fault with that.
    let again = (1..12_000).map(|version| line(version % 1500, version));
    assert_eq!(publish_all(&client, again).await.expect("published").accepted, 11_999);
    let seen = server.seen.lock().expect("the lock");
    assert!((0..1500).all(|id| seen.last[&id.to_string()] == 10_500 + id), "a record is not at its last version");
}

#[tokio::test]
async fn what_may_succeed_in_a_while_is_tried_again() {
    let refusals =
        [(1, StatusCode::SERVICE_UNAVAILABLE), (3, StatusCode::TOO_MANY_REQUESTS), (5, StatusCode::BAD_GATEWAY)];
    let (server, client) = start(refusals.into()).await;
    let summary = publish_all(&client, (0..8000).map(|n| line(n % 2500, n))).await.expect("published");
    assert_eq!(summary.accepted, 8000);
    assert_eq!(server.seen.lock().expect("the lock").requests, 4 + 3);
}

#[tokio::test]
async fn what_is_refused_ends_it_and_what_was_published_is_told() {
    let (server, client) = start([(2, StatusCode::UNPROCESSABLE_ENTITY)].into()).await;
    let error = publish_all(&client, (0..100_000).map(|id| line(id, 0))).await.expect_err("a refusal").to_string();
    assert!(error.contains("not now") && error.contains("are published, nothing"), "{error}");
    let requests = server.seen.lock().expect("the lock").requests;
    assert!(requests < 12, "{requests} requests: nothing is sent once a failure is known");
}

#[tokio::test]
async fn lines_whose_fate_is_unknown_are_told_apart_from_those_that_are_refused() {
    let (_server, client) = start(HashMap::new()).await;
    let mut progress = Progress::new("publishing", Unit::Bytes, None).quiet_elsewhere();
    let mut publisher = Publisher::new(&client, Sending::LOCAL, &mut progress);
    publisher.published.add((1, 10));
    for (number, lines, numbers) in [(1, (11, 20), vec![12, 20]), (2, (21, 30), vec![25, 30])] {
        let sent = Sent { records: HashSet::new(), lines, numbers, input_bytes: 0 };
        publisher.sent.insert(number, sent);
    }
    let refused = |status: u16| {
        let finding = Finding { line: Some(1), message: "is missing".into(), ..Finding::default() };
        let problem = Problem { status, detail: "not valid".into(), errors: vec![finding], ..Problem::default() };
        ClientError::Refused { problem: Box::new(problem), retry_after: None }
    };
    let told = publisher.explained([(1, refused(503)), (2, refused(422))].into()).to_string();
    assert!(told.contains("line 25: is missing") && !told.contains("line 12"), "{told}");
    let fate = "lines 1 to 10 are published, nothing of what follows; lines 11 to 20 may be published or not";
    assert!(told.contains(fate), "{told}");
}
