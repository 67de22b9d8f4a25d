//! The pool: the sessions of one target, capped, shared by all its consumers.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bb8::{ManageConnection, PooledConnection, QueueStrategy, RunError};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};

use super::{
    error::Fault,
    fence::{Backend, LiveSessions},
    reach::Egress,
    session::{Opener, Session},
    trust::{Knowledge, Trust},
};
use crate::{
    model::{FieldError, Limits, Target},
    telemetry::{PoolMetrics, SessionCounts},
};

/// How long to wait for a session that others use.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an idle session may take to answer before it is not believed to.
const IDLE_PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Who waits for longer, for a session or for what is done with one, looks whether that is in vain.
const SLOW: Duration = Duration::from_secs(3);

/// How long anything that is done with a session may take: longer than the server's own `statement_timeout` allows its
/// statements, of which one transaction has four that take long at most. What takes longer has lost its server.
fn longest(limits: &Limits) -> Duration {
    Duration::from_secs((u64::from(limits.statement_timeout_seconds) * 4 + 30).max(150))
}

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
    known: Arc<Knowledge>,
    metrics: Arc<PoolMetrics>,
    /// How long anything that is done with a session may take.
    longest: Duration,
    /// How long opening a session may take.
    patience: Duration,
}

/// Opens sessions, and says when that fails.
pub struct Sessions {
    opener: Opener,
    failed: watch::Sender<Option<Fault>>,
    known: Arc<Knowledge>,
    metrics: Arc<PoolMetrics>,
}

/// What becomes of the sessions that rest, once what was done with one has ended.
struct Outcome<'a> {
    known: &'a Knowledge,
    /// `Asked` unless it has ended by itself.
    others: Trust,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        match self.others {
            Trust::Believed => {}
            Trust::Asked => self.known.doubt(Instant::now()),
            Trust::Lost => self.known.lose(Instant::now()),
        }
    }
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
        let patience = opener.patience();
        let (failed, failures) = watch::channel(None);
        let known: Arc<Knowledge> = Arc::default();
        let sessions = bb8::Pool::builder()
            .max_size(target.pool_size)
            .min_idle(0)
            .retry_connection(false)
            .connection_timeout(BUSY_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            // Those that are not needed stay idle, and are closed.
            .queue_strategy(QueueStrategy::Lifo)
            .build_unchecked(Sessions { opener, failed, known: Arc::clone(&known), metrics: Arc::clone(metrics) });
        Ok(Self {
            sessions,
            failures,
            asking: Arc::default(),
            known,
            metrics: Arc::clone(metrics),
            longest: longest(&target.limits),
            patience,
        })
    }

    /// Takes a session, or says why there is none.
    ///
    /// bb8 opens sessions behind the scenes and keeps the failure to itself; who waits would wait to the end. It opens no more
    /// than wait for one, so that a single one who waits would wait for one whose opening hangs: he asks once more after a while.
    pub async fn get(&self) -> Result<PooledConnection<'_, Sessions>, Fault> {
        let mut failures = self.failures.clone();
        failures.mark_unchanged();
        let (_waiting, began) = (self.metrics.waits(), Instant::now());
        let mut asked = FuturesUnordered::from_iter([self.sessions.get()]);
        loop {
            tokio::select! {
                biased;
                Some(session) = asked.next() => {
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
                () = sleep(SLOW), if self.has_room() => asked.push(self.sessions.get()),
            }
        }
    }

    /// Whether one more session may be opened, those that are being opened left aside.
    fn has_room(&self) -> bool {
        self.sessions.state().connections < self.sessions.config().max_size
    }

    /// Waits for what is done with a session, but not for a server that no longer knows that session: whoever forgot the
    /// connection told neither end. `is_slow` hears of what takes suspiciously long.
    pub async fn outlast<T, E: From<Fault>>(
        &self,
        session: &OnceLock<Backend>,
        is_slow: impl Fn(),
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        // Dropped last: by then, its session is back in the pool.
        let mut outcome = Outcome { known: &self.known, others: Trust::Asked };
        let mut work = pin!(work);
        if let Ok(done) = timeout(SLOW, &mut work).await {
            outcome.others = Trust::Believed;
            return done;
        }
        is_slow();
        tokio::select! {
            done = work => {
                outcome.others = Trust::Believed;
                done
            }
            // Not just tried again: it may still take effect, until a new pipeline has ended what is left of it.
            () = self.has_taken_too_long(session) => Err(Fault::timed_out("a transaction").into()),
            () = self.is_lost(session) => {
                outcome.others = Trust::Lost;
                Err(Fault::session_closed().into())
            }
        }
    }

    /// Waits for as long as anything may take that is done with the session, once there is one.
    async fn has_taken_too_long(&self, session: &OnceLock<Backend>) {
        while session.get().is_none() {
            sleep(SLOW).await;
        }
        sleep(self.longest).await;
    }

    /// Waits until the server no longer knows the session: what is done with it then waits for nobody.
    async fn is_lost(&self, session: &OnceLock<Backend>) {
        loop {
            sleep(SLOW).await;
            if let Some(&session) = session.get()
                && self.has_lost(session).await
            {
                return;
            }
        }
    }

    /// How many sessions there are.
    pub fn counts(&self) -> SessionCounts {
        let (state, max) = (self.sessions.state(), self.sessions.config().max_size);
        let idle = state.idle_connections;
        SessionCounts { idle, used: state.connections.saturating_sub(idle), max }
    }

    /// How long a probe may take that finds no session which answers, and opens one: that gives up by itself, and knows why.
    pub fn patience(&self) -> Duration {
        IDLE_PROBE_TIMEOUT + self.patience
    }

    /// Asks the database whether it takes writes.
    ///
    /// An idle session is enough to hear that it does. To hear that it does not, it takes a session of its own: others may
    /// be busy, or broken.
    ///
    /// Where there are none yet, the one that is opened stays: it will be needed.
    ///
    /// Nor is it used while it has trouble of which `limits` speak.
    pub async fn probe(&self, limits: &Limits) -> Result<(), Fault> {
        let state = self.sessions.state();
        if state.connections == 0 {
            return self.probe_one(limits).await;
        }
        if state.idle_connections > 0 {
            match timeout(IDLE_PROBE_TIMEOUT, self.probe_one(limits)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(fault)) if fault.is_strained() || fault.is_of_pooler() => return Err(fault),
                Ok(Err(_)) => {}
                Err(_) => self.known.doubt(Instant::now()),
            }
        }
        let mut session = self.sessions.dedicated_connection().await?;
        session.probe(limits).await
    }

    /// Whether the server answers, and says that it no longer has this session: what waits for it waits in vain.
    async fn has_lost(&self, backend: Backend) -> bool {
        let _one_at_a_time = self.asking.lock().await;
        let Ok(session) = self.sessions.dedicated_connection().await else { return false };
        matches!(timeout(IDLE_PROBE_TIMEOUT, session.is_gone(backend)).await, Ok(Ok(true)))
    }

    async fn probe_one(&self, limits: &Limits) -> Result<(), Fault> {
        self.get().await?.probe(limits).await
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

    /// Asks it only after it has rested, or where another was lost: to ask each time would cost each batch a round trip.
    async fn is_valid(&self, session: &mut Session) -> Result<(), Fault> {
        if session.is_spent() {
            return Err(Fault::session_closed());
        }
        match self.known.of(session.rested_since(), Instant::now()) {
            Trust::Believed => Ok(()),
            Trust::Lost => Err(Fault::session_closed()),
            Trust::Asked => {
                let answer = timeout(IDLE_PROBE_TIMEOUT, session.ask()).await;
                if answer.is_err() {
                    self.known.lose(Instant::now());
                }
                answer.unwrap_or_else(|_| Err(Fault::timed_out("a session that was idle")))
            }
        }
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.rests();
        session.is_spent()
    }
}
