//! What breaks inside of a node is started again, says so, and takes nothing else along.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::Utc;
use sequin_actors::{
    Engine, EngineHandle, EngineSettings,
    model::{Checkpoint, Consumer, ConsumerStatus, Idx, RunState, Severity},
    store::{Documents, Keyring, SqliteStore},
    stream::{RecordStream, SqliteStream},
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    database::Database,
    engine::{forwarding, of_provider, of_sync, target},
    eventually, holds,
    metrics::{Metrics, value},
    model::{HUBSPOT, Model, Version, compare, contact, no_contact, publication, sync},
    scripted::{ScriptedStore, ScriptedStream, StoreScript, StreamScript},
};

/// An engine over ports that fail on demand, and two consumers: `broken`, of one sync, and `whole`, of its provider.
struct Scripted {
    database: Database,
    stream: Arc<ScriptedStream>,
    documents: Documents,
    of_stream: Arc<StreamScript>,
    of_store: Arc<StoreScript>,
    broken: Consumer,
    whole: Consumer,
    settings: EngineSettings,
    engine: Option<EngineHandle>,
    model: Model,
    _directory: TempDir,
}

impl Scripted {
    async fn new(settings: EngineSettings) -> Self {
        let database = Database::create().await;
        let directory = tempfile::tempdir().expect("a directory");
        let (of_stream, of_store) = (Arc::default(), Arc::default());
        let stream = SqliteStream::open(&directory.path().join("records.db")).expect("a stream");
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(Arc::new(ScriptedStore::new(store, &of_store)), Arc::new(keyring));
        let (broken, whole) = (forwarding("broken", of_sync(sync(1))), forwarding("whole", of_provider(HUBSPOT)));
        documents.create(&target(&database), Utc::now()).await.expect("a target");
        for consumer in [&broken, &whole] {
            database.make_table(&consumer.name).await;
            documents.create(consumer, Utc::now()).await.expect("a consumer");
        }
        let stream = Arc::new(ScriptedStream::new(stream, &of_stream));
        let model = Model::default();
        let mut scripted = Self {
            database,
            stream,
            documents,
            of_stream,
            of_store,
            broken,
            whole,
            settings,
            engine: None,
            model,
            _directory: directory,
        };
        scripted.start().await;
        scripted
    }

    async fn start(&mut self) {
        let stream: Arc<dyn RecordStream> = self.stream.clone();
        let engine = Engine::start(self.settings.clone(), stream, self.documents.clone()).await;
        self.engine = Some(engine.expect("an engine"));
    }

    async fn stop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop().await;
        }
    }

    async fn publish(&mut self, versions: &[Version]) {
        let published = self.stream.publish(publication(versions)).await.expect("published");
        assert_eq!(published.last.as_bigint(), self.model.publish(versions));
    }

    async fn rename(&self, consumer: &Consumer, name: &str) {
        let found = self.documents.get::<Consumer>(consumer.id).await.expect("read").expect("it is there");
        let renamed = Consumer { name: name.into(), ..found.value.clone() };
        self.documents.update_named(&found.value, &renamed, found.revision, Utc::now()).await.expect("renamed");
    }

    async fn both_are_as_they_must_be(&self) {
        self.table_is(&self.whole, &self.model.of_provider(HUBSPOT)).await;
        self.table_is(&self.broken, &self.model.of_sync(sync(1))).await;
    }

    async fn table_is(&self, consumer: &Consumer, expected: &crate::support::model::Table) {
        eventually(&format!("table {} to be as it must", consumer.name), async || {
            compare(&self.database.table(&consumer.name).await, expected)
        })
        .await;
    }

    /// Waits until the status of a consumer is as `is` wants it; `what` says how that is.
    async fn status_is(&self, consumer: &Consumer, what: &str, is: impl Fn(&ConsumerStatus) -> bool) {
        eventually(&format!("consumer {} to be {what}", consumer.name), async || {
            let status = self.documents.get::<ConsumerStatus>(consumer.id).await.expect("read");
            let is_so = status.as_ref().is_some_and(|status| is(&status.value));
            holds(is_so, || format!("its status is {status:?}"))
        })
        .await;
    }

    /// Waits until the checkpoint of `whole` is where the stream ends.
    async fn is_saved_at_the_end(&self) {
        let end = self.model.last_idx(HUBSPOT);
        eventually("the checkpoint to be at the end", async || {
            let saved = self.documents.get::<Checkpoint>(self.whole.id).await.expect("read");
            let idx = saved.map(|saved| saved.value.idx.as_bigint());
            holds(idx == Some(end), || format!("it is at {idx:?}, and not at {end}"))
        })
        .await;
    }

    async fn is_live_and_well(&self, consumer: &Consumer) {
        let is = |status: &ConsumerStatus| status.state == RunState::Live && status.reasons.is_empty();
        self.status_is(consumer, "live and well", is).await;
    }
}

fn has_reason(status: &ConsumerStatus, code: &str, severity: Severity) -> bool {
    status.reasons.iter().any(|reason| reason.code == code && reason.severity == severity && !reason.fix.is_empty())
}

fn contacts(numbers: std::ops::Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 3), number, json!(state))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_has_work_and_makes_no_progress_is_started_again_and_says_so() {
    let settings = EngineSettings { stall_limit: Duration::from_secs(2), ..EngineSettings::default() };
    let mut scripted = Scripted::new(settings).await;
    scripted.publish(&contacts(0..300, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.of_stream.no_end.store(true, Ordering::SeqCst);
    scripted.of_stream.for_readers_of(Some(of_sync(sync(1))));
    scripted.stop().await;
    scripted.start().await;
    scripted.publish(&contacts(200..400, "after")).await;
    scripted
        .status_is(&scripted.broken, "stalled", |status| {
            status.state == RunState::Waiting && has_reason(status, "stalled", Severity::Error)
        })
        .await;
    eventually("another reader to be made", async || {
        let readers = scripted.of_stream.readers.load(Ordering::SeqCst);
        holds(readers > 1, || format!("{readers} were"))
    })
    .await;
    scripted.table_is(&scripted.whole, &scripted.model.of_provider(HUBSPOT)).await;
    scripted.of_stream.no_end.store(false, Ordering::SeqCst);
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_actor_or_tasks_panic_is_started_again_and_its_sibling_does_not_notice() {
    let metrics = Metrics::new();
    let mut scripted =
        Scripted::new(EngineSettings { meter: Some(metrics.meter()), ..EngineSettings::default() }).await;
    scripted.publish(&contacts(0..300, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.of_stream.for_readers_of(Some(of_sync(sync(1))));
    for broken in [&scripted.of_stream.no_page, &scripted.of_stream.no_reader] {
        broken.store(true, Ordering::SeqCst);
    }
    scripted.stop().await;
    scripted.start().await;
    scripted.publish(&contacts(200..400, "actor")).await;
    eventually("three readers to be asked for", async || {
        let readers = scripted.of_stream.readers.load(Ordering::SeqCst);
        holds(readers >= 3, || format!("{readers} were"))
    })
    .await;
    scripted.rename(&scripted.broken, "renamed").await;
    eventually("it to be reported by its new name, though nobody runs it", async || {
        let told = value(&metrics.collect(), "sequin.consumer.lag", &[("sequin.consumer", "renamed")]);
        holds(told.is_some(), || "it is not".into())
    })
    .await;
    scripted.table_is(&scripted.whole, &scripted.model.of_provider(HUBSPOT)).await;
    scripted.is_live_and_well(&scripted.whole).await;
    // Now the reader is made, and panics as soon as it reads.
    scripted.of_stream.no_reader.store(false, Ordering::SeqCst);
    scripted
        .status_is(&scripted.broken, "waiting for its next try", |status| {
            status.state == RunState::Waiting && has_reason(status, "internal_fault", Severity::Error)
        })
        .await;
    scripted.publish(&contacts(300..500, "task")).await;
    scripted.table_is(&scripted.whole, &scripted.model.of_provider(HUBSPOT)).await;
    scripted.is_live_and_well(&scripted.whole).await;
    scripted.of_stream.no_page.store(false, Ordering::SeqCst);
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_can_not_be_written_is_said_and_written_later_and_nothing_is_lost() {
    let mut scripted = Scripted::new(EngineSettings::default()).await;
    scripted.publish(&contacts(0..300, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.whole).await;
    scripted.of_store.refuse(Some("checkpoint/"));
    scripted.publish(&contacts(100..400, "meanwhile")).await;
    scripted.publish(&[no_contact(sync(1), 1), no_contact(sync(2), 2)]).await;
    scripted.both_are_as_they_must_be().await;
    let is_said = |status: &ConsumerStatus| {
        status.state == RunState::Live && has_reason(status, "checkpoint_not_saved", Severity::Warning)
    };
    scripted.status_is(&scripted.whole, "live, with a warning", is_said).await;
    // It ends with what it has not written, and reads that again.
    scripted.stop().await;
    assert!(scripted.of_store.refusals.load(Ordering::SeqCst) > 0);
    scripted.of_store.refuse(None);
    scripted.start().await;
    scripted.publish(&contacts(350..450, "after")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_was_written_though_nobody_could_say_so_is_loaded_again_and_goes_on() {
    let mut scripted = Scripted::new(EngineSettings::default()).await;
    scripted.publish(&contacts(0..300, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.whole).await;
    scripted.of_store.is_written.store(true, Ordering::SeqCst);
    scripted.of_store.refuse(Some("checkpoint/"));
    scripted.publish(&contacts(100..400, "meanwhile")).await;
    eventually("a write whose outcome is unknown", async || {
        let refusals = scripted.of_store.refusals.load(Ordering::SeqCst);
        holds(refusals > 0, || "there was none".into())
    })
    .await;
    scripted.of_store.refuse(None);
    scripted.publish(&contacts(350..450, "after")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_saved_at_the_end().await;
    scripted.is_live_and_well(&scripted.whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_a_successor_has_written_is_not_written_over() {
    let mut scripted = Scripted::new(EngineSettings::default()).await;
    scripted.publish(&contacts(0..300, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_saved_at_the_end().await;
    // As if another node had brought it to an empty table, and were at the start.
    let id = scripted.whole.id;
    let saved = scripted.documents.get::<Checkpoint>(id).await.expect("read").expect("a checkpoint").value;
    scripted.database.run("truncate sequin.whole").await;
    let of_successor = Checkpoint { idx: Idx::START, backfill: None, ..saved };
    scripted.documents.put(id, &of_successor).await.expect("written");
    scripted.publish(&contacts(300..310, "after")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_saved_at_the_end().await;
    scripted.is_live_and_well(&scripted.whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_once_told_to_end_short_of_the_checkpoint_is_asked_again_and_read_on() {
    let mut scripted = Scripted::new(EngineSettings::default()).await;
    scripted.publish(&contacts(0..300, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.stop().await;
    scripted.of_stream.old_heads.store(5, Ordering::SeqCst);
    scripted.start().await;
    eventually("old answers to be given", async || {
        let left = scripted.of_stream.old_heads.load(Ordering::SeqCst);
        holds(left == 0, || format!("{left} are left"))
    })
    .await;
    scripted.publish(&contacts(200..400, "after")).await;
    scripted.both_are_as_they_must_be().await;
    for consumer in [&scripted.whole, &scripted.broken] {
        scripted.is_live_and_well(consumer).await;
        let saved = scripted.documents.get::<Checkpoint>(consumer.id).await.expect("read").expect("a checkpoint");
        assert_eq!(saved.value.went_back_to, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_can_not_be_set_aside_holds_the_checkpoint_back_until_it_can() {
    let mut scripted = Scripted::new(EngineSettings::default()).await;
    scripted.of_store.refuse(Some("quarantine/"));
    scripted.publish(&contacts(0..300, "before")).await;
    let mut bad = scripted.model.of_provider(HUBSPOT);
    scripted.publish(&[contact(sync(1), 1, json!("\u{0}"))]).await;
    let is_held_back = |status: &ConsumerStatus| {
        has_reason(status, "internal_fault", Severity::Error) && status.checkpoint.as_bigint() < 301
    };
    scripted.status_is(&scripted.whole, "held back", is_held_back).await;
    scripted.of_store.refuse(None);
    let is_set_aside = |status: &ConsumerStatus| status.quarantined == 1 && status.checkpoint.as_bigint() == 301;
    scripted.status_is(&scripted.whole, "past the record, which is in quarantine", is_set_aside).await;
    // Whether the older version was applied before the newer one came is a matter of time.
    let is_bad = |(_, _, upstream_id): &(_, _, String)| upstream_id == "1";
    bad.retain(|key, _| !is_bad(key));
    let mut rows = scripted.database.table("whole").await;
    rows.retain(|key, _| !is_bad(key));
    compare(&rows, &bad).unwrap_or_else(|seen| panic!("{seen}"));
    scripted.publish(&[contact(sync(1), 1, json!("mended"))]).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_somebody_adds_is_a_warning_before_it_bites() {
    let settings = EngineSettings { drift_check: Duration::from_secs(1), ..EngineSettings::default() };
    let mut scripted = Scripted::new(settings).await;
    scripted.publish(&contacts(0..30, "before")).await;
    scripted.both_are_as_they_must_be().await;
    scripted.is_live_and_well(&scripted.whole).await;
    let additions = [
        ("unique_index", "create unique index too_narrow on sequin.whole (upstream_id)"),
        ("check_constraint", "alter table sequin.whole add constraint nothing_new check (updated_idx < 1000000)"),
        ("trigger", "create trigger slow after insert on sequin.whole execute function sequin.nothing()"),
        (
            "foreign_key",
            "alter table sequin.whole add constraint refers foreign key (sequin_id) references sequin.other",
        ),
    ];
    scripted
        .database
        .run(
            "create function sequin.nothing() returns trigger language plpgsql as $$ begin return null; end $$;
             create table sequin.other (id uuid primary key);
             create function sequin.also_there() returns trigger language plpgsql as
               $$ begin insert into sequin.other values (new.sequin_id) on conflict do nothing; return new; end $$;
             create trigger before_it before insert on sequin.whole for each row execute function sequin.also_there();
             insert into sequin.other select sequin_id from sequin.whole;
             grant all on sequin.other to public",
        )
        .await;
    for (_, sql) in additions {
        scripted.database.run(sql).await;
    }
    let is_warned = |status: &ConsumerStatus| {
        status.state == RunState::Live && additions.iter().all(|(code, _)| has_reason(status, code, Severity::Warning))
    };
    scripted.status_is(&scripted.whole, "live, and warned of all four", is_warned).await;
    scripted.publish(&contacts(20..40, "after")).await;
    scripted.both_are_as_they_must_be().await;
    // Idle, it notices what stops it, too.
    scripted.database.run("alter table sequin.whole rename column payload to body").await;
    let is_halted = |status: &ConsumerStatus| {
        status.state == RunState::Halted && has_reason(status, "column_missing", Severity::Error)
    };
    scripted.status_is(&scripted.whole, "halted", is_halted).await;
    scripted.is_live_and_well(&scripted.broken).await;
}
