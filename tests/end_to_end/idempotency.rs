//! A create that is sent again with its key makes nothing twice.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Answer, send},
    model::HUBSPOT,
    node::Node,
    sshd::Sshd,
};

fn target(name: &str, password: &str) -> Value {
    json!({"name": name, "connection": {"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin", "password": password}})
}

async fn create(node: &Node, path: &str, key: &str, body: &Value) -> Answer {
    send(node.api.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn a_create_that_is_sent_again_answers_with_what_the_first_one_made() {
    let mut node = Node::start().await;
    let app = target("app", "hunter2");
    let first = create(&node, "/v1/targets", "one", &app).await;
    let (etag, first) = (first.etag.clone(), first.expect(201));
    assert!(node.sigterm().await.success());
    node.start_again().await;
    let again = create(&node, "/v1/targets", "one", &app).await;
    assert_eq!((&again.etag, &first["id"]), (&etag, &again.body["id"]));
    again.expect(201);
    // The key of one kind of resource says nothing of another.
    let consumer = json!({"name": "c", "target": "app", "filter": {"provider": HUBSPOT}, "schema": "s", "table": "t"});
    let made = create(&node, "/v1/consumers", "one", &consumer).await.expect(201);
    assert_eq!(create(&node, "/v1/consumers", "one", &consumer).await.expect(201)["id"], made["id"]);
    assert_eq!(node.api.pages("/v1/targets").await.len() + node.api.pages("/v1/consumers").await.len(), 2);

    assert_eq!(
        create(&node, "/v1/targets", "one", &target("app", "another")).await.expect_problem(422),
        ["Idempotency-Key"]
    );
    assert_eq!(create(&node, "/v1/targets", "two", &app).await.expect_problem(409), ["name"]);
    node.api.delete("/v1/consumers/c").await.expect(204);
    create(&node, "/v1/consumers", "one", &consumer).await.expect_problem(409);
    for wrong in [String::new(), "x".repeat(256)] {
        assert_eq!(create(&node, "/v1/targets", &wrong, &app).await.expect_problem(422), ["Idempotency-Key"]);
    }
}

#[tokio::test]
async fn many_that_are_sent_at_once_with_one_key_make_one() {
    let node = Node::start().await;
    let app = target("app", "hunter2");
    let answers = futures_util::future::join_all((0..8).map(|_| create(&node, "/v1/targets", "one", &app))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.contains(&201) && statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    let made: Vec<_> =
        answers.into_iter().filter(|answer| answer.status == 201).map(|answer| answer.body["id"].clone()).collect();
    let targets = node.api.pages("/v1/targets").await;
    assert_eq!(targets.len(), 1);
    assert!(made.iter().all(|id| *id == targets[0]["id"]), "{made:?}");
    // Whoever was refused sends it again.
    assert_eq!(create(&node, "/v1/targets", "one", &app).await.expect(201)["id"], targets[0]["id"]);
}

#[tokio::test]
async fn what_is_refused_uses_no_key_up() {
    let node = Node::start().await;
    assert_eq!(create(&node, "/v1/targets", "one", &target("", "x")).await.expect_problem(422), ["name"]);
    create(&node, "/v1/targets", "one", &target("app", "x")).await.expect(201);
    create(&node, "/v1/targets", "one", &target("app", "x")).await.expect(201);
}

#[tokio::test]
async fn a_target_whose_bastion_was_trusted_is_answered_again_when_that_is_away() {
    let (node, sshd) = (Node::start().await, Sshd::start());
    let bastion = sshd.bastion();
    let mut app = target("app", "hunter2");
    app["connection"]["bastion"] = json!({
        "host": bastion.host, "port": bastion.port, "username": "tunnel", "password": "hunter3", "trust_on_first_use": true,
    });
    let first = create(&node, "/v1/targets", "one", &app).await.expect(201);
    assert_eq!(first["connection"]["bastion"]["host_key"], sshd.host_key());
    drop(sshd);
    assert_eq!(create(&node, "/v1/targets", "one", &app).await.expect(201)["id"], first["id"]);
    let refused = create(&node, "/v1/targets", "two", &app).await;
    assert_eq!(refused.expect_problem(422), ["connection.bastion.host_key"]);
}
