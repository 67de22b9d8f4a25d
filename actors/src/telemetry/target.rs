//! What a target counts: the sessions of its pool, and how its breaker does.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};

use super::registry::{Instruments, Registry};
use crate::flow::breaker::Circuit;

/// The states of a breaker, as they are reported: each by its place.
const CIRCUITS: [(Circuit, &str); 3] =
    [(Circuit::Closed, "closed"), (Circuit::HalfOpen, "half_open"), (Circuit::Open, "open")];

/// The sessions of a pool.
#[derive(Clone, Copy, Debug)]
pub struct SessionCounts {
    /// Those that nobody uses.
    pub idle: u32,
    /// Those that somebody uses.
    pub used: u32,
    /// How many there may be.
    pub max: u32,
}

type CountSessions = Box<dyn Fn() -> SessionCounts + Send + Sync>;

/// What a target counts.
pub struct TargetMetrics {
    pool: Arc<PoolMetrics>,
    /// Asks the pool that it has now.
    sessions: Mutex<Option<CountSessions>>,
    /// Which of [`CIRCUITS`] it is in, and how often it came to be in each.
    circuit: AtomicUsize,
    transitions: [AtomicU64; CIRCUITS.len()],
}

/// What its pools count, one after the other.
#[derive(Debug)]
pub struct PoolMetrics {
    labels: RwLock<Arc<Labels>>,
    waits: Histogram<f64>,
    creations: Histogram<f64>,
    pending: AtomicI64,
    timeouts: AtomicU64,
}

/// The attributes of each of its metrics, made once.
#[derive(Debug)]
struct Labels {
    target: [KeyValue; 1],
    circuits: [[KeyValue; 2]; CIRCUITS.len()],
    pool: [KeyValue; 1],
    idle: [KeyValue; 2],
    used: [KeyValue; 2],
}

impl Labels {
    fn of(target: &str) -> Self {
        let name = Arc::<str>::from(target);
        let target = KeyValue::new("sequin.target", Arc::clone(&name));
        let pool = KeyValue::new("db.client.connection.pool.name", name);
        let state = |state| [pool.clone(), KeyValue::new("db.client.connection.state", state)];
        Self {
            circuits: CIRCUITS.map(|(_, circuit)| [target.clone(), KeyValue::new("sequin.state", circuit)]),
            target: [target],
            idle: state("idle"),
            used: state("used"),
            pool: [pool],
        }
    }
}

impl TargetMetrics {
    pub(super) fn new(pool: PoolMetrics) -> Self {
        let circuit = place(Circuit::HalfOpen);
        Self {
            pool: Arc::new(pool),
            sessions: Mutex::default(),
            circuit: AtomicUsize::new(circuit),
            transitions: Default::default(),
        }
    }

    /// This is what it is called now.
    pub fn renamed(&self, target: &str) {
        *self.pool.labels.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Labels::of(target));
    }

    /// For its pools to count in.
    pub fn pool(&self) -> &Arc<PoolMetrics> {
        &self.pool
    }

    /// It has another pool now, of which this counts the sessions.
    pub fn has_pool(&self, sessions: impl Fn() -> SessionCounts + Send + Sync + 'static) {
        *self.sessions.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(sessions));
    }

    /// This is how its breaker is now.
    pub fn is_circuit(&self, circuit: Circuit) {
        let place = place(circuit);
        if self.circuit.swap(place, Ordering::Relaxed) != place {
            self.transitions[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sessions(&self) -> Option<SessionCounts> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|sessions| sessions())
    }
}

impl fmt::Debug for TargetMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetMetrics").field("pool", &self.pool).finish_non_exhaustive()
    }
}

fn place(circuit: Circuit) -> usize {
    CIRCUITS.iter().position(|(known, _)| *known == circuit).unwrap_or_default()
}

impl PoolMetrics {
    pub(super) fn new(target: &str, waits: Histogram<f64>, creations: Histogram<f64>) -> Self {
        let labels = RwLock::new(Arc::new(Labels::of(target)));
        Self { labels, waits, creations, pending: AtomicI64::new(0), timeouts: AtomicU64::new(0) }
    }

    fn labels(&self) -> Arc<Labels> {
        Arc::clone(&self.labels.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Somebody waits for a session, until what this returns is dropped.
    pub fn waits(&self) -> impl Drop + use<'_> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Pending(self)
    }

    /// Somebody got a session, after so long.
    pub fn got(&self, waited: Duration) {
        self.waits.record(waited.as_secs_f64(), &self.labels().pool);
    }

    /// Somebody waited for too long.
    pub fn timed_out(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// A session was opened in this time.
    pub fn created(&self, took: Duration) {
        self.creations.record(took.as_secs_f64(), &self.labels().pool);
    }
}

/// One that waits.
struct Pending<'a>(&'a PoolMetrics);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn register(meter: &Meter, targets: &Arc<Registry<TargetMetrics>>) {
    let instruments = Instruments::of(meter, targets);
    instruments.gauge(
        "sequin.target.breaker.state",
        "{state}",
        "Whether the target is used: 0 it is (closed), 1 it is being probed (half-open), 2 it is not (open).",
        |target, tell| tell(target.circuit.load(Ordering::Relaxed) as u64, &target.pool.labels().target),
    );
    instruments.counter(
        "sequin.target.breaker.transitions",
        "{transition}",
        "How often the breaker came to be in a state.",
        |target, tell| {
            let labels = target.pool.labels();
            for (transitions, label) in target.transitions.iter().zip(&labels.circuits) {
                tell(transitions.load(Ordering::Relaxed), label);
            }
        },
    );
    instruments.level(
        "db.client.connection.count",
        "{connection}",
        "Sessions of the pool of a target.",
        |target, tell| {
            let labels = target.pool.labels();
            if let Some(SessionCounts { idle, used, .. }) = target.sessions() {
                tell(idle.into(), &labels.idle);
                tell(used.into(), &labels.used);
            }
        },
    );
    instruments.level(
        "db.client.connection.max",
        "{connection}",
        "Sessions that the pool may have.",
        |target, tell| {
            if let Some(SessionCounts { max, .. }) = target.sessions() {
                tell(max.into(), &target.pool.labels().pool);
            }
        },
    );
    instruments.level(
        "db.client.connection.pending_requests",
        "{request}",
        "Those that wait for a session.",
        |target, tell| tell(target.pool.pending.load(Ordering::Relaxed), &target.pool.labels().pool),
    );
    instruments.counter(
        "db.client.connection.timeouts",
        "{timeout}",
        "Those that waited for a session for too long.",
        |target, tell| tell(target.pool.timeouts.load(Ordering::Relaxed), &target.pool.labels().pool),
    );
}
