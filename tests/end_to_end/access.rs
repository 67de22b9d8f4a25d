//! Who is let in, and for what: tokens, their roles and their end, and the limit on failed logins.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use sequin_actors::store::{SqliteStore, Store};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::{Answer, Api, TOKEN, send},
    eventually, holds,
    model::{contact, lines, sync},
    node::Node,
};

/// Makes a token, and returns what its bearer sends.
async fn token(api: &Api, name: &str, role: &str) -> String {
    let made = api.post("/v1/tokens", &json!({"name": name, "role": role})).await.expect(201);
    made["token"].as_str().expect("a token").to_owned()
}

async fn ask_as(api: &Api, token: &str, method: Method, path: &str) -> Answer {
    send(api.anonymous(method, path).bearer_auth(token)).await
}

async fn publish_as(api: &Api, token: &str) -> Answer {
    let request = api.anonymous(Method::POST, "/v1/records").header("content-type", "application/x-ndjson");
    send(request.bearer_auth(token).body(lines(&[contact(sync(1), 1, json!({}))]))).await
}

fn nowhere(name: &str) -> Value {
    json!({"name": name, "connection": {"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"}})
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("a time: {value}"))
}

#[tokio::test]
async fn a_token_is_shown_once_and_is_addressed_by_id_or_name() {
    let node = Node::start().await;
    let api = &node.api;
    let ends = Utc::now() + TimeDelta::days(1);
    let request = json!({"name": "ci", "role": "publish", "expires_at": ends});
    let made = api.request(Method::POST, "/v1/tokens").json(&request).send().await.expect("an answer");
    assert_eq!((made.status().as_u16(), made.headers()["cache-control"].to_str().ok()), (201, Some("no-store")));
    assert!(made.headers().contains_key("etag"));
    let mut made: Value = made.json().await.expect("JSON");
    let secret = made["token"].take();
    let secret = secret.as_str().expect("a token");
    // 256 bits in base64.
    assert_eq!(secret.strip_prefix("sequin_").map(str::len), Some(43), "{secret}");
    made.as_object_mut().expect("an object").remove("token");
    assert_eq!((&made["name"], &made["role"], &made["last_used_at"]), (&json!("ci"), &json!("publish"), &Value::Null));
    assert_eq!(time(&made["expires_at"]), ends);
    assert!((time(&made["created_at"]) - Utc::now()).abs() < TimeDelta::minutes(1), "{made}");

    let id = made["id"].as_str().expect("an id");
    for path in [format!("/v1/tokens/{id}"), "/v1/tokens/ci".into()] {
        let read = api.get(&path).await;
        assert!(read.etag.is_some());
        assert_eq!(read.expect(200), made);
    }
    for name in ["b", "c"] {
        token(api, name, "read").await;
    }
    let listed = api.pages("/v1/tokens").await;
    assert_eq!(listed[0], made);
    assert_eq!(listed.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["ci", "b", "c"]);
    assert!(listed.iter().all(|one| one.get("token").is_none()), "{listed:?}");
}

#[tokio::test]
async fn a_token_is_refused_with_the_names_of_the_fields_that_are_wrong() {
    let node = Node::start().await;
    let past = Utc::now() - TimeDelta::seconds(1);
    for (request, field) in [
        (json!({}), "name"),
        (json!({"name": "ci"}), "role"),
        (json!({"name": "ci", "role": "owner"}), "role"),
        (json!({"name": "c i", "role": "read"}), "name"),
        (json!({"name": "settings", "role": "read"}), "name"),
        (json!({"name": Uuid::new_v4(), "role": "read"}), "name"),
        (json!({"name": "ci", "role": "read", "expires_at": past}), "expires_at"),
        (json!({"name": "ci", "role": "read", "expires_at": "tomorrow"}), "expires_at"),
        (json!({"name": "ci", "role": "read", "token": "mine"}), "token"),
    ] {
        assert_eq!(node.api.post("/v1/tokens", &request).await.expect_problem(422), [field], "{request}");
    }
    token(&node.api, "ci", "read").await;
    let again = json!({"name": "ci", "role": "publish"});
    assert_eq!(node.api.post("/v1/tokens", &again).await.expect_problem(409), ["name"]);
    for query in ["limit=0", "after=x", "role=read"] {
        node.api.get(&format!("/v1/tokens?{query}")).await.expect_problem(422);
    }
    let broken = node.api.request(Method::POST, "/v1/tokens").body("{");
    send(broken).await.expect_problem(400);
    for uuid_or_name in [Uuid::new_v4().to_string(), "nobody".into()] {
        node.api.get(&format!("/v1/tokens/{uuid_or_name}")).await.expect_problem(404);
        node.api.delete(&format!("/v1/tokens/{uuid_or_name}")).await.expect_problem(404);
    }
}

/// What anybody may ask who may look, and what changes nothing.
const LOOKS: [(Method, &str); 17] = [
    (Method::GET, "/v1/targets"),
    (Method::GET, "/v1/targets/app"),
    (Method::HEAD, "/v1/targets/app"),
    (Method::GET, "/v1/targets/app/setup-sql"),
    (Method::POST, "/v1/targets/app/check"),
    (Method::GET, "/v1/consumers"),
    (Method::GET, "/v1/consumers/forward"),
    (Method::GET, "/v1/consumers/forward/create-table-sql"),
    (Method::GET, "/v1/consumers/forward/quarantine"),
    (Method::POST, "/v1/consumers/forward/verify"),
    (Method::GET, "/v1/providers"),
    (Method::GET, "/v1/syncs"),
    (Method::GET, "/v1/nodes"),
    (Method::GET, "/v1/incidents"),
    (Method::GET, "/v1/alerting"),
    (Method::GET, "/v1/tokens"),
    (Method::GET, "/v1/tokens/reader"),
];

/// What only an administrator may.
const CHANGES: [(Method, &str); 23] = [
    (Method::POST, "/v1/targets"),
    (Method::PATCH, "/v1/targets/app"),
    (Method::DELETE, "/v1/targets/app"),
    (Method::POST, "/v1/consumers"),
    (Method::PATCH, "/v1/consumers/forward"),
    (Method::DELETE, "/v1/consumers/forward"),
    (Method::POST, "/v1/consumers/forward/start"),
    (Method::POST, "/v1/consumers/forward/pause"),
    (Method::POST, "/v1/consumers/forward/resume"),
    (Method::POST, "/v1/consumers/forward/rewind"),
    (Method::POST, "/v1/consumers/forward/quarantine/retry"),
    (Method::DELETE, "/v1/consumers/forward/quarantine"),
    (Method::DELETE, "/v1/consumers/forward/quarantine/1"),
    (Method::PUT, "/v1/syncs/1"),
    (Method::DELETE, "/v1/syncs/1"),
    (Method::DELETE, "/v1/syncs/1/collections/contact"),
    (Method::PUT, "/v1/alerting"),
    (Method::POST, "/v1/alerting/test"),
    (Method::POST, "/v1/alerting/compare-secrets"),
    (Method::POST, "/v1/tokens"),
    (Method::DELETE, "/v1/tokens/reader"),
    (Method::GET, "/v1/audit"),
    (Method::POST, "/v1/rotate-keys"),
];

#[tokio::test]
async fn a_token_may_do_what_its_role_says_and_is_told_which_role_the_rest_takes() {
    let node = Node::start().await;
    let api = &node.api;
    api.post("/v1/targets", &nowhere("app")).await.expect(201);
    let consumer = json!({"name": "forward", "target": "app", "filter": {"provider": "hubspot"},
        "schema": "sequin", "table": "forward"});
    api.post("/v1/consumers", &consumer).await.expect(201);
    let (admin, reader) = (token(api, "admin", "admin").await, token(api, "reader", "read").await);
    let publisher = token(api, "publisher", "publish").await;

    for (method, path) in LOOKS {
        for (bearer, status) in [(&admin, 200), (&reader, 200), (&publisher, 403)] {
            let answer = ask_as(api, bearer, method.clone(), path).await;
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        }
    }
    for (method, path) in CHANGES {
        for bearer in [&reader, &publisher] {
            let refused = ask_as(api, bearer, method.clone(), path).await;
            let detail = refused.body["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("takes a token of the role admin"), "{method} {path}: {refused:?}");
            refused.expect_problem(403);
        }
        let answer = ask_as(api, TOKEN, Method::GET, "/v1/consumers/forward").await.expect(200);
        assert_eq!(answer["state"], "draft", "{method} {path} was refused, and did something");
    }
    let refused = publish_as(api, &reader).await;
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("role publish")), "{refused:?}");
    refused.expect_problem(403);
    for bearer in [&publisher, &admin] {
        assert_eq!(publish_as(api, bearer).await.expect(200)["accepted"], 1);
    }
    // A token that may do everything is as good as the one of the settings.
    let made = api.anonymous(Method::POST, "/v1/targets").bearer_auth(&admin).json(&nowhere("other"));
    send(made).await.expect(201);
    ask_as(api, &admin, Method::DELETE, "/v1/targets/other").await.expect(204);
    // There is nothing, for whoever asks.
    for bearer in [&admin, &reader, &publisher] {
        ask_as(api, bearer, Method::GET, "/v1/nothing").await.expect_problem(404);
    }
    for (method, path) in [(Method::GET, "/v1/rotate-keys"), (Method::POST, "/v1/audit"), (Method::PUT, "/v1/tokens")] {
        ask_as(api, &admin, method, path).await.expect_problem(405);
    }
    for (method, path) in LOOKS.into_iter().chain(CHANGES) {
        assert_eq!(send(api.anonymous(method.clone(), path)).await.status, 401, "{method} {path}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_after_a_restart_and_others_are_not() {
    let mut node = Node::start().await;
    let (revoked, kept) = (token(&node.api, "revoked", "read").await, token(&node.api, "kept", "read").await);
    let wrong = node.api.request(Method::DELETE, "/v1/tokens/revoked").header("if-match", "\"0\"");
    send(wrong).await.expect_problem(412);
    for bearer in [&revoked, &kept] {
        ask_as(&node.api, bearer, Method::GET, "/v1/targets").await.expect(200);
    }
    node.api.delete("/v1/tokens/revoked").await.expect(204);
    node.api.delete("/v1/tokens/revoked").await.expect_problem(404);
    for _ in 0..2 {
        let refused = node.api.anonymous(Method::GET, "/v1/targets").bearer_auth(&revoked).send().await;
        let refused = refused.expect("an answer");
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        assert_eq!(refused.status(), 401);
        ask_as(&node.api, &kept, Method::GET, "/v1/targets").await.expect(200);
        node.sigkill();
        node.start_again().await;
    }
    // Its name is free again, and is another token's then.
    let other = token(&node.api, "revoked", "read").await;
    assert_ne!(other, revoked);
    ask_as(&node.api, &other, Method::GET, "/v1/targets").await.expect(200);
    ask_as(&node.api, &revoked, Method::GET, "/v1/targets").await.expect_problem(401);
}

#[tokio::test]
async fn what_another_node_does_to_a_token_counts_as_soon_as_the_store_tells_of_it() {
    let node = Node::start().await;
    let bearer = token(&node.api, "elsewhere", "read").await;
    let id = node.api.get("/v1/tokens/elsewhere").await.expect(200)["id"].as_str().expect("an id").to_owned();
    // The embedded store hears of what another process writes at its own next write.
    let store = SqliteStore::open(&node.data().join("control.db")).await.expect("the store");
    let key = format!("token/{id}");
    let entry = store.get(&key).await.expect("read").expect("the token");
    store.delete(&key, None).await.expect("revoked");
    token(&node.api, "one", "read").await;
    let answered = async |status: u16| {
        let answer = ask_as(&node.api, &bearer, Method::GET, "/v1/targets").await;
        holds(answer.status == status, || format!("it is answered {}", answer.status))
    };
    eventually("the token to be refused", async || answered(401).await).await;
    store.put(&key, entry.value).await.expect("made");
    token(&node.api, "two", "read").await;
    eventually("the token to be taken", async || answered(200).await).await;
}

#[tokio::test]
async fn an_expired_token_is_refused_and_says_that_it_has_expired() {
    let node = Node::start().await;
    let ends = Utc::now() + TimeDelta::seconds(2);
    let made = node.api.post("/v1/tokens", &json!({"name": "brief", "role": "read", "expires_at": ends})).await;
    let secret = made.expect(201)["token"].as_str().expect("a token").to_owned();
    assert_eq!(ask_as(&node.api, &secret, Method::GET, "/v1/targets").await.status, 200);
    let refused = eventually("the token to expire", async || {
        let answer = ask_as(&node.api, &secret, Method::GET, "/v1/targets").await;
        holds(answer.status == 401, || format!("it is answered {}", answer.status)).map(|()| answer)
    })
    .await;
    assert!(Utc::now() >= ends);
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("expired")), "{refused:?}");
    // It is still there to be seen, and to be revoked.
    node.api.get("/v1/tokens/brief").await.expect(200);
    node.api.delete("/v1/tokens/brief").await.expect(204);
}

#[tokio::test]
async fn a_token_tells_when_it_was_last_used() {
    let node = Node::start().await;
    let publisher = token(&node.api, "publisher", "publish").await;
    token(&node.api, "idle", "read").await;
    publish_as(&node.api, &publisher).await.expect(200);
    let used = eventually("the use to be written down", async || {
        let token = node.api.get("/v1/tokens/publisher").await.expect(200);
        holds(!token["last_used_at"].is_null(), || token.to_string()).map(|()| time(&token["last_used_at"]))
    })
    .await;
    assert!((used - Utc::now()).abs() < TimeDelta::minutes(1));
    // Not each time.
    publish_as(&node.api, &publisher).await.expect(200);
    assert_eq!(time(&node.api.get("/v1/tokens/publisher").await.expect(200)["last_used_at"]), used);
    assert!(node.api.get("/v1/tokens/idle").await.expect(200)["last_used_at"].is_null());
}

#[tokio::test]
async fn who_fails_to_log_in_too_often_is_told_to_wait_and_who_has_a_token_is_let_in_all_the_same() {
    let node = Node::start().await;
    let reader = token(&node.api, "reader", "read").await;
    let mut statuses = Vec::new();
    let limited = loop {
        let request = node.api.anonymous(Method::GET, "/v1/targets").bearer_auth("not-a-token-of-this-node");
        let answer = request.send().await.expect("an answer");
        statuses.push(answer.status().as_u16());
        assert!(statuses.len() <= 100, "{statuses:?}");
        if answer.status() == 429 {
            break answer;
        }
    };
    assert!(statuses.len() > 10 && statuses[..statuses.len() - 1].iter().all(|status| *status == 401), "{statuses:?}");
    let wait: u64 = limited.headers()["retry-after"].to_str().ok().and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    let problem: Value = limited.json().await.expect("a problem");
    assert_eq!(problem["status"], 429, "{problem}");
    for bearer in [TOKEN, &reader] {
        ask_as(&node.api, bearer, Method::GET, "/v1/targets").await.expect(200);
    }
    // Who forgets the token altogether is told so.
    send(node.api.anonymous(Method::GET, "/v1/targets")).await.expect_problem(401);
}

#[tokio::test]
async fn an_answer_says_what_its_request_is_called_as_the_log_does() {
    let node = Node::start().await;
    let ask = async |path: &str, id: Option<&str>| {
        let mut request = node.api.request(Method::GET, path);
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let answer = request.send().await.expect("an answer");
        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
        (id, answer.json::<Value>().await.unwrap_or_default())
    };
    assert_eq!(ask("/v1/targets", Some("of-my-own-1")).await.0, "of-my-own-1");
    assert_eq!(ask("/livez", Some("of-my-own-2")).await.0, "of-my-own-2");
    let (id, problem) = ask("/v1/targets/nobody", Some("of-my-own-3")).await;
    assert_eq!((id.as_str(), &problem["request_id"]), ("of-my-own-3", &json!("of-my-own-3")));
    for ill_formed in [None, Some("two words"), Some("x\"y"), Some(&*"x".repeat(200))] {
        let (id, problem) = ask("/v1/nothing", ill_formed).await;
        assert!(Uuid::parse_str(&id).is_ok(), "{id}");
        assert_eq!(problem["request_id"], json!(id));
    }
    let refused =
        node.api.anonymous(Method::GET, "/v1/targets").bearer_auth("wrong").header("x-request-id", "of-my-own-4");
    assert_eq!(send(refused).await.body["request_id"], "of-my-own-4");
    let log = node.log();
    let line = log.lines().find(|line| line.contains("a request was refused")).expect("a line of the log");
    assert!(line.contains("of-my-own-4") && line.contains("/v1/targets"), "{line}");
}
