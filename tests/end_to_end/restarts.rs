//! A node that ends, in order or not, in the middle of whatever it does: nothing is lost, repeated or brought back.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sequin_actors::stream::{RecordStream, SqliteStream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{
    database::{Database, Written, slow_writes},
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, no_contact, publication, sync},
    node::{Refusal, refuse_to_start},
    setup::Setup,
};

/// A backfill that is to be interrupted: far more than a node has in flight, which it finishes when it is stopped.
const RECORDS: u128 = 40_000;
const PAYLOAD_BYTES: usize = 3000;

/// Waits until the server has finished what the node left it with.
async fn no_sessions(database: &Database) {
    let sql = format!("select count(*) from pg_stat_activity where usename = '{}'", database.user);
    eventually("the server to notice that the node is gone", async || {
        let sessions: i64 = database.ask(&sql).await;
        holds(sessions == 0, || format!("there are {sessions} sessions"))
    })
    .await;
}

/// Publishes to the stream of a node that does not run.
async fn publish_behind_its_back(setup: &Setup, model: &mut Model, versions: &[Version]) {
    let stream = SqliteStream::open(&setup.node.data().join("records.db")).expect("the stream");
    let published = stream.publish(publication(versions)).await.expect("published");
    assert_eq!(published.last.as_bigint(), model.publish(versions));
}

/// Interrupts a backfill, twice. `end` ends the node.
async fn interrupt_a_backfill(end: impl AsyncFn(&mut Setup)) {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    let id = |number: u128| number.to_string();
    let all: Vec<_> =
        (0..RECORDS).map(|n| contact(sync(n % 50), id(n), json!({"text": "x".repeat(PAYLOAD_BYTES)}))).collect();
    setup.publish(&mut model, &all).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    setup.database.run(&slow_writes(HUBSPOT, "0.6")).await;
    setup.act(HUBSPOT, "start").await;
    let (mut before, mut reached) = (Written::new(), 0);
    for round in 0..2u128 {
        // In the middle: some of it has been brought, and is known to have been, and more is in flight.
        let is_on_its_way = |consumer: &Value| consumer["checkpoint"].as_i64() > Some(reached);
        let consumer = setup.consumer_is(HUBSPOT, "on its way", is_on_its_way).await;
        reached = consumer["checkpoint"].as_i64().expect("a position");
        end(&mut setup).await;
        no_sessions(&setup.database).await;
        before = setup.database.written(HUBSPOT).await;
        assert!(before.len() < all.len(), "the backfill was not interrupted");
        // Deletes and updates of records that were brought, and of some that were not.
        let some = |from: u128| (from..RECORDS).step_by(100);
        let mut versions: Vec<_> = some(round).map(|n| no_contact(sync(n % 50), id(n))).collect();
        versions.extend(some(10 + round).map(|n| contact(sync(n % 50), id(n), json!(round.to_string()))));
        publish_behind_its_back(&setup, &mut model, &versions).await;
        setup.node.start_again().await;
    }
    setup.database.run("drop trigger slow on sequin.hubspot").await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.hubspot_is(&model).await;
    let after = setup.database.written(HUBSPOT).await;
    let repeated = before.iter().filter(|(version, at)| after.get(*version).is_some_and(|now| now != *at)).count();
    assert_eq!(repeated, 0, "rows were written again though they had the version");
    let consumer = setup.state_is(HUBSPOT, "live").await;
    assert_eq!(consumer["backfill"]["done"], consumer["backfill"]["total"]);
}

#[tokio::test]
async fn a_backfill_that_is_killed_loses_repeats_and_resurrects_nothing() {
    interrupt_a_backfill(async |setup: &mut Setup| setup.node.sigkill()).await;
}

#[tokio::test]
async fn a_backfill_that_is_stopped_loses_repeats_and_resurrects_nothing() {
    interrupt_a_backfill(async |setup: &mut Setup| assert_eq!(setup.node.sigterm().await.code(), Some(0))).await;
}

/// Watches the table until it is told to end, and fails if a record is ever seen at an older version than before.
fn watch_versions(session: tokio_postgres::Client) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let seen_it = Arc::clone(&is_over);
    let watch = tokio::spawn(async move {
        let mut last: HashMap<Uuid, i64> = HashMap::new();
        let mut newer = 0;
        while !seen_it.load(Ordering::Relaxed) {
            let rows = session.query("select sequin_id, updated_idx from sequin.hubspot", &[]).await.expect("the rows");
            for row in rows {
                let (record, idx) = (row.get(0), row.get(1));
                let before = last.insert(record, idx).unwrap_or(idx);
                assert!(before <= idx, "{record} was at {before}, and is at {idx}");
                newer += usize::from(before < idx);
            }
        }
        newer
    });
    (is_over, watch)
}

#[tokio::test]
async fn live_traffic_through_kills_and_stops_loses_nothing_and_no_row_goes_back() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let (is_over, watch) = watch_versions(setup.database.connect().await);
    for round in 0u32..60 {
        // 200 records, of which each batch changes forty and deletes ten.
        let record = |n: u32| (round * 37 + n * 7) % 200;
        let mut versions: Vec<_> =
            (0..40).map(|n| contact(sync(1), record(n), json!({"round": round, "n": n}))).collect();
        versions.extend((40..50).map(|n| no_contact(sync(1), record(n))));
        if round % 10 != 9 {
            setup.publish(&mut model, &versions).await;
            continue;
        }
        // Every tenth batch is on its way when the node ends. Whether it was accepted shows afterwards.
        let api = setup.node.api.clone();
        let request =
            tokio::spawn(async move { api.try_publish(&versions).await.map(|_| versions.clone()).ok_or(versions) });
        tokio::time::sleep(Duration::from_millis((round / 10).into())).await;
        if round % 20 == 9 {
            setup.node.sigkill();
        } else {
            assert_eq!(setup.node.sigterm().await.code(), Some(0));
        }
        setup.node.start_again().await;
        let answered = request.await.expect("no panic");
        let known = setup.node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
        let was_accepted = known["last_updated_idx"].as_i64().expect("a position") > model.last_idx(HUBSPOT);
        assert!(was_accepted || answered.is_err(), "a batch was acknowledged and is lost");
        if was_accepted {
            model.publish(&answered.unwrap_or_else(|versions| versions));
        }
    }
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.hubspot_is(&model).await;
    is_over.store(true, Ordering::Relaxed);
    let newer = watch.await.expect("no row went back");
    assert!(newer > 0, "no row was seen to change");
}

#[tokio::test]
async fn a_node_that_is_asked_to_end_does_so_at_once_and_with_status_0() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &[contact(sync(1), 1, json!({}))]).await;
    setup.hubspot_is(&model).await;
    let asked = Instant::now();
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    setup.node.start_again().await;
    let consumer = setup.state_is(HUBSPOT, "live").await;
    assert_eq!((&consumer["checkpoint"], &consumer["applied"]["upserts"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_with_status_2_and_one_line_that_names_it() {
    for (setting, value) in [
        ("SEQUIN_LISTEN", "7376"),
        ("SEQUIN_BACKEND", "redis://localhost"),
        ("SEQUIN_CLUSTER", "a/b"),
        ("SEQUIN_ADMIN_TOKEN", "too short"),
        ("SEQUIN_ENCRYPTION_KEY", "not a key"),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let Refusal { status, lines } = refuse_to_start(directory.path(), &[(setting, value)]).await;
        assert_eq!(status, Some(2), "{lines:?}");
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        assert!(line.contains(setting), "{line}");
        let is_secret = setting.ends_with("TOKEN") || setting.ends_with("KEY");
        assert!(!is_secret || !line.contains(value), "{line}");
    }
}
