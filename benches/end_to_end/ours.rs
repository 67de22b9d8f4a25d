//! Ours: a stream and a store as one machine has them, or NATS, and an engine on top.

use std::{path::Path, sync::Arc, time::Duration};

use chrono::Utc;
use sequin::demo::{crm::PROVIDER, postgres::ThrowawayPostgres};
use sequin_actors::{
    Engine, EngineSettings,
    jetstream::{JetStream, NatsLogin, NatsSettings},
    model::{
        Connection, Consumer, ConsumerId, ConsumerStatus, Desired, Filter, Limits, Metadata, Provider, Rewind,
        RunState, Secret, TableName, Target, TargetId, Tls, TlsMode, UnsupportedText,
    },
    store::{Documents, JetStreamStore, Keyring, SqliteStore, Store},
    stream::{JetStreamStream, RecordStream, SqliteStream},
};

use super::{nats::Nats, rows::Rows};

pub(crate) struct Ours {
    stream: Arc<dyn RecordStream>,
    documents: Documents,
    target: TargetId,
}

impl Ours {
    /// Opens a data directory, with the server as its target.
    pub(crate) async fn open(directory: &Path, server: &ThrowawayPostgres) -> Self {
        let stream = Arc::new(SqliteStream::open(&directory.join("records.db")).expect("a stream"));
        let store = SqliteStore::open(&directory.join("control.db")).await.expect("a store");
        Self::on(stream, Arc::new(store), server).await
    }

    /// Opens what lies on NATS, with the server as its target.
    pub(crate) async fn open_on(nats: &Nats, server: &ThrowawayPostgres) -> Self {
        let connection = connect(nats).await;
        let stream = JetStreamStream::open(connection.clone()).await.expect("a stream");
        let store = JetStreamStore::open(connection).await.expect("a store");
        Self::on(Arc::new(stream), Arc::new(store), server).await
    }

    async fn on(stream: Arc<dyn RecordStream>, store: Arc<dyn Store>, server: &ThrowawayPostgres) -> Self {
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(store, Arc::new(keyring));
        let target = target(server);
        documents.create(&target, Utc::now()).await.expect("a target");
        Self { stream, documents, target: target.id }
    }

    /// Publishes the rows.
    pub(crate) async fn publish(&mut self, rows: Rows<'_>) {
        for publication in rows {
            self.stream.publish(publication).await.expect("published");
        }
    }

    /// Brings all that the stream holds to the table, by an engine and a consumer of its own; returns what the consumer
    /// says that its backfill took.
    pub(crate) async fn backfill(&self, name: &str, table: &TableName) -> Duration {
        self.backfill_some(name, Filter::Provider(Provider::parse(PROVIDER).expect("a slug")), table).await
    }

    /// The same with what a filter lets through.
    pub(crate) async fn backfill_some(&self, name: &str, filter: Filter, table: &TableName) -> Duration {
        let consumer = consumer(name, self.target, filter, table);
        let revision = self.documents.create(&consumer, consumer.created_at).await.expect("a consumer");
        let engine = Engine::start(EngineSettings::default(), Arc::clone(&self.stream), self.documents.clone());
        let engine = engine.await.expect("an engine");
        let took = self.backfill_of(consumer.id).await;
        engine.stop().await;
        self.documents.delete_named(&consumer, revision).await.expect("deleted");
        took
    }

    async fn backfill_of(&self, consumer: ConsumerId) -> Duration {
        let mut watch = self.documents.watch::<ConsumerStatus>().await.expect("a watch");
        loop {
            watch.next().await.expect("an event");
            let status = self.documents.get::<ConsumerStatus>(consumer).await.expect("read");
            let Some(status) = status.map(|found| found.value) else { continue };
            assert_ne!(status.state, RunState::Halted, "{:?}", status.reasons);
            let backfill = status.backfill;
            if let Some(backfill) = backfill
                && let Some(finished_at) = backfill.finished_at
            {
                return (finished_at - backfill.started_at).to_std().expect("in this order");
            }
        }
    }
}

/// A connection to NATS, as a node of a new cluster has it.
pub(crate) async fn connect(nats: &Nats) -> JetStream {
    let settings = NatsSettings {
        servers: nats
            .url()
            .split(',')
            .map(|server| format!("nats://{}", server.trim_start_matches("nats://")))
            .collect(),
        login: NatsLogin::Nobody,
        ca_file: None,
        cert_file: None,
        key_file: None,
        replicas: None,
    };
    JetStream::connect(&settings, &EngineSettings::default().cluster).await.expect("NATS")
}

/// The server as a target.
pub(crate) fn target(server: &ThrowawayPostgres) -> Target {
    let now = Utc::now();
    let connection = Connection {
        host: "127.0.0.1".into(),
        port: server.port(),
        database: "postgres".into(),
        username: server.superuser().into(),
        password: Some(Secret::new(server.password())),
        password_file: None,
        tls: Tls { mode: TlsMode::Disable, ..Tls::default() },
        bastion: None,
    };
    Target {
        id: TargetId::generate(),
        name: "bench".into(),
        connection,
        pool_size: 4,
        limits: Limits::default(),
        metadata: Metadata::new(),
        created_at: now,
        updated_at: now,
    }
}

/// A consumer of what a filter lets through.
pub(crate) fn consumer(name: &str, target: TargetId, filter: Filter, table: &TableName) -> Consumer {
    let now = Utc::now();
    Consumer {
        id: ConsumerId::generate(),
        name: name.into(),
        target,
        filter,
        table: table.clone(),
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
