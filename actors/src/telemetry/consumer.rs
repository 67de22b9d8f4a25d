//! What a consumer counts and measures. Its target's actor keeps it, so it goes on counting when the consumer's actor is
//! started again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};

use super::{
    DURATIONS, messaging,
    registry::{Instruments, Registry},
    seconds,
};
use crate::{
    flow::blocked::Blocked,
    model::{Applied, Backfill, Consumer, Filter, Lag, RunState},
};

/// Where delays are told apart, in seconds: what is live takes milliseconds, and what comes after an outage hours.
const DELAYS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// Where batches are told apart, in records.
const SIZES: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2500.0, 5000.0];

/// The states, as they are reported.
const STATES: [(RunState, &str); 5] = [
    (RunState::Backfilling, "backfilling"),
    (RunState::Live, "live"),
    (RunState::Waiting, "waiting"),
    (RunState::Halted, "halted"),
    (RunState::Paused, "paused"),
];

/// What all consumers tell of their batches.
#[derive(Clone, Debug)]
pub(super) struct Histograms {
    delay: Histogram<f64>,
    batch_time: Histogram<f64>,
    batch_size: Histogram<u64>,
}

impl Histograms {
    pub(super) fn new(meter: &Meter) -> Self {
        let delay = "Time from the publication of the oldest record of a page until all of the page was in the table, while live.";
        let time = "Time that it took to apply a batch.";
        let size = meter.u64_histogram("sequin.consumer.batch.size").with_unit("{record}");
        let size = size.with_description("Records that a batch changed, the last version of each.");
        Self {
            delay: seconds(meter, "sequin.consumer.delay", delay, DELAYS.into()),
            batch_time: seconds(meter, "messaging.process.duration", time, DURATIONS.into()),
            batch_size: size.with_boundaries(SIZES.into()).build(),
        }
    }
}

/// What a consumer counts and measures.
#[derive(Debug)]
pub struct ConsumerMetrics {
    labels: RwLock<Arc<Labels>>,
    histograms: Histograms,
    read: AtomicU64,
    upserts: AtomicU64,
    deletes: AtomicU64,
    blocked: Arc<Blocked>,
    failures: Mutex<BTreeMap<String, u64>>,
    seen: Mutex<Seen>,
}

/// What its actor last saw of it.
#[derive(Debug, Default)]
struct Seen {
    /// Which of [`STATES`] it is in.
    state: Option<usize>,
    /// Which of them it has been in: that it no longer is, is told too.
    has_been: [bool; STATES.len()],
    lag: Lag,
    backfill: Option<(u64, u64)>,
    quarantined: u64,
    unsaved_since: Option<Instant>,
    saving_since: Option<Instant>,
}

/// The attributes of each of its metrics, made once.
#[derive(Debug)]
struct Labels {
    consumer: [KeyValue; 2],
    read: Vec<KeyValue>,
    upserts: [KeyValue; 3],
    deletes: [KeyValue; 3],
    states: [[KeyValue; 3]; STATES.len()],
    batch_time: [KeyValue; 3],
    batch_size: [KeyValue; 1],
}

impl Labels {
    fn of(consumer: &Consumer, target: &str) -> Self {
        let of_target = KeyValue::new("sequin.target", Arc::<str>::from(target));
        let name = Arc::<str>::from(consumer.name.as_str());
        let of_both = [KeyValue::new("sequin.consumer", Arc::clone(&name)), of_target.clone()];
        let with = |key, value| {
            let [consumer, target] = of_both.clone();
            [consumer, target, KeyValue::new(key, value)]
        };
        let mut read = Vec::from(messaging("read"));
        if let Filter::Provider(provider) = &consumer.filter {
            read.push(KeyValue::new("messaging.destination.name", Arc::<str>::from(provider.as_str())));
        }
        read.push(KeyValue::new("messaging.consumer.group.name", name));
        let [system, apply] = messaging("apply");
        Self {
            read,
            upserts: with("sequin.operation", "upsert"),
            deletes: with("sequin.operation", "delete"),
            states: STATES.map(|(_, state)| with("sequin.state", state)),
            batch_time: [system, apply, of_target.clone()],
            batch_size: [of_target],
            consumer: of_both,
        }
    }
}

impl ConsumerMetrics {
    pub(super) fn new(consumer: &Consumer, target: &str, histograms: Histograms) -> Self {
        Self {
            labels: RwLock::new(Arc::new(Labels::of(consumer, target))),
            histograms,
            read: AtomicU64::new(0),
            upserts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            blocked: Arc::default(),
            failures: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// This is what it and its target are called now.
    pub fn renamed(&self, consumer: &Consumer, target: &str) {
        *self.labels.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Labels::of(consumer, target));
    }

    fn labels(&self) -> Arc<Labels> {
        Arc::clone(&self.labels.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many versions were read.
    pub fn read(&self, records: usize) {
        self.read.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// A batch of so many records was brought in this time, or it is said why not.
    pub fn brought(&self, records: usize, took: Duration, error: Option<&'static str>) {
        let labels = self.labels();
        let took = took.as_secs_f64();
        match error {
            None => {
                self.histograms.batch_size.record(records as u64, &labels.batch_size);
                self.histograms.batch_time.record(took, &labels.batch_time);
            }
            Some(error) => {
                let [system, operation, target] = labels.batch_time.clone();
                let labels = [system, operation, target, KeyValue::new("error.type", error)];
                self.histograms.batch_time.record(took, &labels);
            }
        }
    }

    /// So much was committed.
    pub fn applied(&self, applied: Applied) {
        self.upserts.fetch_add(applied.upserts, Ordering::Relaxed);
        self.deletes.fetch_add(applied.deletes, Ordering::Relaxed);
    }

    /// Pages were committed whose oldest records were published at these times.
    pub fn delayed(&self, published_at: impl IntoIterator<Item = DateTime<Utc>>) {
        let mut published_at = published_at.into_iter().peekable();
        if published_at.peek().is_some() {
            let (labels, now) = (self.labels(), Utc::now());
            for published_at in published_at {
                self.histograms.delay.record(age(published_at, now), &labels.consumer);
            }
        }
    }

    /// A pipeline failed, for a reason of this code.
    pub fn failed(&self, code: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get_mut(code) {
            Some(failures) => *failures += 1,
            None => drop(failures.insert(code.into(), 1)),
        }
    }

    /// For how long its reader had to wait for bytes.
    pub fn blocked(&self) -> Arc<Blocked> {
        Arc::clone(&self.blocked)
    }

    /// This is how it does.
    pub fn is_in(&self, state: RunState, quarantined: u64) {
        let mut seen = self.seen();
        let place = STATES.iter().position(|(known, _)| *known == state);
        if let Some(place) = place {
            seen.has_been[place] = true;
        }
        (seen.state, seen.quarantined) = (place, quarantined);
    }

    /// This is how far it is.
    pub fn is_at(&self, lag: Lag, backfill: Option<&Backfill>) {
        let mut seen = self.seen();
        seen.lag = lag;
        seen.backfill = backfill.map(|backfill| (backfill.done, backfill.total));
    }

    /// Whether all that it has done is saved.
    pub fn is_saved(&self, is_saved: bool) {
        let mut seen = self.seen();
        seen.unsaved_since = if is_saved { None } else { seen.unsaved_since.or_else(|| Some(Instant::now())) };
    }

    /// What is there now is being saved.
    pub fn saving(&self) {
        self.seen().saving_since = Some(Instant::now());
    }

    /// What was being saved is; if that is not all, the rest came after it began.
    pub fn saved(&self, is_all: bool) {
        let mut seen = self.seen();
        let since = seen.saving_since.take();
        seen.unsaved_since = if is_all { None } else { since.or(seen.unsaved_since) };
    }
}

/// Clocks may differ: what was published later than now has no age.
fn age(since: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    (now - since).to_std().unwrap_or_default().as_secs_f64()
}

pub(super) fn register(meter: &Meter, consumers: &Arc<Registry<ConsumerMetrics>>) {
    let instruments = Instruments::of(meter, consumers);
    counters(&instruments);
    gauges(&instruments);
}

fn counters(instruments: &Instruments<'_, ConsumerMetrics>) {
    instruments.counter(
        "messaging.client.consumed.messages",
        "{message}",
        "Versions of records that were read from the stream.",
        |consumer, tell| tell(consumer.read.load(Ordering::Relaxed), &consumer.labels().read),
    );
    instruments.counter(
        "sequin.consumer.applied",
        "{record}",
        "Rows that were written or deleted.",
        |consumer, tell| {
            let labels = consumer.labels();
            tell(consumer.upserts.load(Ordering::Relaxed), &labels.upserts);
            tell(consumer.deletes.load(Ordering::Relaxed), &labels.deletes);
        },
    );
    instruments.counter("sequin.consumer.failures", "{failure}", "Pipelines that failed.", |consumer, tell| {
        let [name, target] = consumer.labels().consumer.clone();
        for (code, failures) in &*consumer.failures.lock().unwrap_or_else(PoisonError::into_inner) {
            let error = KeyValue::new("error.type", code.clone());
            tell(*failures, &[name.clone(), target.clone(), error]);
        }
    });
    instruments.time(
        "sequin.budget.blocked",
        "s",
        "Time that the reader waited for bytes of the budget.",
        |consumer, tell| tell(consumer.blocked.total().as_secs_f64(), &consumer.labels().consumer),
    );
}

fn gauges(instruments: &Instruments<'_, ConsumerMetrics>) {
    instruments.gauge("sequin.consumer.lag", "{record}", "Records that are not applied yet.", |consumer, tell| {
        tell(consumer.seen().lag.records, &consumer.labels().consumer);
    });
    instruments.age(
        "sequin.consumer.lag.age",
        "s",
        "Time since the publication of the oldest record that is not applied yet; 0 if there is none.",
        |consumer, tell| {
            let Lag { records, oldest_published_at } = consumer.seen().lag;
            let oldest = oldest_published_at.filter(|_| records > 0);
            tell(oldest.map_or(0.0, |oldest| age(oldest, Utc::now())), &consumer.labels().consumer);
        },
    );
    instruments.gauge(
        "sequin.consumer.backfill.done",
        "{record}",
        "Records of the backfill that are in the table.",
        |consumer, tell| {
            let backfill = consumer.seen().backfill;
            if let Some((done, _)) = backfill {
                tell(done, &consumer.labels().consumer);
            }
        },
    );
    instruments.gauge("sequin.consumer.backfill.size", "{record}", "Records of the backfill.", |consumer, tell| {
        let backfill = consumer.seen().backfill;
        if let Some((_, total)) = backfill {
            tell(total, &consumer.labels().consumer);
        }
    });
    instruments.gauge(
        "sequin.consumer.state",
        "{consumer}",
        "1 for the state that it is in, 0 for those that it was in before.",
        |consumer, tell| {
            let labels = consumer.labels();
            let (state, has_been) = {
                let seen = consumer.seen();
                (seen.state, seen.has_been)
            };
            for place in (0..STATES.len()).filter(|place| has_been[*place]) {
                tell(u64::from(state == Some(place)), &labels.states[place]);
            }
        },
    );
    instruments.gauge("sequin.consumer.quarantined", "{record}", "Records in quarantine.", |consumer, tell| {
        tell(consumer.seen().quarantined, &consumer.labels().consumer);
    });
    instruments.age(
        "sequin.consumer.checkpoint.age",
        "s",
        "Time since the checkpoint moved on from the one that is saved; 0 if it is the same.",
        |consumer, tell| {
            let since = consumer.seen().unsaved_since;
            tell(since.map_or(0.0, |since| since.elapsed().as_secs_f64()), &consumer.labels().consumer);
        },
    );
}
