//! The engine in this process, on a data directory, to be stopped and cut off at will.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use sequin_actors::{
    CheckReport, Engine, EngineHandle, EngineSettings,
    model::{
        Checkpoint, Connection, Consumer, ConsumerId, Desired, Filter, Limits, Metadata, Quarantined, Rewind, Secret,
        SyncId, TableName, Target, TargetId, TargetStatus, Tls, UnsupportedText,
    },
    postgres::Fault,
    store::{Documents, Keyring, SqliteStore},
    stream::{RecordStream, SqliteStream},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{
    database::{Database, PASSWORD, SCHEMA},
    eventually, holds,
    model::{Version, provider, publication},
};

/// A data directory, and what runs on it. Nothing of it may be used from async code.
pub(crate) struct Place {
    directory: TempDir,
    key: String,
    consumers: Vec<Consumer>,
    /// `None` while nothing of the directory is open.
    open: Option<Open>,
}

struct Open {
    engine: Option<EngineHandle>,
    documents: Documents,
    stream: Arc<SqliteStream>,
    /// Everything runs here; dropping it cuts that off. Dropped last.
    runtime: Runtime,
}

/// A consumer that runs, of the filter that the API would take, to the table `table`.
pub(crate) fn forwarding(table: &str, filter: Filter) -> Consumer {
    let now = Utc::now();
    Consumer {
        id: ConsumerId::generate(),
        name: table.into(),
        target: TargetId(Uuid::nil()),
        filter,
        table: TableName { schema: SCHEMA.into(), table: table.into() },
        unsupported_text: UnsupportedText::default(),
        lag_threshold_seconds: 300,
        lag_threshold_records: None,
        metadata: Metadata::new(),
        desired: Desired::Running,
        attempt: 0,
        rewind: Rewind::default(),
        created_at: now,
        updated_at: now,
    }
}

/// The records of one sync.
pub(crate) fn of_sync(sync: Uuid) -> Filter {
    Filter::Sync(SyncId(sync))
}

/// The records of one provider.
pub(crate) fn of_provider(slug: &str) -> Filter {
    Filter::Provider(provider(slug))
}

/// The target that consumers made here write to.
pub(crate) fn target(database: &Database) -> Target {
    let now = Utc::now();
    Target {
        id: TargetId(Uuid::nil()),
        name: "app".into(),
        connection: Connection {
            host: "127.0.0.1".into(),
            port: database.server.port(),
            database: database.name.clone(),
            username: database.user.clone(),
            password: Some(Secret::new(PASSWORD)),
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        },
        pool_size: 4,
        limits: Limits::default(),
        metadata: Metadata::new(),
        created_at: now,
        updated_at: now,
    }
}

impl Place {
    /// A directory whose store has the database as a target, and the consumers.
    pub(crate) fn new(database: &Database, consumers: &[Consumer]) -> Self {
        Self::to(&target(database), consumers)
    }

    /// The same, whatever the way to the database.
    pub(crate) fn to(target: &Target, consumers: &[Consumer]) -> Self {
        let mut place = Self {
            directory: tempfile::tempdir().expect("a directory"),
            key: Keyring::generate_base64(),
            consumers: consumers.to_vec(),
            open: None,
        };
        let open = place.open();
        open.runtime.block_on(async {
            open.documents.create(target, Utc::now()).await.expect("a target");
            for consumer in consumers {
                open.documents.create(consumer, Utc::now()).await.expect("a consumer");
            }
        });
        place
    }

    /// Starts an engine, if none runs.
    pub(crate) fn start(&mut self, writers: usize, consumer_budget_bytes: usize) {
        let open = self.open();
        if open.engine.is_none() {
            let settings = EngineSettings { writers, consumer_budget_bytes, ..EngineSettings::default() };
            let stream: Arc<dyn RecordStream> = open.stream.clone();
            let engine = Engine::start(settings, stream, open.documents.clone());
            open.engine = Some(open.runtime.block_on(engine).expect("an engine"));
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.engine.is_some())
    }

    /// Lets the engine, if one runs, finish what is in flight.
    pub(crate) fn stop(&mut self) {
        let open = self.open();
        if let Some(engine) = open.engine.take() {
            open.runtime.block_on(engine.stop());
        }
    }

    /// Ends everything where it is, as far as that can be had without killing a process.
    pub(crate) fn cut_off(&mut self) {
        if let Some(Open { engine, documents, stream, runtime }) = self.open.take() {
            runtime.shutdown_timeout(Duration::from_secs(30));
            drop((engine, documents, stream));
        }
    }

    /// Publishes, and returns the position of the last version.
    pub(crate) fn publish(&mut self, versions: &[Version]) -> i64 {
        let open = self.open();
        let published = open.runtime.block_on(open.stream.publish(publication(versions)));
        published.expect("published").last.as_bigint()
    }

    /// Pauses or resumes all consumers.
    pub(crate) fn pause(&mut self, pause: bool) {
        for consumer in &mut self.consumers {
            consumer.desired = if pause { Desired::Paused } else { Desired::Running };
            consumer.attempt += 1;
        }
        let consumers = self.consumers.clone();
        let open = self.open();
        open.runtime.block_on(async {
            for consumer in &consumers {
                open.documents.put(consumer.id, consumer).await.expect("written");
            }
        });
    }

    /// Waits until every consumer has brought everything up to its position at least, and has said so.
    pub(crate) fn reaches(&mut self, positions: &[i64]) {
        let ids: Vec<_> = self.consumers.iter().map(|consumer| consumer.id).collect();
        let open = self.open();
        open.runtime.block_on(eventually("the checkpoints to be at the end", async || {
            let mut reached = Vec::new();
            for &id in &ids {
                let checkpoint = open.documents.get::<Checkpoint>(id).await.expect("read");
                reached.push(checkpoint.map_or(0, |saved| saved.value.idx.as_bigint()));
            }
            let is_there = reached.iter().zip(positions).all(|(reached, position)| reached >= position);
            holds(is_there, || format!("they are at {reached:?}, not {positions:?}"))
        }));
    }

    /// Waits until the target is unhealthy, and says so in these words.
    pub(crate) fn target_says(&mut self, words: &str) {
        let open = self.open();
        open.runtime.block_on(eventually(&format!("the target to say {words:?}"), async || {
            let status = open.documents.get::<TargetStatus>(TargetId(Uuid::nil())).await.expect("read");
            let reason = status.and_then(|status| status.value.reason);
            let says = reason.as_ref().is_some_and(|reason| reason.summary.contains(words));
            holds(says, || format!("it says {reason:?}"))
        }));
    }

    /// Waits until no record of any consumer is in quarantine.
    pub(crate) fn holds_nothing_in_quarantine(&mut self) {
        let ids: Vec<_> = self.consumers.iter().map(|consumer| consumer.id).collect();
        let open = self.open();
        open.runtime.block_on(eventually("the quarantine to be empty", async || {
            let mut entries = Vec::new();
            for &id in &ids {
                entries.extend(open.documents.all_of::<Quarantined>(id).await.expect("read"));
            }
            holds(entries.is_empty(), || format!("it holds {entries:?}"))
        }));
    }

    /// Opens the directory, as a process does that starts.
    fn open(&mut self) -> &mut Open {
        let (directory, key) = (self.directory.path(), &self.key);
        self.open.get_or_insert_with(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let (stream, store) = runtime.block_on(async {
                let stream = SqliteStream::open(&directory.join("records.db")).expect("a stream");
                (stream, SqliteStore::open(&directory.join("control.db")).await.expect("a store"))
            });
            let keyring = Keyring::from_base64(key).expect("a key");
            let documents = Documents::new(Arc::new(store), Arc::new(keyring));
            Open { engine: None, documents, stream: Arc::new(stream), runtime }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cut_off();
    }
}

/// What a check says of the way, for those who go no further than that.
pub(crate) trait CameTo {
    fn came_to(self) -> Result<CheckReport, Fault>;
}

impl CameTo for CheckReport {
    fn came_to(self) -> Result<CheckReport, Fault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self),
        }
    }
}
