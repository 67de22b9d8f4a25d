//! Publishing: all records of a request or none, and a refusal says which lines are wrong, and how.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Answer, Api, send},
    model::{HUBSPOT, Version, contact, lines, sync},
    node::Node,
};

/// A record with one field other than usual; `Null` leaves the field out.
fn record(field: &str, value: Value) -> Value {
    let mut record = contact(sync(1), 1, json!({})).to_json();
    match value {
        Value::Null => drop(record.as_object_mut().expect("an object").remove(field)),
        value => record[field] = value,
    }
    record
}

/// The line and the field of each error of a refusal.
fn refused(answer: Answer) -> Vec<(u64, String)> {
    let lines: Vec<_> =
        answer.body["errors"].as_array().expect("errors").iter().map(|error| error["line"].as_u64()).collect();
    let fields = answer.expect_problem(422);
    lines.into_iter().map(|line| line.expect("a line")).zip(fields).collect()
}

async fn post(api: &Api, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    send(api.request(Method::POST, "/v1/records").header("content-type", content_type).body(body)).await
}

#[tokio::test]
async fn records_come_as_lines_or_as_an_array() {
    let node = Node::start().await;
    let two = [contact(sync(1), 1, json!({})), contact(sync(1), 2, json!({}))];
    let accepted = |last: i64| json!({"accepted": 2, "last_updated_idx": last});
    assert_eq!(node.api.publish(lines(&two)).await.expect(200), accepted(2));
    let spaced = lines(&two).replace('\n', " \r\n\n");
    assert_eq!(node.api.publish(spaced).await.expect(200), accepted(4));
    let array = Value::Array(two.iter().map(Version::to_json).collect());
    assert_eq!(node.api.post("/v1/records", &array).await.expect(200), accepted(6));
    let typed = post(&node.api, "application/x-ndjson; charset=utf-8", lines(&two)).await;
    assert_eq!(typed.expect(200), accepted(8));
    assert_eq!(node.api.publish("").await.expect(200)["accepted"], 0);
    assert_eq!(node.api.post("/v1/records", &json!([])).await.expect(200)["accepted"], 0);
}

#[tokio::test]
async fn a_wrong_record_is_refused_by_line_and_field_and_nothing_is_accepted() {
    let node = Node::start().await;
    for (wrong, field) in [
        (record("opp", json!("upsert")), "opp"),
        (record("op", json!("merge")), "op"),
        (record("provider", json!("Hub Spot")), "provider"),
        (record("provider", Value::Null), "provider"),
        (record("sync_id", json!("acme")), "sync_id"),
        (record("sync_id", Value::Null), "sync_id"),
        (record("sync_metadata", json!([1])), "sync_metadata"),
        (record("sync_external_id", json!(7)), "sync_external_id"),
        (record("collection_id", json!("")), "collection_id"),
        (record("upstream_id", json!("x".repeat(1025))), "upstream_id"),
        (record("upstream_id", json!(101)), "upstream_id"),
        (record("payload", Value::Null), "payload"),
        (record("sequin_id", json!("101")), "sequin_id"),
        (record("upstream_updated_at", json!("yesterday")), "upstream_updated_at"),
        (record("upstream_created_at", json!("+12023-03-01T00:00:00Z")), "upstream_created_at"),
    ] {
        let good = record("op", json!("upsert"));
        let answer = node.api.publish(format!("{good}\n\n{wrong}\n{good}\n")).await;
        assert_eq!(refused(answer), [(3, field.to_owned())], "{wrong}");
        let answer = node.api.post("/v1/records", &json!([good, wrong, good])).await;
        assert_eq!(refused(answer), [(2, field.to_owned())], "{wrong}");
    }
    let two = format!("{}\n{{\n{}\n", record("payload", Value::Null), record("provider", json!("")));
    let answer = node.api.publish(two).await;
    assert_eq!(refused(answer).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3]);
    let none = json!({"data": [], "next": null});
    assert_eq!(node.api.get("/v1/syncs").await.expect(200), none);
    assert_eq!(node.api.get("/v1/providers").await.expect(200), none);
    // What was refused took no position.
    let published = node.api.publish(record("op", json!("upsert")).to_string()).await.expect(200);
    assert_eq!(published["last_updated_idx"], 1);
}

#[tokio::test]
async fn what_is_no_record_at_all_is_refused() {
    let node = Node::start().await;
    for body in ["null", "7", "\"text\"", "[1", "{\"op\":\"upsert\"", "{} {}"] {
        let answer = node.api.publish(body).await;
        assert_eq!(refused(answer)[0].0, 1, "{body}");
    }
    let not_text = post(&node.api, "application/x-ndjson", vec![b'"', 0xff, b'"']).await;
    assert_eq!(refused(not_text)[0].0, 1);
    post(&node.api, "application/json", "[{").await.expect_problem(400);
    post(&node.api, "application/json", "{}").await.expect_problem(422);
}

#[tokio::test]
async fn a_sync_belongs_to_one_provider_for_ever() {
    let node = Node::start().await;
    let (ours, theirs) = (record("provider", json!(HUBSPOT)), record("provider", json!("stripe")));
    let answer = node.api.publish(format!("{ours}\n{theirs}\n")).await;
    assert_eq!(refused(answer), [(2, "sync_id".to_owned())]);
    node.api.publish(ours.to_string()).await.expect(200);
    let other = contact(sync(2), 1, json!({})).to_json();
    let answer = node.api.publish(format!("{other}\n{theirs}\n")).await;
    assert_eq!(refused(answer), [(2, "sync_id".to_owned())]);
    assert_eq!(node.api.get("/v1/syncs").await.expect(200)["data"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_as_such() {
    let node = Node::start().await;
    // So little more than is taken that the node has its answer ready when all of it was sent.
    let large = " ".repeat(1_100_000);
    let target = node.api.request(Method::POST, "/v1/targets").header("content-type", "application/json").body(large);
    send(target).await.expect_problem(413);
    let payload = "x".repeat(9 * 1024 * 1024);
    let answer = node.api.publish(record("payload", json!(payload)).to_string()).await;
    assert_eq!(refused(answer), [(1, "payload".to_owned())]);
}
