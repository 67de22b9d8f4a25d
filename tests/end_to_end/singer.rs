//! `sequin publish --format singer`: what a tap writes becomes the records of a sync, and its state is told when what
//! came before is durable.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    cli::{Running, failed, run_with},
    eventually, holds,
    model::sync,
    node::Node,
    proxy::{Mode, Proxy},
    setup::Setup,
};

const PROVIDER: &str = "github";

fn publish() -> String {
    format!("publish --format singer --provider {PROVIDER} --sync {}", sync(1))
}

fn schema(stream: &str, keys: &[&str]) -> String {
    json!({"type": "SCHEMA", "stream": stream, "schema": {}, "key_properties": keys}).to_string() + "\n"
}

fn record(stream: &str, record: &Value) -> String {
    json!({"type": "RECORD", "stream": stream, "record": record}).to_string() + "\n"
}

fn versioned(stream: &str, version: u64, record: &Value) -> String {
    json!({"type": "RECORD", "stream": stream, "record": record, "version": version}).to_string() + "\n"
}

fn activate(stream: &str, version: u64) -> String {
    json!({"type": "ACTIVATE_VERSION", "stream": stream, "version": version}).to_string() + "\n"
}

fn state(value: &Value) -> String {
    json!({"type": "STATE", "value": value}).to_string() + "\n"
}

/// The payloads by collection and upstream id.
type Rows = BTreeMap<(String, String), Value>;

async fn start(setup: &Setup) {
    setup.start(PROVIDER, &json!({"provider": PROVIDER})).await;
}

/// Waits until the table holds exactly these rows.
async fn rows_are(setup: &Setup, expected: &[(&str, &str, Value)]) {
    let row = |(collection, id, payload): &(&str, &str, Value)| {
        ((ToString::to_string(collection), ToString::to_string(id)), payload.clone())
    };
    let expected: Rows = expected.iter().map(row).collect();
    eventually("the table to be as it must", async || {
        let found: Rows = setup
            .database
            .table(PROVIDER)
            .await
            .into_iter()
            .map(|((of, collection, id), row)| {
                assert_eq!(of, sync(1));
                ((collection, id), row.payload)
            })
            .collect();
        holds(found == expected, || format!("it is {found:?}"))
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_message_does_what_it_says_twice_with_the_same_outcome() {
    let setup = Setup::new().await;
    start(&setup).await;
    let first = state(&json!({"bookmarks": 1}));
    let messages = [
        schema("users", &["id"]),
        record("users", &json!({"id": 1, "name": "Ada"})),
        record("users", &json!({"id": 2, "name": "Bob"})),
        first,
        // Types in any case, and types that nobody knows.
        schema("users", &["id"]).replace("SCHEMA", "schema"),
        record("users", &json!({"id": 3})).replace("RECORD", "record"),
        json!({"type": "LOG", "version": "1.0", "text": "hello"}).to_string() + "\n",
        "\n".to_owned(),
        // Gone, and back.
        record("users", &json!({"id": 2, "_sdc_deleted_at": "2024-01-01T00:00:00Z"})),
        record("users", &json!({"id": 3, "_sdc_deleted_at": "2024-01-01T00:00:00Z"})),
        record("users", &json!({"id": 3, "_sdc_deleted_at": null})),
        // Several keys, whatever is in them.
        schema("public-members/é", &["org", "user"]),
        record("public-members/é", &json!({"org": "a,\"b", "user": 7, "n": u64::MAX})),
        state(&json!({"bookmarks": 2, "text": "é"})),
    ]
    .concat();
    for _ in 0..2 {
        let ran = run_with(&setup.node.api, &format!("{} --sync-external-id acme", publish()), &messages).await;
        assert!(ran.stderr.contains("LOG") && ran.stderr.contains("7 records"), "{ran:?}");
        let states = ran.expect_done();
        assert_eq!(states.lines().last(), Some(r#"{"bookmarks":2,"text":"é"}"#), "{states}");
        rows_are(
            &setup,
            &[
                ("users", "1", json!({"id": 1, "name": "Ada"})),
                ("users", "3", json!({"id": 3, "_sdc_deleted_at": null})),
                ("public-members/é", r#"["a,\"b",7]"#, json!({"org": "a,\"b", "user": 7, "n": u64::MAX})),
            ],
        )
        .await;
    }
    let known = setup.node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
    assert_eq!((&known["provider"], &known["external_id"]), (&json!(PROVIDER), &json!("acme")));
}

#[tokio::test]
async fn a_version_that_is_activated_after_records_without_one_deletes_nothing_and_says_so() {
    let setup = Setup::new().await;
    start(&setup).await;
    let messages = schema("users", &["id"]) + &record("users", &json!({"id": 1})) + &activate("users", 7);
    let ran = run_with(&setup.node.api, &publish(), &messages).await;
    assert!(ran.stderr.contains("line 3: users has records without a version"), "{ran:?}");
    ran.expect_done();
    rows_are(&setup, &[("users", "1", json!({"id": 1}))]).await;
    // With the next run all of them have one.
    let messages = schema("users", &["id"]) + &versioned("users", 8, &json!({"id": 2})) + &activate("users", 8);
    run_with(&setup.node.api, &publish(), &messages).await.expect_done();
    rows_are(&setup, &[("users", "2", json!({"id": 2}))]).await;
}

#[tokio::test]
async fn an_activated_version_replaces_its_stream_and_one_that_goes_on_adds_to_it() {
    let setup = Setup::new().await;
    start(&setup).await;
    // A full table at each run, and one that goes on from where it was.
    let run = async |version: u64, users: &[u32], event: u32| {
        let users = users.iter().map(|id| versioned("users", version, &json!({"id": id, "run": version})));
        let messages = [
            schema("users", &["id"]),
            schema("events", &["id"]),
            users.collect::<String>(),
            activate("events", 9),
            versioned("events", 9, &json!({"id": event})),
            activate("users", version),
            state(&json!({"run": version})),
        ]
        .concat();
        let ran = run_with(&setup.node.api, &publish(), &messages).await;
        assert_eq!(ran.expect_done(), format!("{{\"run\":{version}}}\n"));
    };
    let user = |id: u32, run: u64| ("users", json!({"id": id, "run": run}));
    let rows = |users: &[(&'static str, Value)], events: &[u32]| {
        let users = users.iter().map(|(stream, payload)| (*stream, payload["id"].to_string(), payload.clone()));
        let events = events.iter().map(|id| ("events", id.to_string(), json!({"id": id})));
        users.chain(events).collect::<Vec<_>>()
    };
    run(100, &[1, 2, 3], 1).await;
    run(101, &[2, 4], 2).await;
    run(101, &[4], 3).await;
    let expected = rows(&[user(2, 101), user(4, 101)], &[1, 2, 3]);
    rows_are(
        &setup,
        &expected.iter().map(|(stream, id, payload)| (*stream, id.as_str(), payload.clone())).collect::<Vec<_>>(),
    )
    .await;
    // A run that broke off before its activation has deleted nothing; the next one does.
    let broken_off = versioned("users", 102, &json!({"id": 5, "run": 102}));
    run_with(&setup.node.api, &publish(), &(schema("users", &["id"]) + &broken_off)).await.expect_done();
    run(103, &[6], 3).await;
    let expected = rows(&[user(6, 103)], &[1, 2, 3]);
    rows_are(
        &setup,
        &expected.iter().map(|(stream, id, payload)| (*stream, id.as_str(), payload.clone())).collect::<Vec<_>>(),
    )
    .await;
}

#[tokio::test]
async fn a_state_is_told_when_what_came_before_is_durable_and_not_sooner() {
    let node = Node::start().await;
    let port = node.api.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let proxy = Proxy::before(port);
    let mut running = Running::start(&format!("http://127.0.0.1:{}", proxy.port()), &publish());
    running.write(&(schema("users", &["id"]) + &record("users", &json!({"id": 1})) + &state(&json!(1)))).await;
    // Though nothing else comes, and the tap is not at its end.
    assert_eq!(running.line().await, "1");
    proxy.set(Mode::HoldAnswers);
    running.write(&(record("users", &json!({"id": 2})) + &state(&json!(2)))).await;
    eventually("the record to be durable, though nobody says so", async || {
        let sync = node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
        holds(sync["records"] == 2, || sync.to_string())
    })
    .await;
    let told = tokio::time::timeout(std::time::Duration::from_millis(300), running.line()).await;
    assert!(told.is_err(), "{told:?} was told before the acknowledgement");
    proxy.set(Mode::Pass);
    assert_eq!(running.line().await, "2");
    assert_eq!(running.end().await.expect_done(), "");
}

#[tokio::test]
async fn a_line_that_is_wrong_ends_it_with_what_came_before_published() {
    let node = Node::start().await;
    let good = schema("users", &["id"]) + &record("users", &json!({"id": 1})) + &state(&json!("before"));
    let after = record("users", &json!({"id": 2})) + &state(&json!("after"));
    for (wrong, says) in [
        ("INFO not a message\n".to_owned(), "no Singer message"),
        (record("users", &json!({"name": "x"})), "key id is missing"),
        (record("users", &json!({"id": null})), "key id is null"),
        (record("users", &json!([1])), "no JSON object"),
        (schema("logs", &[]) + &record("logs", &json!({"id": 1})), "--key 'logs=PROPERTY'"),
        (record("never-told-of", &json!({"id": 1})), "stream never-told-of has no key_properties"),
        (json!({"type": "BATCH", "stream": "users", "manifest": []}).to_string() + "\n", "BATCH"),
        (json!({"type": "STATE"}).to_string() + "\n", "needs a value"),
    ] {
        let ran = run_with(&node.api, &publish(), &format!("{good}{wrong}{after}")).await;
        let line = 3 + wrong.lines().count();
        failed(&ran, &[says, &format!("line {line}: "), "are published, nothing of what follows"]);
        assert_eq!(ran.stdout, "\"before\"\n", "{wrong}");
    }
    let sync = node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
    assert_eq!(sync["records"], 1);
    // What only the server finds: an id that is too long.
    let long = record("users", &json!({"id": "x".repeat(1025)}));
    let ran = run_with(&node.api, &publish(), &format!("{good}{long}{after}")).await;
    failed(&ran, &["line 4: upstream_id", "nothing is published"]);
    assert_eq!(ran.stdout, "", "the state's records are in the request that was refused");
}

#[tokio::test]
async fn a_stream_without_keys_is_published_by_keys_that_are_named() {
    let setup = Setup::new().await;
    start(&setup).await;
    let messages =
        schema("logs", &[]) + &record("logs", &json!({"at": 1, "of": "a"})) + &record("free", &json!({"id": "x"}));
    let ran = run_with(&setup.node.api, &format!("{} --key logs=of,at --key free=id", publish()), &messages).await;
    ran.expect_done();
    rows_are(&setup, &[("logs", r#"["a",1]"#, json!({"at": 1, "of": "a"})), ("free", "x", json!({"id": "x"}))]).await;
}

#[tokio::test]
async fn a_sync_of_another_provider_takes_nothing_of_a_tap() {
    let node = Node::start().await;
    let messages = schema("users", &["id"]) + &record("users", &json!({"id": 1})) + &state(&json!(1));
    run_with(&node.api, &publish(), &messages).await.expect_done();
    let arguments = format!("publish --format singer --provider stripe --sync {}", sync(1));
    let ran = run_with(&node.api, &arguments, &messages).await;
    failed(&ran, &["line 2: sync_id", "github"]);
    assert_eq!(ran.stdout, "");
    let arguments = format!("publish --format singer --provider stripe --sync {}", Uuid::nil());
    run_with(&node.api, &arguments, &messages).await.expect_done();
}
