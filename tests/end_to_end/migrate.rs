//! From one machine to a cluster: `sequin migrate` moves everything, and consumers go on where they were.

use std::{collections::HashSet, fs};

use sequin_actors::{
    jetstream::{JetStream, NatsLogin, NatsSettings},
    model::{Filter, Idx},
    stream::{JetStreamStream, RecordStream, SqliteStream},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    cli::{self, Ran, Running, failed},
    database::{Database, Written},
    eventually, holds,
    model::{HUBSPOT, Model, Table, Version, contact, lines, no_contact, provider, publication, sync},
    nats::Nats,
    node::{Node, refuse_to_start},
    setup::Setup,
};

const STRIPE: &str = "stripe";

/// Of two syncs, in turn.
fn contacts(numbers: std::ops::Range<u128>, age: u32) -> Vec<Version> {
    numbers.map(|number| contact(sync(1 + number % 2), number, json!({"age": age}))).collect()
}

fn no_contacts(numbers: std::ops::Range<u128>) -> Vec<Version> {
    numbers.map(|number| no_contact(sync(1 + number % 2), number)).collect()
}

fn arguments(node: &Node, nats: &Nats) -> String {
    format!("migrate --from embedded:{} --to {} --output json", node.data().display(), nats.url())
}

async fn migrate(node: &Node, nats: &Nats) -> Ran {
    cli::run(&node.api, &arguments(node, nats)).await
}

/// The settings of a node of the cluster that `node` was migrated to.
fn of_cluster(node: &Node, nats: &Nats) -> [(&'static str, String); 2] {
    let key = fs::read_to_string(node.data().join("encryption-key")).expect("the key");
    [("SEQUIN_BACKEND", nats.url()), ("SEQUIN_ENCRYPTION_KEY", key)]
}

fn borrowed<'a>(settings: &'a [(&'static str, String); 2]) -> [(&'a str, &'a str); 2] {
    settings.each_ref().map(|(name, value)| (*name, value.as_str()))
}

impl Setup {
    /// Publishes to a stream whose positions the model does not know; all of them lie beyond `beyond`.
    async fn publish_beyond(&self, beyond: i64, model: &mut Model, versions: &[Version]) {
        let answer = self.node.api.publish(lines(versions)).await.expect(200);
        assert!(answer["last_updated_idx"].as_i64() > Some(beyond), "{answer}");
        model.publish(versions);
    }

    /// Waits until a table holds the payloads of the model. Rows whose version it held `before` the move must be as they
    /// were, and all others beyond `end`.
    async fn goes_on(&self, table: &str, before: &Written, expected: &Table, end: i64) {
        let payloads =
            |table: &Table| -> Vec<_> { table.iter().map(|(key, row)| (key.clone(), row.payload.clone())).collect() };
        eventually(&format!("table {table} to hold what it must"), async || {
            let found = self.database.table(table).await;
            let (is, must) = (payloads(&found), payloads(expected));
            holds(is == must, || {
                format!("{} of {} rows are right", is.iter().filter(|row| must.contains(row)).count(), must.len())
            })
        })
        .await;
        let written = self.database.written(table).await;
        let found = self.database.table(table).await;
        for (key, row) in expected {
            let version = (row.sequin_id, row.updated_idx);
            let idx = found[key].updated_idx;
            match before.get(&version) {
                Some(at) => assert_eq!(written.get(&version), Some(at), "{key:?} was brought again, as {idx}"),
                None => assert!(idx > end, "{key:?} is at {idx}"),
            }
        }
    }
}

#[tokio::test]
async fn consumers_go_on_in_the_cluster_where_they_were_and_nothing_is_brought_again() {
    let (mut setup, nats) = (Setup::new().await, Nats::start_cluster());
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.start("one", &json!({"sync": sync(1)})).await;
    setup
        .database
        .run("alter table sequin.hubspot add constraint of_age check ((payload->>'age')::integer >= 18)")
        .await;
    setup.publish(&mut model, &contacts(0..300, 20)).await;
    setup.publish(&mut model, &contacts(50..100, 21)).await;
    setup.publish(&mut model, &no_contacts(100..120)).await;
    let young = contact(sync(2), "young", json!({"age": 5}));
    setup.publish(&mut model, std::slice::from_ref(&young)).await;
    setup.publish(&mut model, &contacts(300..320, 22)).await;
    setup.reached("one", model.last_idx(HUBSPOT)).await;
    setup.act("one", "pause").await;
    setup.state_is("one", "paused").await;
    setup.publish(&mut model, &contacts(320..400, 23)).await;
    setup.publish(&mut model, &contacts(0..10, 24)).await;
    setup.publish(&mut model, &no_contacts(10..15)).await;
    let of_stripe: Vec<_> = (0..3).map(|n| Version { provider: STRIPE, ..contact(sync(9), n, json!(n)) }).collect();
    setup.publish(&mut model, &of_stripe).await;
    let end = model.last_idx(HUBSPOT);
    let is_at_the_end = |consumer: &Value| consumer["checkpoint"] == end && consumer["quarantined"] == 1;
    setup.consumer_is(HUBSPOT, "at the end, with one in quarantine", is_at_the_end).await;
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    let before = setup.database.written(HUBSPOT).await;
    let before_of_one = setup.database.written("one").await;

    let moved = migrate(&setup.node, &nats).await.expect_json();
    let versions = model.of_provider(HUBSPOT).len() + 20 + 5;
    assert_eq!(moved["records"], json!({HUBSPOT: versions, STRIPE: 3}));
    failed(&migrate(&setup.node, &nats).await, &["cluster sequin", "is not empty", "provider hubspot"]);

    let settings = of_cluster(&setup.node, &nats);
    let directory = tempfile::tempdir().expect("a directory");
    let Setup { node: left, database } = setup;
    let setup = Setup { node: Node::start_with(directory, &borrowed(&settings)).await, database };
    assert!(!setup.node.data().exists(), "a node of a cluster keeps nothing here");
    setup.state_is(HUBSPOT, "live").await;
    setup.state_is("one", "paused").await;
    setup.publish_beyond(end, &mut model, &contacts(400..420, 25)).await;
    setup.publish_beyond(end, &mut model, &contacts(0..5, 26)).await;
    let mut expected = model.of_provider(HUBSPOT);
    let refused = (young.sync, young.collection.clone(), young.upstream_id.clone());
    let young = expected.remove(&refused).expect("it was published");
    setup.goes_on(HUBSPOT, &before, &expected, end).await;
    setup.act("one", "resume").await;
    setup.goes_on("one", &before_of_one, &model.of_sync(sync(1)), end).await;

    setup.database.run("alter table sequin.hubspot drop constraint of_age").await;
    cli::run(&setup.node.api, "quarantine retry hubspot").await.expect_done();
    expected.insert(refused, young);
    setup.goes_on(HUBSPOT, &before, &expected, end).await;
    setup.consumer_is(HUBSPOT, "free of its quarantine", |consumer| consumer["quarantined"] == 0).await;
    drop(left);
}

fn settings(nats: &Nats) -> NatsSettings {
    let servers = nats.url().trim_start_matches("nats://").split(',').map(|host| format!("nats://{host}")).collect();
    let (ca_file, cert_file, key_file) = (None, None, None);
    NatsSettings { servers, login: NatsLogin::Nobody, ca_file, cert_file, key_file, replicas: None }
}

/// Publishes to the directory of a node that does not run, and returns where its stream ends then.
async fn publish_offline(node: &Node, versions: &[Version]) -> Idx {
    let stream = SqliteStream::open(&node.data().join("records.db")).expect("the stream");
    let mut end = Idx::START;
    for some in versions.chunks(10_000) {
        end = stream.publish(publication(some)).await.expect("published").last;
    }
    end
}

#[tokio::test]
async fn a_migration_that_was_killed_keeps_nodes_from_starting_and_is_run_again() {
    const RECORDS: u128 = 60_000;
    let (mut node, nats) = (Node::start().await, Nats::start());
    let of_hubspot = Filter::Provider(provider(HUBSPOT));
    assert_eq!(node.sigterm().await.code(), Some(0));
    let all = contacts(0..RECORDS, 30);
    publish_offline(&node, &all).await;
    let migration = Running::start(node.api.url(), &arguments(&node, &nats));
    let cluster = JetStream::connect(&settings(&nats), "sequin").await.expect("a connection");
    let stream = JetStreamStream::open(cluster).await.expect("the stream");
    let beyond = Idx(u64::try_from(RECORDS).expect("few") + 1000);
    eventually("some of the records to be moved", async || {
        let head = stream.head(&of_hubspot).await.expect("a head");
        holds(head > beyond, || format!("the stream ends at {head}"))
    })
    .await;
    drop(migration);

    let settings = of_cluster(&node, &nats);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let refusal = refuse_to_start(elsewhere.path(), &borrowed(&settings)).await;
    assert_eq!(refusal.status, Some(1), "{refusal:?}");
    assert!(refusal.lines.concat().contains("run it again"), "{refusal:?}");
    // The former node was started again, and went further than the migration had come.
    let former = stream.identity(&of_hubspot).await.expect("an answer");
    let end = publish_offline(&node, &contacts(0..RECORDS, 31)).await;
    let moved = migrate(&node, &nats).await.expect_json();
    assert_eq!(moved["records"], json!({HUBSPOT: all.len()}));
    let beyond = stream.lag(&of_hubspot, end).await.expect("a lag").records;
    assert_eq!(beyond, all.len() as u64, "no record lies where the directory had one");
    assert_ne!(stream.identity(&of_hubspot).await.expect("an answer"), former);

    let node = Node::start_with(elsewhere, &borrowed(&settings)).await;
    let setup = Setup::with(node, Database::create().await).await;
    setup.start_hubspot().await;
    let is_there = |consumer: &Value| consumer["state"] == "live" && consumer["lag"]["records"] == 0;
    setup.consumer_is(HUBSPOT, "live", is_there).await;
    let rows: HashSet<Uuid> = setup.database.written(HUBSPOT).await.into_keys().map(|(record, _)| record).collect();
    assert_eq!(rows.len(), all.len());
}

#[tokio::test]
async fn what_can_not_be_moved_is_refused_in_a_line() {
    let (node, nats) = (Node::start().await, Nats::start());
    failed(&migrate(&node, &nats).await, &["in use by another process"]);
    let wrong = |arguments: String| async move { cli::run(&node.api, &arguments).await };
    let nothing_there = wrong(format!("migrate --from embedded:/nowhere/at-all --to {}", nats.url())).await;
    assert_eq!(nothing_there.status, Some(2), "{nothing_there:?}");
    assert!(nothing_there.stderr.contains("is no data directory"), "{nothing_there:?}");
}
