//! The engine: the actors of one node, started and stopped as a whole.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorRef, concurrency::JoinHandle};

use crate::{
    context::{Context, EngineSettings},
    model::{Bastion, Connection, FieldError, SyncId, TableName, Target},
    postgres::{self, CheckReport, Egress, Fault, Finding, View, ViewsWanted, Visitor},
    store::Documents,
    stream::RecordStream,
    supervisor::{Supervisor, SupervisorMessage},
};

/// An engine that can't be started.
#[derive(Debug, thiserror::Error)]
#[error("the engine did not start: {0}")]
pub struct EngineError(String);

/// The actors of one node.
pub struct Engine;

/// A running engine. [`EngineHandle::ended`] tells if it ends by itself, which it does only by a bug. Dropping it leaves the actors running; [`EngineHandle::stop`] ends them.
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
    /// Waits until the root of the actors has ended, and with it all of them.
    pub async fn ended(&mut self) {
        // A task's end can be awaited once.
        if !self.ended.is_finished() {
            let _ = (&mut self.ended).await;
        }
    }

    /// Lets every consumer finish what is in flight and save its checkpoint, within the drain deadline.
    pub async fn stop(mut self) {
        let _ = self.supervisor.cast(SupervisorMessage::Drain);
        // Time for the last words after the drain itself.
        let deadline = self.settings.drain_deadline + Duration::from_secs(5);
        if tokio::time::timeout(deadline, self.ended()).await.is_err() {
            tracing::warn!("stopped with records in flight; they are read again from the checkpoints");
            self.supervisor.kill();
        }
    }
}

/// Questions about a database, asked outside of any actor and any pool, and the SQL that people run there.
#[derive(Clone, Debug)]
pub struct Inspector {
    visitor: Visitor,
    egress: Egress,
}

impl Inspector {
    /// What `settings` call the sessions.
    pub fn new(settings: &EngineSettings) -> Self {
        let egress = settings.egress.clone();
        Self { visitor: Visitor::new(format!("sequin/{}", settings.cluster), egress.clone()), egress }
    }

    /// Whether the connection's settings can be used at all.
    pub async fn check_settings(&self, connection: &Connection) -> Result<(), FieldError> {
        if connection.password_file.is_some() && self.egress().secrets_directory.is_none() {
            let message = "needs a directory of secrets: set SEQUIN_SECRETS_DIR on every node";
            return Err(FieldError::new("connection.password_file", message));
        }
        let connection = connection.clone();
        // To open a private key by its passphrase is work.
        let checked = tokio::task::spawn_blocking(move || postgres::check_settings(&connection)).await;
        checked.unwrap_or_else(|_| Err(FieldError::new("connection", "can't be read: that broke off")))
    }

    /// How the node gets out to databases.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Walks the way to a target's database and to these tables there, within its limits, step by step.
    pub async fn check_target(&self, target: &Target, tables: &[TableName]) -> CheckReport {
        self.visitor.within(target.limits).check(&target.connection, tables).await
    }

    /// The same, to a database that is no target's yet.
    pub async fn check(&self, connection: &Connection, tables: &[TableName]) -> CheckReport {
        self.visitor.check(connection, tables).await
    }

    /// The public keys that a bastion shows, one a line, to be its `host_key` once somebody has confirmed them. We do not log in
    /// to it.
    pub async fn see_host_key(&self, bastion: &Bastion) -> Result<String, Fault> {
        Ok(postgres::see_host_keys(bastion, &self.egress).await?.join("\n"))
    }

    /// Compares a table with what it should be.
    pub async fn verify(&self, target: &Target, table: &TableName) -> Result<Vec<Finding>, Fault> {
        postgres::verify(&target.connection, &self.visitor.within(target.limits), table).await
    }

    /// The statements that make the user that we connect as, a schema for it, and the rights that it needs there; and, as
    /// comments, what lets us in there.
    pub fn setup_sql(&self, connection: &Connection, schema: &str) -> String {
        let sql = postgres::setup_sql(&connection.database, &connection.username, schema);
        sql + &postgres::admission(connection, &self.egress().addresses)
    }

    /// The statement that removes from a table what it holds of a sync, or of one collection of it.
    pub fn cleanup_sql(&self, table: &TableName, sync: SyncId, collection: Option<&str>) -> String {
        postgres::cleanup_sql(table, sync, collection)
    }

    /// The statements that make the schema, where it is not there, and the table.
    pub fn create_table_sql(&self, table: &TableName) -> String {
        postgres::create_table_sql(table)
    }

    /// Makes the table, and its schema where it is not there; returns what was run, or `None` if it was there.
    pub async fn create_table(&self, target: &Target, table: &TableName) -> Result<Option<String>, Fault> {
        postgres::create_table(&target.connection, &self.visitor.within(target.limits), table).await
    }

    /// Writes a view for each collection that a sample of the table shows.
    pub async fn views(&self, target: &Target, table: &TableName, wanted: ViewsWanted<'_>) -> Result<Vec<View>, Fault> {
        postgres::views(&target.connection, &self.visitor.within(target.limits), table, wanted).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{Keyring, SqliteStore},
        stream::SqliteStream,
    };

    #[tokio::test]
    async fn an_engine_that_ends_by_itself_tells_so_however_often_it_is_asked_and_can_be_stopped() {
        let directory = tempfile::tempdir().expect("a directory");
        let stream = SqliteStream::open(&directory.path().join("records.db")).expect("a stream");
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(Arc::new(store), Arc::new(keyring));
        let started = Engine::start(EngineSettings::default(), Arc::new(stream), documents).await;
        let mut engine = started.expect("an engine");
        let is_running = tokio::time::timeout(Duration::from_millis(50), engine.ended()).await.is_err();
        assert!(is_running);
        engine.supervisor.kill();
        engine.ended().await;
        engine.ended().await;
        engine.stop().await;
    }
}
