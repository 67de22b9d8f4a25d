//! Sessions with a target: how they are opened, and what they are prepared for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_postgres::{
    Client, Config,
    config::{self, SslMode},
};

use super::{
    catalog::{COPY_TO_STAGE, Statements, column_types, create_stage},
    credentials::Credentials,
    error::{Fault, Verdict},
    fence::{self, Alive, Backend, LiveSessions},
    novelty::Novelty,
    pooler::{self, Mark, OneProcess, Place},
    reach::{Egress, Route, StepName, Walk},
};
use crate::{
    model::{ChannelBinding, Connection, FieldError, Limits, TableName, Target, TlsMode},
    spans::Database,
};

/// After this long without a word, a connection that the server does not answer on counts as dead.
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(30);

/// What every session sets: limits on how long it may be in anybody's way, no schema but those that are named,
/// no just-in-time compilation, which costs more than it saves on statements like ours, and no plan that reads a whole
/// table: one that was made while the table was empty would be kept while it fills.
fn settings(limits: Limits) -> String {
    let Limits { statement_timeout_seconds, lock_timeout_seconds, .. } = limits;
    format!(
        "set enable_seqscan = off; set statement_timeout = '{statement_timeout_seconds}s'; \
         set lock_timeout = '{lock_timeout_seconds}s'; set idle_in_transaction_session_timeout = '60s'; \
         set search_path = ''; set jit = off; set client_min_messages = 'warning'"
    )
}

/// One session, and what it has been prepared for.
pub struct Session {
    pub(super) client: Client,
    stage: Stage,
    tables: HashMap<TableName, Arc<PreparedTable>>,
    staged: HashMap<TableName, Arc<Staged>>,
    direct: HashMap<TableName, Arc<Direct>>,
    /// Whether something is under way; what was dropped half way leaves this set, and the session is not used again.
    pub(super) is_busy: bool,
    rested_since: Instant,
    /// As spans name it.
    pub(super) database: Database,
    sessions: Arc<LiveSessions>,
    alive: Alive,
}

/// Whether a session has a stage: a temporary table, which takes the right to make one.
#[derive(Clone)]
enum Stage {
    Untried,
    Refused,
    /// The COPY that fills it.
    There(tokio_postgres::Statement),
}

/// A table's statements, prepared in one session.
pub(super) struct PreparedTable {
    pub(super) upsert_arrays: tokio_postgres::Statement,
    pub(super) delete: tokio_postgres::Statement,
}

/// The statements by which a table is written through the stage.
pub(super) struct Staged {
    pub(super) copy: tokio_postgres::Statement,
    pub(super) upsert: tokio_postgres::Statement,
}

/// The statements by which rows that are new are copied into a table itself.
pub(super) struct Direct {
    /// The server's time, and one row of those that are there already.
    pub(super) sample: tokio_postgres::Statement,
    pub(super) copy: tokio_postgres::Statement,
    pub(super) novelty: Novelty,
}

/// How to open sessions with a database.
pub(super) struct Opener {
    route: Route,
    config: Config,
    credentials: Credentials,
    /// What every session sets.
    settings: String,
    database: Database,
    live: Arc<LiveSessions>,
    one_process: OneProcess,
}

impl Opener {
    /// For the sessions of a target that is ours.
    pub(super) fn new(target: &Target, egress: &Egress, live: Arc<LiveSessions>) -> Result<Self, FieldError> {
        let name = live.application_name();
        Self::named(&target.connection, target.limits, egress, &name, live)
    }

    fn named(
        connection: &Connection,
        limits: Limits,
        egress: &Egress,
        application_name: &str,
        live: Arc<LiveSessions>,
    ) -> Result<Self, FieldError> {
        let route = Route::new(connection, egress)?;
        let config = config(connection, application_name);
        let (settings, database) = (settings(limits), Database::of(connection));
        let credentials = Credentials::of(connection, egress);
        Ok(Self { route, config, credentials, settings, database, live, one_process: OneProcess::default() })
    }

    /// How long opening a session may take in all.
    pub(super) fn patience(&self) -> Duration {
        self.route.patience()
    }

    /// Opens a session, or gives up after a while.
    pub(super) async fn open(&self) -> Result<Session, Fault> {
        let opened = tokio::time::timeout(self.patience(), Box::pin(self.connect(&mut Walk::default()))).await;
        opened.unwrap_or_else(|_| Err(Fault::timed_out("connecting"))).map_err(Fault::while_connecting)
    }

    async fn connect(&self, walk: &mut Walk) -> Result<Session, Fault> {
        let _opening = self.live.opening().await;
        let client = self.arrive(walk).await?;
        self.settle(client, walk).await
    }

    /// Gets to the database, with the password as it is now, and does nothing there.
    pub(super) async fn arrive(&self, walk: &mut Walk) -> Result<Client, Fault> {
        let mut config = self.config.clone();
        if let Some(password) = self.credentials.password().await? {
            config.password(password.reveal());
        }
        Box::pin(self.route.connect(&config, walk)).await
    }

    /// How the connection that was made last is secured, in words; `None` where it is not.
    pub(super) fn secured_by(&self) -> Option<String> {
        self.route.secured_by()
    }

    /// Makes of a connection a session to work with.
    pub(super) async fn settle(&self, client: Client, walk: &mut Walk) -> Result<Session, Fault> {
        let (mark, arrive) = (Mark::generate(), || async { self.arrive(&mut Walk::default()).await });
        let kept = walk.step(StepName::Pooler, async {
            let Place { pid, mark: found, application_name } = pooler::mark(&client, &mark).await?;
            let alive = self.live.add(pid, &mark);
            if found.is_some_and(|found| self.live.has_left(pid, &found)) {
                return Err(pooler::shared("two sessions of ours were given one process of the server"));
            }
            self.one_process.prove(&client, &mark, arrive).await?;
            if self.config.get_application_name() != Some(&application_name) {
                return Err(Fault::application_name_lost(&application_name));
            }
            Ok(alive)
        });
        let alive = kept.await?;
        walk.found(|| "each session keeps a process of the server to itself".into());
        walk.step(StepName::SessionSettings, async { Ok(client.batch_execute(&self.settings).await?) }).await?;
        self.live.check_ours().await?;
        Ok(Session {
            client,
            stage: Stage::Untried,
            tables: HashMap::new(),
            staged: HashMap::new(),
            direct: HashMap::new(),
            is_busy: false,
            rested_since: Instant::now(),
            database: self.database.clone(),
            sessions: Arc::clone(&self.live),
            alive,
        })
    }
}

fn config(connection: &Connection, application_name: &str) -> Config {
    let mut config = Config::new();
    config
        .dbname(&connection.database)
        .user(&connection.username)
        .application_name(application_name)
        .tcp_user_timeout(UNANSWERED_TIMEOUT)
        .keepalives_idle(UNANSWERED_TIMEOUT / 2)
        .keepalives_interval(UNANSWERED_TIMEOUT / 6)
        .keepalives_retries(3)
        .ssl_mode(match connection.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        })
        .channel_binding(match connection.tls.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
    config
}

impl Session {
    /// Whether it can't be used again: it is closed, as far as is known here, or something was dropped half way.
    pub(super) fn is_spent(&self) -> bool {
        self.is_busy || self.client.is_closed()
    }

    /// Since when nobody uses it.
    pub(super) fn rested_since(&self) -> Instant {
        self.rested_since
    }

    /// From now on nobody uses it.
    pub(super) fn rests(&mut self) {
        self.rested_since = Instant::now();
    }

    /// Whether its server answers.
    pub(super) async fn ask(&mut self) -> Result<(), Fault> {
        self.is_busy = true;
        self.client.check_connection().await?;
        self.is_busy = false;
        Ok(())
    }

    /// The table's statements, prepared at its first use in this session.
    pub(super) async fn prepared(&mut self, table: &TableName) -> Result<Arc<PreparedTable>, tokio_postgres::Error> {
        if let Some(prepared) = self.tables.get(table) {
            return Ok(Arc::clone(prepared));
        }
        let statements = Statements::of(table);
        let prepared = Arc::new(PreparedTable {
            upsert_arrays: self.client.prepare(&statements.upsert_arrays).await?,
            delete: self.client.prepare(&statements.delete).await?,
        });
        self.tables.insert(table.clone(), Arc::clone(&prepared));
        Ok(prepared)
    }

    /// The statements that go through the stage, which is made at its first use; `None` where that is not allowed.
    pub(super) async fn staged(&mut self, table: &TableName) -> Result<Option<Arc<Staged>>, Fault> {
        if let Some(staged) = self.staged.get(table) {
            return Ok(Some(Arc::clone(staged)));
        }
        if let Stage::Untried = self.stage {
            self.stage = match self.client.batch_execute(&create_stage()).await.map_err(Fault::from) {
                Ok(()) => Stage::There(self.client.prepare(COPY_TO_STAGE).await?),
                Err(fault) if fault.verdict == Verdict::Table => Stage::Refused,
                Err(fault) => return Err(fault),
            };
        }
        let Stage::There(copy) = self.stage.clone() else { return Ok(None) };
        let upsert = self.client.prepare(&Statements::of(table).upsert_stage).await?;
        let staged = Arc::new(Staged { copy, upsert });
        self.staged.insert(table.clone(), Arc::clone(&staged));
        Ok(Some(staged))
    }

    /// The statements that copy into the table itself; `None` where its columns are of other types than what is copied,
    /// which a COPY would not notice.
    pub(super) async fn direct(&mut self, table: &TableName) -> Result<Option<Arc<Direct>>, tokio_postgres::Error> {
        if let Some(direct) = self.direct.get(table) {
            return Ok(Some(Arc::clone(direct)));
        }
        let statements = Statements::of(table);
        let sample = self.client.prepare(&statements.sample).await?;
        if !sample.columns()[1..].iter().map(tokio_postgres::Column::type_).eq(&column_types()) {
            return Ok(None);
        }
        let copy = self.client.prepare(&statements.copy).await?;
        let direct = Arc::new(Direct { sample, copy, novelty: Novelty::default() });
        self.direct.insert(table.clone(), Arc::clone(&direct));
        Ok(Some(direct))
    }

    /// Its process on the server.
    pub fn backend(&self) -> Backend {
        self.alive.backend
    }

    /// Whether the server no longer has another session's process.
    pub(super) async fn is_gone(&self, backend: Backend) -> Result<bool, Fault> {
        fence::is_gone(&self.client, backend).await
    }

    /// Ends the sessions of earlier runs: what they have under way can't take effect any more.
    pub async fn end_strays(&mut self) -> Result<(), Fault> {
        self.is_busy = true;
        self.database.command("fence", self.sessions.end_strays(&self.client)).await?;
        self.is_busy = false;
        Ok(())
    }
}

/// Who looks at a database, outside of any pool.
#[derive(Clone, Debug)]
pub struct Visitor {
    application_name: String,
    egress: Egress,
    pub(super) limits: Limits,
}

impl Visitor {
    /// Whose sessions are called so.
    pub fn new(application_name: String, egress: Egress) -> Self {
        Self { application_name, egress, limits: Limits::default() }
    }

    /// The same, who goes no further than these limits let him.
    #[must_use]
    pub fn within(&self, limits: Limits) -> Self {
        Self { limits, ..self.clone() }
    }

    /// Opens one session.
    pub(super) async fn connect(&self, connection: &Connection) -> Result<Session, Fault> {
        self.opener(connection)?.open().await
    }

    /// How it opens sessions.
    pub(super) fn opener(&self, connection: &Connection) -> Result<Opener, FieldError> {
        Opener::named(connection, self.limits, &self.egress, &self.application_name, Arc::default())
    }

    /// How it gets out.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }
}

impl From<FieldError> for Fault {
    fn from(FieldError { field, message }: FieldError) -> Self {
        Self::of_settings(format!("{field} {message}"))
    }
}
