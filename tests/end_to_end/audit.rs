//! The audit log: who changed what, when, and from where.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Api, send},
    eventually, holds,
    model::{HUBSPOT, contact, lines, sync},
    node::Node,
    setup::Setup,
};

fn nowhere(name: &str) -> Value {
    json!({"name": name, "connection": {"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"}})
}

async fn entries(api: &Api) -> Vec<Value> {
    api.get("/v1/audit?limit=1000").await.expect(200)["data"].as_array().expect("a list").clone()
}

/// What was done to what, from the first to the last.
async fn deeds(api: &Api) -> Vec<String> {
    let told = |entry: &Value| {
        let word = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        format!("{} {} {}", word("/action"), word("/resource/kind"), word("/resource/name"))
    };
    entries(api).await.iter().rev().map(told).collect()
}

#[tokio::test]
async fn an_entry_says_who_changed_what_when_and_from_where() {
    let node = Node::start().await;
    let api = &node.api;
    let token = api.post("/v1/tokens", &json!({"name": "ann", "role": "admin"})).await.expect(201);
    let bearer = token["token"].as_str().expect("a token");
    let request = api.anonymous(Method::POST, "/v1/targets").bearer_auth(bearer).header("x-request-id", "of-ann-1");
    let target = send(request.json(&nowhere("app"))).await.expect(201);
    let gone = api.anonymous(Method::DELETE, &format!("/v1/targets/{}", target["id"].as_str().expect("an id")));
    send(gone.bearer_auth(bearer).header("x-request-id", "of-ann-2")).await.expect(204);

    let found = entries(api).await;
    let [deleted, created, minted] = found.as_slice() else { panic!("{found:?}") };
    let at: DateTime<Utc> = created["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    assert!((at - Utc::now()).abs() < TimeDelta::minutes(1), "{created}");
    let who = json!({"id": token["id"], "name": "ann"});
    let what = json!({"kind": "target", "id": target["id"], "name": "app"});
    let expected = json!({
        "id": created["id"], "at": created["at"], "token": who, "action": "create", "resource": what,
        "method": "POST", "path": "/v1/targets", "status": 201, "from": "127.0.0.1", "request_id": "of-ann-1",
    });
    assert_eq!(*created, expected);
    assert_eq!((&deleted["action"], &deleted["resource"], &deleted["status"]), (&json!("delete"), &what, &json!(204)));
    assert_eq!((&deleted["token"], &deleted["request_id"]), (&who, &json!("of-ann-2")));
    assert_eq!(minted["token"], json!({"id": null, "name": "settings"}));
    assert_eq!(minted["resource"], json!({"kind": "token", "id": token["id"], "name": "ann"}));
    assert!(!json!(found).to_string().contains(bearer));
}

#[tokio::test]
async fn what_changes_something_is_told_and_what_does_not_is_not() {
    let setup = Setup::new().await;
    let api = &setup.node.api;
    setup.start_hubspot().await;
    let before = ["create target app", "create consumer hubspot", "start consumer hubspot"];
    assert_eq!(deeds(api).await, before);

    // Publishing, looking, and what is refused.
    api.publish(lines(&[contact(sync(1), 1, json!({}))])).await.expect(200);
    api.act("/v1/targets/app/check").await.expect(200);
    api.act(&format!("/v1/consumers/{HUBSPOT}/verify")).await.expect(200);
    api.get("/v1/targets/app").await.expect(200);
    api.post("/v1/targets", &nowhere("app")).await.expect_problem(409);
    api.post("/v1/targets", &json!({"name": "app"})).await.expect_problem(422);
    api.delete("/v1/targets/app").await.expect_problem(409);
    api.delete("/v1/targets/nobody").await.expect_problem(404);
    send(api.request(Method::DELETE, "/v1/consumers/hubspot").header("if-match", "\"0\"")).await.expect_problem(412);
    assert_eq!(deeds(api).await, before);

    api.patch("/v1/targets/app", &json!({"pool_size": 5})).await.expect(200);
    api.patch("/v1/consumers/hubspot", &json!({"name": "renamed"})).await.expect(200);
    api.patch("/v1/consumers/renamed", &json!({"name": HUBSPOT})).await.expect(200);
    api.delete(&format!("/v1/syncs/{}/collections/contact", sync(1))).await.expect(200);
    setup.act(HUBSPOT, "pause").await;
    setup.act(HUBSPOT, "resume").await;
    api.act(&format!("/v1/consumers/{HUBSPOT}/quarantine/retry")).await.expect(200);
    api.delete(&format!("/v1/consumers/{HUBSPOT}/quarantine")).await.expect(204);
    api.post("/v1/tokens", &json!({"name": "ci", "role": "publish"})).await.expect(201);
    api.delete("/v1/tokens/ci").await.expect(204);
    api.act("/v1/rotate-keys").await.expect(200);
    api.delete(&format!("/v1/consumers/{HUBSPOT}")).await.expect(204);
    let after = [
        "update target app",
        "update consumer hubspot",
        "update consumer renamed",
        "collections.delete sync -",
        "pause consumer hubspot",
        "resume consumer hubspot",
        "quarantine.retry consumer hubspot",
        "quarantine.delete consumer hubspot",
        "create token ci",
        "delete token ci",
        "rotate encryption-key -",
        "delete consumer hubspot",
    ];
    assert_eq!(deeds(api).await[before.len()..], after);
}

#[tokio::test]
async fn the_log_comes_newest_first_in_pages_and_survives_a_crash() {
    let mut node = Node::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        node.api.post("/v1/targets", &nowhere(name)).await.expect(201);
    }
    let names =
        |entries: &[Value]| -> Vec<Value> { entries.iter().map(|one| one["resource"]["name"].clone()).collect() };
    assert_eq!(names(&node.api.pages("/v1/audit").await), ["e", "d", "c", "b", "a"]);
    for query in ["limit=0", "limit=1001", "after=x", "token=ann"] {
        node.api.get(&format!("/v1/audit?{query}")).await.expect_problem(422);
    }
    node.sigkill();
    node.start_again().await;
    assert_eq!(names(&entries(&node.api).await), ["e", "d", "c", "b", "a"]);
}

#[tokio::test]
async fn a_change_is_told_also_if_whoever_asked_for_it_has_gone_away() {
    let node = Node::start().await;
    let api = &node.api;
    // Each waits a little longer than the one before: some leave before it is made, some after, and some in between.
    for number in 0..100 {
        let request =
            api.request(Method::POST, "/v1/tokens").json(&json!({"name": format!("t{number}"), "role": "read"}));
        let _ = tokio::time::timeout(Duration::from_micros(number * 100), request.send()).await;
    }
    let names = |list: &[Value], pointer: &str| -> BTreeSet<String> {
        list.iter().filter_map(|one| one.pointer(pointer)?.as_str().map(ToOwned::to_owned)).collect()
    };
    eventually("every change that was made to be told", async || {
        let made = api.get("/v1/tokens?limit=1000").await.expect(200);
        let made = names(made["data"].as_array().expect("a list"), "/name");
        let told = names(&entries(api).await, "/resource/name");
        holds(made == told, || format!("{made:?} were made, {told:?} are told"))
    })
    .await;
}
