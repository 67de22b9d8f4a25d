//! The engine: the actors of one node, started and stopped as a whole.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use ractor::{Actor, ActorRef, concurrency::JoinHandle};

use crate::{
    context::Context,
    model::{Connection, TableName, Target, TargetId},
    postgres::{self, CheckReport, Fault, Finding},
    store::Documents,
    stream::RecordStream,
    supervisor::{Supervisor, SupervisorMessage},
};

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The name of the cluster.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    /// How many writers each consumer has.
    pub writers: usize,
    /// How many bytes of records one consumer may have in flight.
    pub consumer_budget_bytes: usize,
    /// How many bytes of records all consumers of this node together may have in flight.
    pub node_budget_bytes: usize,
    /// How long a consumer that stops may take to finish what is in flight.
    pub drain_deadline: Duration,
    /// How long a tombstone is kept at least.
    pub tombstone_retention: TimeDelta,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            cluster: "sequin".into(),
            node: "localhost".into(),
            writers: 4,
            consumer_budget_bytes: 32 * 1024 * 1024,
            node_budget_bytes: 96 * 1024 * 1024,
            drain_deadline: Duration::from_secs(20),
            tombstone_retention: TimeDelta::days(7),
        }
    }
}

impl EngineSettings {
    /// What the sessions with a target are called in the database.
    pub(crate) fn application_name(&self, target: TargetId) -> String {
        format!("sequin/{}/{target}", self.cluster)
    }
}

/// An engine that can't be started.
#[derive(Debug, thiserror::Error)]
#[error("the engine did not start: {0}")]
pub struct EngineError(String);

/// The actors of one node.
pub struct Engine;

/// A running engine. Dropping it leaves the actors running; [`EngineHandle::stop`] ends them.
pub struct EngineHandle {
    supervisor: ActorRef<SupervisorMessage>,
    ended: JoinHandle<()>,
    settings: EngineSettings,
}

impl Engine {
    /// Starts the actors. What they run is what `documents` say, now and from now on.
    pub async fn start(
        settings: EngineSettings,
        stream: Arc<dyn RecordStream>,
        documents: Documents,
    ) -> Result<EngineHandle, EngineError> {
        let context = Arc::new(Context::new(settings.clone(), stream, documents));
        let started = Actor::spawn(None, Supervisor, context).await;
        let (supervisor, ended) = started.map_err(|error| EngineError(error.to_string()))?;
        Ok(EngineHandle { supervisor, ended, settings })
    }
}

impl EngineHandle {
    /// Lets every consumer finish what is in flight and save its checkpoint, within the drain deadline.
    pub async fn stop(self) {
        let _ = self.supervisor.cast(SupervisorMessage::Drain);
        // Time for the last words after the drain itself.
        let deadline = self.settings.drain_deadline + Duration::from_secs(5);
        if tokio::time::timeout(deadline, self.ended).await.is_err() {
            tracing::warn!("stopped with records in flight; they are read again from the checkpoints");
            self.supervisor.kill();
        }
    }
}

/// Questions about a database, asked outside of any actor and any pool, and the SQL that people run there.
#[derive(Clone, Debug)]
pub struct Inspector {
    application_name: String,
}

impl Inspector {
    /// What `settings` call the sessions.
    pub fn new(settings: &EngineSettings) -> Self {
        Self { application_name: format!("sequin/{}", settings.cluster) }
    }

    /// Connects, and asks whether the database takes writes.
    pub async fn check(&self, connection: &Connection) -> Result<CheckReport, Fault> {
        postgres::check(connection, &self.application_name).await
    }

    /// Compares a table with what it should be.
    pub async fn verify(&self, target: &Target, table: &TableName) -> Result<Vec<Finding>, Fault> {
        postgres::verify(&target.connection, &self.application_name, table).await
    }

    /// The statements that make the user that we connect as, a schema for it, and the rights that it needs there.
    pub fn setup_sql(&self, connection: &Connection, schema: &str) -> String {
        postgres::setup_sql(&connection.database, &connection.username, schema)
    }

    /// The statements that make the schema, where it is not there, and the table.
    pub fn create_table_sql(&self, table: &TableName) -> String {
        postgres::create_table_sql(table)
    }
}
