//! Sessions with a target, and the pool that caps them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bb8::{ManageConnection, RunError};
use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::{Client, Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    catalog::{Statements, create_stage},
    error::{Fault, Verdict},
    fence::{Alive, LiveSessions},
    tls::{self, TlsError},
};
use crate::model::{Connection, TableName, Target, TlsMode};

/// How long one server may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a writer waits for a session that others use.
const POOL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a session may lie idle before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// After this long without a word, a connection that the server does not answer on counts as dead.
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(30);

/// What every session sets: limits on how long it may be in anybody's way, no schema but those that are named,
/// and no just-in-time compilation, which costs more than it saves on statements like ours.
const SETTINGS: &str = "set statement_timeout = '60s'; set lock_timeout = '10s'; \
     set idle_in_transaction_session_timeout = '60s'; set search_path = ''; set jit = off; \
     set client_min_messages = 'warning'";

/// The sessions of one target, capped, shared by all its consumers.
pub type Pool = bb8::Pool<Sessions>;

/// Why there is no session.
pub type PoolError = RunError<Fault>;

/// One session, and what it has been prepared for.
pub struct Session {
    pub(super) client: Client,
    /// Whether it has a stage: a temporary table, which takes the right to make one.
    has_stage: bool,
    tables: HashMap<TableName, Arc<PreparedTable>>,
    /// Whether a batch is under way; one that was dropped half way leaves this set, and the session is not used again.
    pub(super) is_writing: bool,
    sessions: Arc<LiveSessions>,
    _alive: Alive,
}

/// A table's statements, prepared in one session.
pub(super) struct PreparedTable {
    pub(super) upsert_arrays: tokio_postgres::Statement,
    pub(super) delete: tokio_postgres::Statement,
    /// With the COPY that comes before it; `None` where the session has no stage.
    pub(super) staged: Option<Staged>,
}

pub(super) struct Staged {
    pub(super) copy: tokio_postgres::Statement,
    pub(super) upsert: tokio_postgres::Statement,
}

/// Opens sessions, for the pool.
pub struct Sessions {
    connections: PostgresConnectionManager<MakeRustlsConnect>,
    live: Arc<LiveSessions>,
}

/// Makes the pool of a target. Nothing is connected before the first session is needed.
pub fn open_pool(target: &Target, application_name: &str, live: &Arc<LiveSessions>) -> Result<Pool, TlsError> {
    let sessions = Sessions::new(&target.connection, application_name, Arc::clone(live))?;
    let pool = Pool::builder()
        .max_size(target.pool_size)
        .min_idle(0)
        .retry_connection(false)
        .connection_timeout(POOL_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .build_unchecked(sessions);
    Ok(pool)
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            RunError::User(fault) => fault,
            RunError::TimedOut => Self::pool_exhausted(),
        }
    }
}

impl Sessions {
    fn new(connection: &Connection, application_name: &str, live: Arc<LiveSessions>) -> Result<Self, TlsError> {
        let connector = tls::connector(&connection.tls)?;
        let config = config(connection, application_name);
        Ok(Self { connections: PostgresConnectionManager::new(config, connector), live })
    }

    async fn open(&self) -> Result<Session, Fault> {
        let _opening = self.live.opening().await;
        let client = self.connections.connect().await?;
        let backend = client.query_one("select pg_catalog.pg_backend_pid()", &[]).await?.get(0);
        let alive = self.live.add(backend);
        client.batch_execute(SETTINGS).await?;
        let has_stage = match client.batch_execute(&create_stage()).await.map_err(Fault::from) {
            Ok(()) => true,
            Err(fault) if fault.verdict == Verdict::Table => false,
            Err(fault) => return Err(fault),
        };
        let sessions = Arc::clone(&self.live);
        Ok(Session { client, has_stage, tables: HashMap::new(), is_writing: false, sessions, _alive: alive })
    }
}

fn config(connection: &Connection, application_name: &str) -> Config {
    let mut config = Config::new();
    config
        .host(&connection.host)
        .port(connection.port)
        .dbname(&connection.database)
        .user(&connection.username)
        .application_name(application_name)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(UNANSWERED_TIMEOUT)
        .keepalives_idle(UNANSWERED_TIMEOUT)
        .ssl_mode(match connection.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
    if let Some(password) = &connection.password {
        config.password(password.reveal());
    }
    config
}

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = Fault;

    async fn connect(&self) -> Result<Session, Fault> {
        let opened = tokio::time::timeout(2 * CONNECT_TIMEOUT, self.open()).await;
        opened.unwrap_or_else(|_| Err(Fault::timed_out("connecting")))
    }

    /// Whether the session is still open, as far as is known here: to ask would cost each batch a round trip.
    async fn is_valid(&self, session: &mut Session) -> Result<(), Fault> {
        if self.has_broken(session) { Err(Fault::session_closed()) } else { Ok(()) }
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.is_writing || session.client.is_closed()
    }
}

impl Session {
    /// The table's statements, prepared at its first use in this session.
    pub(super) async fn prepared(&mut self, table: &TableName) -> Result<Arc<PreparedTable>, tokio_postgres::Error> {
        if let Some(prepared) = self.tables.get(table) {
            return Ok(Arc::clone(prepared));
        }
        let statements = Statements::of(table);
        let client = &self.client;
        let staged = if self.has_stage {
            Some(Staged {
                copy: client.prepare(statements.copy_to_stage).await?,
                upsert: client.prepare(&statements.upsert_stage).await?,
            })
        } else {
            None
        };
        let prepared = Arc::new(PreparedTable {
            upsert_arrays: client.prepare(&statements.upsert_arrays).await?,
            delete: client.prepare(&statements.delete).await?,
            staged,
        });
        self.tables.insert(table.clone(), Arc::clone(&prepared));
        Ok(prepared)
    }

    /// Ends the sessions of earlier runs: what they have under way can't take effect any more.
    pub async fn end_strays(&self) -> Result<(), Fault> {
        self.sessions.end_strays(&self.client).await
    }

    /// Whether the server answers, and takes writes: a replica, as after a failover, does not.
    pub async fn probe(&self) -> Result<(), Fault> {
        let only_reads = self.client.query_one("select pg_catalog.pg_is_in_recovery()", &[]).await?.get(0);
        if only_reads { Err(Fault::read_only()) } else { Ok(()) }
    }
}

/// What a check of a target found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The server's version, as it shows it.
    pub server_version: String,
    /// How long one question took.
    pub latency: Duration,
}

/// Connects once, outside of any pool, and asks a question.
pub async fn check(connection: &Connection, application_name: &str) -> Result<CheckReport, Fault> {
    let session = connect(connection, application_name).await?;
    let asked = Instant::now();
    let version = session.client.query_one("show server_version", &[]).await?;
    let latency = asked.elapsed();
    session.probe().await?;
    Ok(CheckReport { server_version: version.get(0), latency })
}

/// Opens one session outside of any pool.
pub(super) async fn connect(connection: &Connection, application_name: &str) -> Result<Session, Fault> {
    Sessions::new(connection, application_name, Arc::default())?.connect().await
}

impl From<TlsError> for Fault {
    fn from(error: TlsError) -> Self {
        Self::of_settings(error.to_string())
    }
}
