//! The pool: the sessions of one target, capped, shared by all its consumers.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bb8::{ManageConnection, PooledConnection, QueueStrategy, RunError};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

use super::{
    error::Fault,
    fence::{Backend, LiveSessions},
    reach::Egress,
    session::{Opener, Session},
};
use crate::{
    model::{FieldError, Target},
    telemetry::{PoolMetrics, SessionCounts},
};

/// How long to wait for a session that others use.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an idle session may take to answer before it is not believed to.
const IDLE_PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a session may lie idle before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The sessions of one target.
#[derive(Clone)]
pub struct Pool {
    sessions: bb8::Pool<Sessions>,
    /// Why the last session that could not be opened could not.
    failures: watch::Receiver<Option<Fault>>,
    /// Held by who opens a session to ask after another.
    asking: Arc<Mutex<()>>,
    metrics: Arc<PoolMetrics>,
}

/// Opens sessions, and says when that fails.
pub struct Sessions {
    opener: Opener,
    failed: watch::Sender<Option<Fault>>,
    metrics: Arc<PoolMetrics>,
}

impl Pool {
    /// Makes the pool. Nothing is connected before the first session is needed.
    pub fn new(
        target: &Target,
        egress: &Egress,
        live: &Arc<LiveSessions>,
        metrics: &Arc<PoolMetrics>,
    ) -> Result<Self, FieldError> {
        let opener = Opener::new(target, egress, Arc::clone(live))?;
        let (failed, failures) = watch::channel(None);
        let sessions = bb8::Pool::builder()
            .max_size(target.pool_size)
            .min_idle(0)
            .retry_connection(false)
            .connection_timeout(BUSY_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            // Those that are not needed stay idle, and are closed.
            .queue_strategy(QueueStrategy::Lifo)
            .build_unchecked(Sessions { opener, failed, metrics: Arc::clone(metrics) });
        Ok(Self { sessions, failures, asking: Arc::default(), metrics: Arc::clone(metrics) })
    }

    /// Takes a session, or says why there is none.
    ///
    /// bb8 opens sessions behind the scenes and keeps the failure to itself; who waits would wait to the end.
    pub async fn get(&self) -> Result<PooledConnection<'_, Sessions>, Fault> {
        let mut failures = self.failures.clone();
        failures.mark_unchanged();
        let (_waiting, began) = (self.metrics.waits(), Instant::now());
        let mut session = pin!(self.sessions.get());
        loop {
            tokio::select! {
                biased;
                session = &mut session => {
                    match &session {
                        Ok(_) => self.metrics.got(began.elapsed()),
                        Err(RunError::TimedOut) => self.metrics.timed_out(),
                        Err(RunError::User(_)) => {}
                    }
                    return session.map_err(explain);
                }
                Ok(()) = failures.changed() => {
                    let fault = failures.borrow_and_update().clone().unwrap_or_else(Fault::session_closed);
                    // A server that is full has room for the sessions that are there: one of them will be free.
                    if !(fault.is_full() && self.sessions.state().connections > 0) {
                        return Err(fault);
                    }
                }
            }
        }
    }

    /// How many sessions there are.
    pub fn counts(&self) -> SessionCounts {
        let (state, max) = (self.sessions.state(), self.sessions.config().max_size);
        let idle = state.idle_connections;
        SessionCounts { idle, used: state.connections.saturating_sub(idle), max }
    }

    /// Asks the database whether it takes writes.
    ///
    /// An idle session is enough to hear that it does. To hear that it does not, it takes a session of its own: others may
    /// be busy, or broken.
    ///
    /// Where there are none yet, the one that is opened stays: it will be needed.
    pub async fn probe(&self) -> Result<(), Fault> {
        let state = self.sessions.state();
        if state.connections == 0 {
            return self.probe_one().await;
        }
        if state.idle_connections > 0 && matches!(timeout(IDLE_PROBE_TIMEOUT, self.probe_one()).await, Ok(Ok(()))) {
            return Ok(());
        }
        let session = self.sessions.dedicated_connection().await?;
        session.probe().await
    }

    /// Whether the server answers, and says that it no longer has this session: what waits for it waits in vain.
    pub async fn has_lost(&self, backend: Backend) -> bool {
        let _one_at_a_time = self.asking.lock().await;
        let Ok(session) = self.sessions.dedicated_connection().await else { return false };
        matches!(timeout(IDLE_PROBE_TIMEOUT, session.is_gone(backend)).await, Ok(Ok(true)))
    }

    async fn probe_one(&self) -> Result<(), Fault> {
        self.get().await?.probe().await
    }
}

fn explain(error: RunError<Fault>) -> Fault {
    match error {
        RunError::User(fault) => fault,
        RunError::TimedOut => Fault::pool_exhausted(),
    }
}

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = Fault;

    async fn connect(&self) -> Result<Session, Fault> {
        let began = Instant::now();
        let opened = self.opener.open().await;
        match &opened {
            Ok(_) => self.metrics.created(began.elapsed()),
            Err(fault) => drop(self.failed.send_replace(Some(fault.clone()))),
        }
        opened
    }

    /// Asks nobody: that would cost each batch a round trip.
    async fn is_valid(&self, session: &mut Session) -> Result<(), Fault> {
        if session.is_spent() { Err(Fault::session_closed()) } else { Ok(()) }
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.is_spent()
    }
}
