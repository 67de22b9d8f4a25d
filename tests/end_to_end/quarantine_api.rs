//! What an operator does about the records that a database refused: see them, mend the cause, retry, discard. Over HTTP
//! and by the command line.

use reqwest::Method;
use sequin_actors::model::{SequinId, SyncId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::{Answer, send},
    cli,
    database::{PASSWORD, SCHEMA},
    eventually, holds,
    model::{HUBSPOT, Model, Table, Version, contact, lines, sync},
    node::Node,
    setup::Setup,
};

/// What no answer and no log may hold.
const PRIVATE: &str = "for-the-customers-eyes-only";

const QUARANTINE: &str = "/v1/consumers/hubspot/quarantine";

/// What an entry of the list has, in the order of the alphabet.
const FIELDS: [&str; 12] = [
    "attempts",
    "collection_id",
    "first_failed_at",
    "fix",
    "last_failed_at",
    "message",
    "retry_at",
    "sequin_id",
    "sqlstate",
    "sync_id",
    "updated_idx",
    "upstream_id",
];

/// A contact with text that PostgreSQL can't hold: no retry helps it.
fn unsupported(upstream_id: &str) -> Version {
    contact(sync(1), upstream_id, json!({ "text": format!("{PRIVATE} \0") }))
}

/// A contact with a text that PostgreSQL holds in a row, and not in an index.
fn too_long_for_an_index(number: usize) -> Version {
    let random: String = (0..400).map(|_| Uuid::new_v4().simple().to_string()).collect();
    contact(sync(1), format!("long {number}"), json!({"text": PRIVATE.to_owned() + &random}))
}

fn sequin_id(upstream_id: &str) -> Uuid {
    SequinId::derive(SyncId(sync(1)), "contact", upstream_id).0
}

fn one(record: Uuid) -> String {
    format!("{QUARANTINE}/{record}")
}

/// What the table holds while the records of these upstream ids are not in it.
fn without(model: &Model, refused: &[&str]) -> Table {
    let rows = model.of_provider(HUBSPOT).into_iter();
    rows.filter(|((.., upstream_id), _)| !refused.contains(&upstream_id.as_str())).collect()
}

/// Waits until exactly the records of these upstream ids are listed; returns them in the order of the list.
async fn quarantine_is(setup: &Setup, upstream_ids: &[&str]) -> Vec<Value> {
    eventually(&format!("the quarantine to hold {upstream_ids:?}"), async || {
        let listed = setup.node.api.pages(QUARANTINE).await;
        let mut found: Vec<_> = listed.iter().map(|entry| entry["upstream_id"].as_str().unwrap_or_default()).collect();
        found.sort_unstable();
        holds(found == upstream_ids, || format!("it holds {found:?}")).map(|()| listed)
    })
    .await
}

/// Waits until the consumer says how many records are in quarantine, and is well or not accordingly.
async fn quarantined_is(setup: &Setup, records: u64) -> Value {
    let health = if records == 0 { "healthy" } else { "unhealthy" };
    let is_so = |consumer: &Value| consumer["quarantined"] == records && consumer["health"]["status"] == health;
    setup.consumer_is(HUBSPOT, &format!("{health}, with {records} records in quarantine"), is_so).await
}

fn detail(answer: &Answer) -> String {
    answer.body["detail"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_quarantine_that_is_empty_or_of_nobody_is_answered_as_such() {
    let node = Node::start().await;
    let nowhere = json!({"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"});
    node.api.post("/v1/targets", &json!({"name": "app", "connection": nowhere})).await.expect(201);
    let record = Uuid::new_v4();
    node.api.get(QUARANTINE).await.expect_problem(404);
    node.api.act(&format!("{QUARANTINE}/retry")).await.expect_problem(404);
    node.api.delete(QUARANTINE).await.expect_problem(404);
    node.api.delete(&one(record)).await.expect_problem(404);

    let draft = json!({
        "name": HUBSPOT, "target": "app", "filter": {"provider": HUBSPOT}, "schema": SCHEMA, "table": HUBSPOT,
    });
    node.api.post("/v1/consumers", &draft).await.expect(201);
    assert_eq!(node.api.get(QUARANTINE).await.expect(200), json!({"data": [], "next": null}));
    for query in ["limit=0", "limit=1001", "limit=x", "after=x", "colour=red"] {
        node.api.get(&format!("{QUARANTINE}?{query}")).await.expect_problem(422);
    }
    node.api.delete(QUARANTINE).await.expect(204);
    for record in [record.to_string(), "no-uuid".into()] {
        let refused = node.api.delete(&format!("{QUARANTINE}/{record}")).await;
        assert!(detail(&refused).contains(&record), "{refused:?}");
        refused.expect_problem(404);
    }
    let refused = node.api.act(&format!("{QUARANTINE}/retry")).await;
    assert!(detail(&refused).contains("start"), "{refused:?}");
    refused.expect_problem(409);
    let anonymous = node.api.anonymous(Method::DELETE, QUARANTINE);
    send(anonymous).await.expect_problem(401);
    for (method, path) in [
        (Method::DELETE, QUARANTINE.to_owned()),
        (Method::DELETE, one(record)),
        (Method::POST, format!("{QUARANTINE}/retry")),
    ] {
        send(node.api.request(method, &path).header("if-match", "\"0\"")).await.expect_problem(412);
    }
}

#[tokio::test]
async fn a_refused_record_is_listed_with_the_reason_and_never_with_its_payload() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &[contact(sync(1), "good", json!(1)), unsupported("bad")]).await;
    setup.publish(&mut model, &[contact(sync(1), "good too", json!(2))]).await;
    let listed = quarantine_is(&setup, &["bad"]).await;
    setup.table_is(HUBSPOT, &without(&model, &["bad"])).await;

    let entry = listed[0].as_object().expect("an object");
    assert_eq!(entry.keys().map(String::as_str).collect::<Vec<_>>(), FIELDS);
    for (field, expected) in [
        ("sequin_id", json!(sequin_id("bad"))),
        ("sync_id", json!(sync(1))),
        ("collection_id", json!("contact")),
        ("updated_idx", json!(2)),
        ("sqlstate", json!("22P05")),
        ("retry_at", Value::Null),
    ] {
        assert_eq!(entry[field], expected, "{field}");
    }
    assert!(entry["attempts"].as_u64() >= Some(1), "{entry:?}");
    for text in ["message", "fix", "first_failed_at", "last_failed_at"] {
        assert!(entry[text].as_str().is_some_and(|text| !text.is_empty()), "{entry:?}");
    }
    let consumer = quarantined_is(&setup, 1).await;
    let reason = &consumer["health"]["reasons"][0];
    assert_eq!((&reason["code"], &reason["severity"]), (&json!("records_quarantined"), &json!("error")));
    assert!(reason.get("cause").is_some(), "{reason}");

    for path in [QUARANTINE, "/v1/consumers", "/v1/targets", "/v1/syncs"] {
        let answer = setup.node.api.get(path).await.expect(200).to_string();
        assert!(!answer.contains(PRIVATE) && !answer.contains(PASSWORD), "{path}: {answer}");
    }
    let log = setup.node.log();
    assert!(!log.contains(PRIVATE) && !log.contains(PASSWORD), "the log tells what is nobody's business");
}

#[tokio::test]
async fn what_is_retried_after_its_cause_was_mended_arrives() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run("create index theirs on sequin.hubspot ((payload ->> 'text'))").await;
    let refused: Vec<_> = (0..5).map(too_long_for_an_index).collect();
    setup.publish(&mut model, &refused).await;
    setup.publish(&mut model, &[contact(sync(1), "good", json!({}))]).await;
    let upstream_ids = ["long 0", "long 1", "long 2", "long 3", "long 4"];
    // Pages of two, so that one list is three pages.
    let listed = quarantine_is(&setup, &upstream_ids).await;
    let ids: Vec<_> = listed.iter().map(|entry| entry["sequin_id"].as_str().expect("an id")).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    quarantined_is(&setup, 5).await;
    setup.table_is(HUBSPOT, &without(&model, &upstream_ids)).await;

    // Whoever pauses has no retry to ask for.
    setup.act(HUBSPOT, "pause").await;
    let paused = setup.node.api.act(&format!("{QUARANTINE}/retry")).await;
    assert!(detail(&paused).contains("resume"), "{paused:?}");
    paused.expect_problem(409);
    setup.act(HUBSPOT, "resume").await;
    let tried_again = |entry: &Value, before: &Value| entry["attempts"].as_u64() > before["attempts"].as_u64();
    eventually("all to be tried again by the resumption", async || {
        let now = setup.node.api.pages(QUARANTINE).await;
        let all = now.len() == listed.len() && now.iter().zip(&listed).all(|(now, before)| tried_again(now, before));
        holds(all, || format!("{now:?}"))
    })
    .await;

    setup.database.run("drop index sequin.theirs").await;
    let etag = setup.node.api.get("/v1/consumers/hubspot").await.etag.expect("an ETag");
    let retry = setup.node.api.request(Method::POST, &format!("{QUARANTINE}/retry")).header("if-match", &etag);
    let answer = send(retry).await;
    assert!(answer.etag.as_ref().is_some_and(|now| *now != etag), "{answer:?}");
    assert_eq!(answer.expect(200)["name"], HUBSPOT);
    setup.hubspot_is(&model).await;
    quarantine_is(&setup, &[]).await;
    quarantined_is(&setup, 0).await;
}

#[tokio::test]
async fn what_is_discarded_is_gone_until_a_newer_version_comes() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &["a", "b", "c"].map(unsupported)).await;
    quarantine_is(&setup, &["a", "b", "c"]).await;
    quarantined_is(&setup, 3).await;

    setup.node.api.delete(&one(sequin_id("b"))).await.expect(204);
    quarantined_is(&setup, 2).await;
    quarantine_is(&setup, &["a", "c"]).await;
    setup.node.api.delete(&one(sequin_id("b"))).await.expect_problem(404);
    setup.publish(&mut model, &[contact(sync(1), "b", json!("newer"))]).await;
    setup.table_is(HUBSPOT, &without(&model, &["a", "c"])).await;

    setup.node.api.delete(QUARANTINE).await.expect(204);
    quarantined_is(&setup, 0).await;
    quarantine_is(&setup, &[]).await;
    setup.publish(&mut model, &[contact(sync(1), "a", json!("newer")), contact(sync(1), "c", json!("newer"))]).await;
    setup.hubspot_is(&model).await;
    quarantined_is(&setup, 0).await;
}

#[tokio::test]
async fn a_consumer_that_replaces_text_says_in_how_many_records() {
    let setup = Setup::new().await;
    let consumer = json!({
        "name": HUBSPOT, "target": "app", "filter": {"provider": HUBSPOT}, "schema": SCHEMA, "table": HUBSPOT,
        "unsupported_text": "replace",
    });
    setup.node.api.post("/v1/consumers", &consumer).await.expect(201);
    setup.database.make_table(HUBSPOT).await;
    setup.act(HUBSPOT, "start").await;
    let versions = [contact(sync(1), "good", json!({})), unsupported("bad")];
    setup.node.api.publish(lines(&versions)).await.expect(200);
    let has_all = |consumer: &Value| consumer["applied"]["upserts"] == 2;
    let consumer = setup.consumer_is(HUBSPOT, "at the second record", has_all).await;
    assert_eq!(consumer["applied"], json!({"upserts": 2, "deletes": 0, "replaced_text": 1}));
    quarantined_is(&setup, 0).await;
    let text: String =
        setup.database.ask("select payload ->> 'text' from sequin.hubspot where upstream_id = 'bad'").await;
    assert_eq!(text, format!("{PRIVATE} \u{fffd}"));
    let shown = cli::run(&setup.node.api, "consumer get hubspot").await.expect_done();
    assert!(shown.contains("2 upserts, 0 deletes, 1 with text replaced"), "{shown}");
}

#[tokio::test]
async fn an_operator_sees_retries_and_discards_at_the_command_line() {
    let setup = Setup::new().await;
    let api = &setup.node.api;
    let mut model = Model::default();
    setup.start_hubspot().await;
    assert_eq!(cli::run(api, "quarantine list hubspot").await.expect_done(), "");
    setup.publish(&mut model, &["a", "b", "c"].map(unsupported)).await;
    quarantined_is(&setup, 3).await;

    let listed = cli::run(api, "quarantine list hubspot --output json").await.expect_json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3), "{listed}");
    let fix = listed["data"][0]["fix"].as_str().expect("a fix");
    let table = cli::run(api, "quarantine list hubspot").await.expect_done();
    for part in [&sequin_id("a").to_string(), "contact", "22P05", fix] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    for command in ["status", "consumer get hubspot"] {
        let shown = cli::run(api, command).await.expect_done();
        for part in ["error: 3 records", "fix: ", "quarantine"] {
            assert!(shown.to_lowercase().contains(part), "{part} is not in\n{shown}");
        }
        assert!(!shown.contains(PRIVATE) && !table.contains(PRIVATE), "{shown}");
    }

    let retried = cli::run(api, "quarantine retry hubspot --output json").await.expect_json();
    assert_eq!(retried["name"], HUBSPOT);
    cli::run(api, &format!("quarantine discard hubspot {}", sequin_id("a"))).await.expect_done();
    quarantine_is(&setup, &["b", "c"]).await;
    cli::run(api, "quarantine discard hubspot --all").await.expect_done();
    quarantine_is(&setup, &[]).await;
    quarantined_is(&setup, 0).await;

    for (wrong, status, says) in [
        ("quarantine discard hubspot", 2, "--all"),
        ("quarantine list nobody", 1, "nobody"),
        (&format!("quarantine discard hubspot {}", sequin_id("a")), 1, &sequin_id("a").to_string()),
    ] {
        let ran = cli::run(api, wrong).await;
        assert!(ran.status == Some(status) && ran.stderr.contains(says), "{wrong}: {ran:?}");
        assert_eq!(ran.stdout, "", "{wrong}");
    }
}
