//! A stream that is not the one that was read: noticed, said, and never read from the wrong place.

use std::{fs, sync::Arc};

use chrono::Utc;
use sequin_actors::{
    Engine, EngineHandle, EngineSettings,
    model::{Checkpoint, Consumer, ConsumerStatus, Idx, Rewind, RunState},
    store::{Documents, Keyring, SqliteStore},
    stream::{RecordStream, SqliteStream},
};
use serde_json::json;

use crate::support::{
    database::Database,
    engine::{forwarding, of_provider, target},
    eventually, holds,
    model::{HUBSPOT, Model, Version, compare, contact, lines, publication, sync},
    node::Node,
    setup::Setup,
};

fn contacts(numbers: std::ops::Range<u32>) -> Vec<Version> {
    numbers.map(|n| contact(sync(1), n, json!(n))).collect()
}

#[tokio::test]
async fn a_consumer_whose_stream_was_replaced_halts_and_goes_on_from_the_start_of_the_new_one_when_it_is_told_to() {
    let (mut setup, mut other) = (Setup::new().await, Node::start().await);
    let (mut model, mut of_other) = (Model::default(), Model::default());
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..5)).await;
    setup.reached(HUBSPOT, 5).await;
    let versions = contacts(3..12);
    other.api.publish(lines(&versions)).await.expect(200);
    of_other.publish(&versions);
    for node in [&mut setup.node, &mut other] {
        assert_eq!(node.sigterm().await.code(), Some(0));
    }
    fs::copy(other.data().join("records.db"), setup.node.data().join("records.db")).expect("replaced");
    setup.node.start_again().await;

    let halted = setup.state_is(HUBSPOT, "halted").await;
    let reason = &halted["health"]["reasons"][0];
    assert_eq!((&reason["code"], &halted["checkpoint"]), (&json!("stream_replaced"), &json!(5)), "{halted}");
    let fix = reason["fix"].as_str().expect("a fix");
    assert!(fix.contains("sequin consumer rewind hubspot --to 0") && fix.contains("sequin.hubspot"), "{fix}");
    // Others read what is there now.
    setup.start("others", &json!({"provider": HUBSPOT})).await;
    setup.table_is("others", &of_other.of_provider(HUBSPOT)).await;
    setup.publish(&mut of_other, &contacts(20..25)).await;
    setup.table_is("others", &of_other.of_provider(HUBSPOT)).await;
    setup.act(HUBSPOT, "resume").await;
    setup.state_is(HUBSPOT, "halted").await;
    setup.hubspot_is(&model).await;

    setup.database.run("truncate sequin.hubspot").await;
    setup.node.api.post("/v1/consumers/hubspot/rewind", &json!({"to": 2})).await.expect(200);
    // Positions of the former stream say nothing of this one.
    setup.hubspot_is(&of_other).await;
    setup.publish(&mut of_other, &contacts(4..7)).await;
    setup.hubspot_is(&of_other).await;
    setup.consumer_is(HUBSPOT, "well", |consumer| consumer["health"]["status"] == "healthy").await;
}

#[tokio::test]
async fn a_consumer_that_began_before_its_stream_was_there_knows_it_once_it_has_read_of_it() {
    let (mut setup, mut other) = (Setup::new().await, Node::start().await);
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.state_is(HUBSPOT, "live").await;
    setup.publish(&mut model, &contacts(0..5)).await;
    setup.reached(HUBSPOT, 5).await;
    setup.consumer_is(HUBSPOT, "up to date", |consumer| consumer["lag"]["records"] == 0).await;
    other.api.publish(lines(&contacts(0..9))).await.expect(200);
    for node in [&mut setup.node, &mut other] {
        assert_eq!(node.sigterm().await.code(), Some(0));
    }
    fs::copy(other.data().join("records.db"), setup.node.data().join("records.db")).expect("replaced");
    setup.node.start_again().await;
    setup.state_is(HUBSPOT, "halted").await;
    setup.hubspot_is(&model).await;
}

/// An engine on a stream that is restored from a backup under it.
struct Restored {
    database: Database,
    directory: tempfile::TempDir,
    documents: Documents,
    consumer: Consumer,
}

impl Restored {
    async fn new() -> Self {
        let (database, directory) = (Database::create().await, tempfile::tempdir().expect("a directory"));
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(Arc::new(store), Arc::new(keyring));
        let consumer = forwarding(HUBSPOT, of_provider(HUBSPOT));
        database.make_table(HUBSPOT).await;
        documents.create(&target(&database), Utc::now()).await.expect("a target");
        documents.create(&consumer, Utc::now()).await.expect("a consumer");
        Self { database, directory, documents, consumer }
    }

    fn stream(&self) -> SqliteStream {
        SqliteStream::open(&self.directory.path().join("records.db")).expect("a stream")
    }

    async fn start(&self, stream: &Arc<SqliteStream>) -> EngineHandle {
        let stream: Arc<dyn RecordStream> = stream.clone();
        Engine::start(EngineSettings::default(), stream, self.documents.clone()).await.expect("an engine")
    }

    async fn reaches(&self, idx: u64) {
        eventually(&format!("the checkpoint to be {idx}"), async || {
            let saved = self.documents.get::<Checkpoint>(self.consumer.id).await.expect("read");
            holds(saved.as_ref().is_some_and(|saved| saved.value.idx == Idx(idx)), || format!("it is {saved:?}"))
        })
        .await;
    }

    async fn halts(&self) {
        eventually("the consumer to halt", async || {
            let status = self.documents.get::<ConsumerStatus>(self.consumer.id).await.expect("read");
            let is_so = status.as_ref().is_some_and(|status| {
                let went_back = status.value.reasons.iter().any(|reason| reason.code == "stream_went_back");
                status.value.state == RunState::Halted && went_back && status.value.checkpoint == Idx(9)
            });
            holds(is_so, || format!("its status is {status:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_consumer_whose_stream_went_back_stays_halted_however_much_is_published_until_it_is_rewound() {
    let mut restored = Restored::new().await;
    let file = |name: &str| restored.directory.path().join(name);
    let mut model = Model::default();
    for (round, versions) in [contacts(0..5), contacts(5..9)].iter().enumerate() {
        let stream = Arc::new(restored.stream());
        stream.publish(publication(versions)).await.expect("published");
        model.publish(versions);
        let engine = restored.start(&stream).await;
        restored.reaches(model.last_idx(HUBSPOT).unsigned_abs()).await;
        engine.stop().await;
        drop(stream);
        // Whoever still holds it has let go once all of it is in the file.
        eventually("the stream to be closed", async || holds(!file("records.db-wal").exists(), || "it is open".into()))
            .await;
        fs::copy(file("records.db"), file(&format!("backup-{round}"))).expect("a backup");
    }

    fs::copy(file("backup-0"), file("records.db")).expect("restored");
    let stream = Arc::new(restored.stream());
    let engine = restored.start(&stream).await;
    restored.halts().await;
    let mut of_restored = Model::default();
    of_restored.publish(&contacts(0..5));
    let versions = contacts(20..40);
    stream.publish(publication(&versions)).await.expect("published");
    of_restored.publish(&versions);
    engine.stop().await;
    let engine = restored.start(&stream).await;
    restored.halts().await;
    let table = restored.database.table(HUBSPOT).await;
    compare(&table, &model.of_provider(HUBSPOT)).expect("nothing was read");

    restored.database.run("truncate sequin.hubspot").await;
    restored.consumer.rewind = Rewind { number: 1, to: Idx::START };
    restored.documents.put(restored.consumer.id, &restored.consumer).await.expect("written");
    restored.reaches(25).await;
    let table = restored.database.table(HUBSPOT).await;
    compare(&table, &of_restored.of_provider(HUBSPOT)).expect("everything was read");
    engine.stop().await;
}
