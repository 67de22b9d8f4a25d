//! What each call refuses, call by call as the API describes them: so one that is added is held to it too.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::openapi::{Call, calls};
use crate::support::{
    api::{Answer, send},
    model::{HUBSPOT, contact, lines, sync},
    node::Node,
};

/// The largest JSON body, but for publications.
const MAX_BODY: usize = 1024 * 1024;

/// A node with one of everything that a path names.
async fn node() -> Node {
    let node = Node::start().await;
    let connection = json!({"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"});
    node.api.post("/v1/targets", &json!({"name": "app", "connection": connection})).await.expect(201);
    let filter = json!({"provider": HUBSPOT});
    let consumer = json!({"name": "forward", "target": "app", "filter": filter, "schema": "s", "table": "t"});
    node.api.post("/v1/consumers", &consumer).await.expect(201);
    node.api.post("/v1/tokens", &json!({"name": "reader", "role": "read"})).await.expect(201);
    node.api.publish(lines(&[contact(sync(1), 1, json!({}))])).await.expect(200);
    node
}

/// The path of a call, to what [`node`] has.
fn path(call: &Call) -> String {
    let known = [
        ("{target}", "app".to_owned()),
        ("{consumer}", "forward".into()),
        ("{sync}", sync(1).to_string()),
        ("{collection}", "contact".into()),
        ("{record}", Uuid::nil().to_string()),
        ("{token}", "reader".into()),
    ];
    known.iter().fold(call.template.clone(), |path, (name, value)| path.replace(name, value))
}

/// The calls that take a JSON object.
fn with_object() -> Vec<Call> {
    let is_object = |call: &Call| {
        let content = call.operation["requestBody"]["content"].as_object();
        content.is_some_and(|content| content.keys().eq(["application/json"]))
    };
    calls().into_iter().filter(is_object).collect()
}

async fn with_body(node: &Node, call: &Call, body: impl Into<reqwest::Body>) -> Answer {
    let request = node.api.request(call.method.clone(), &path(call)).header("content-type", "application/json");
    send(request.body(body)).await
}

#[tokio::test]
async fn a_body_that_is_no_json_or_too_large_or_has_an_unknown_field_is_refused_by_every_call_that_takes_one() {
    let node = node().await;
    let calls = with_object();
    assert!(calls.len() > 4, "the calls that take a body were not found");
    for call in calls {
        let what = format!("{} {}", call.method, call.template);
        for body in ["", "{", "nothing"] {
            assert!(with_body(&node, &call, body).await.expect_problem(400).is_empty(), "{what}: {body}");
        }
        for body in ["[]", "7", "null", "\"{}\""] {
            assert_eq!(with_body(&node, &call, body).await.expect_problem(422), ["body"], "{what}: {body}");
        }
        let unknown = with_body(&node, &call, r#"{"no_such_field": 1}"#).await;
        assert_eq!(unknown.expect_problem(422), ["no_such_field"], "{what}");
        let too_large = with_body(&node, &call, " ".repeat(MAX_BODY + 1)).await;
        let says = too_large.body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(says.contains(&MAX_BODY.to_string()), "{what}: {says}");
        too_large.expect_problem(413);
        let at_the_limit = with_body(&node, &call, " ".repeat(MAX_BODY)).await;
        at_the_limit.expect_problem(400);
    }
}

#[tokio::test]
async fn a_write_that_names_another_revision_is_refused_by_every_call_that_takes_one() {
    let node = node().await;
    let takes_revision = |call: &Call| call.parameters().any(|parameter| parameter["name"] == "If-Match");
    let calls: Vec<_> = calls().into_iter().filter(takes_revision).collect();
    assert!(calls.len() > 8, "the calls that take If-Match were not found");
    for call in calls {
        let what = format!("{} {}", call.method, call.template);
        let path = path(&call);
        assert!(!path.contains('{'), "{what}: say what there is");
        for other in ["\"no-such-revision\"", "W/\"1\"", "nothing"] {
            let request = node.api.request(call.method.clone(), &path).header("if-match", other);
            let request = if call.takes_body() { request.json(&call.example()) } else { request };
            send(request).await.expect_problem(412);
        }
    }
    node.api.get("/v1/targets/app").await.expect(200);
    assert_eq!(node.api.get("/v1/consumers/forward").await.expect(200)["state"], "draft");
}

#[tokio::test]
async fn a_query_that_is_not_as_described_is_refused_by_the_name_of_its_parameter() {
    let node = node().await;
    for call in calls() {
        let parameters: Vec<_> = call.parameters().filter(|parameter| parameter["in"] == "query").collect();
        if parameters.is_empty() {
            continue;
        }
        let what = format!("{} {}", call.method, call.template);
        let path = path(&call);
        let refusal = async |query: String| {
            send(node.api.request(call.method.clone(), &format!("{path}?{query}"))).await.expect_problem(422)
        };
        assert_eq!(refusal("no_such_parameter=1".into()).await, ["no_such_parameter"], "{what}");
        for parameter in parameters {
            let name = parameter["name"].as_str().expect("a name");
            assert_eq!(refusal(format!("{name}=1&{name}=1")).await, [name], "{what}: {name} twice");
            let wrong = match name {
                "limit" => &["0", "1001", "-1", "some", ""][..],
                "after" => &["no%20cursor"],
                "sync" => &["acme"],
                "provider" => &["No%20Slug"],
                "state" => &["asleep"],
                "kind" => &["bad_mood"],
                "open" => &["perhaps"],
                _ => &[],
            };
            for value in wrong {
                assert_eq!(refusal(format!("{name}={value}")).await, [name], "{what}: {name}={value}");
            }
        }
    }
}

#[tokio::test]
async fn whatever_is_not_there_is_not_found_by_calls_with_a_body_too() {
    let node = node().await;
    for call in with_object().iter().filter(|call| call.path.contains("nobody")) {
        send(node.api.request(call.method.clone(), &call.path).json(&call.example())).await.expect_problem(404);
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let node = node().await;
    let target = json!({"name": "a b", "pool_size": 0, "connection": {
        "host": "", "port": 0, "database": "", "username": "", "tls": {"mode": "perhaps"},
    }});
    let of_target = [
        "connection.tls.mode",
        "name",
        "connection.host",
        "connection.database",
        "connection.username",
        "connection.port",
        "pool_size",
    ];
    assert_eq!(node.api.post("/v1/targets", &target).await.expect_problem(422), of_target);
    let consumer = json!({"name": "a b", "target": "nobody", "filter": {}, "schema": "", "table": "",
        "lag_threshold_seconds": 0, "lag_threshold_records": 0});
    let of_consumer = ["filter", "target", "name", "schema", "table", "lag_threshold_seconds", "lag_threshold_records"];
    assert_eq!(node.api.post("/v1/consumers", &consumer).await.expect_problem(422), of_consumer);
    let mut fields = node.api.request(Method::PATCH, "/v1/targets/app").json(&target);
    assert_eq!(sorted(send(fields).await.expect_problem(422)), sorted(of_target.map(Into::into).into()));
    fields = node.api.request(Method::PATCH, "/v1/consumers/forward").json(&consumer);
    assert_eq!(sorted(send(fields).await.expect_problem(422)), sorted(of_consumer.map(Into::into).into()));
}

fn sorted(mut fields: Vec<String>) -> Vec<String> {
    fields.sort_unstable();
    fields
}

#[tokio::test]
async fn every_answer_without_a_token_says_which_one_is_wanted() {
    let node = Node::start().await;
    let answer = node.api.anonymous(Method::GET, "/v1/targets").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    let body: Value = answer.json().await.expect("JSON");
    assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("Authorization: Bearer")), "{body}");
}
