//! What every actor of a node shares: its ports and its settings.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use opentelemetry::metrics::Meter;
use tokio::time::Instant;

use crate::{
    flow::{budget::NodeBudget, refusals::RefusalLimit, turns::Turns},
    notify::Notifier,
    postgres::Egress,
    store::Documents,
    stream::RecordStream,
    telemetry::Telemetry,
};

/// How many consumers and targets begin at once, in a turn each: enough that those far away do not keep a node of many
/// from starting, few enough that the store answers others meanwhile.
const BEGINNING_AT_ONCE: usize = 64;

/// What is done now and then is done in steps of this.
const STEP: Duration = Duration::from_secs(1);

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The name of the cluster.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    /// After this long without a word a node counts as dead, and others take over its targets. `None` where there is one
    /// node only, which owns all of them.
    pub session_ttl: Option<Duration>,
    /// How many writers each consumer has: fewer than a pool has sessions, so that one consumer leaves room for others.
    pub writers: usize,
    /// How many bytes of records one consumer may have in flight.
    pub consumer_budget_bytes: usize,
    /// How many bytes of records all consumers of this node together may have in flight.
    pub node_budget_bytes: usize,
    /// How long a consumer that stops may take to finish what is in flight.
    pub drain_deadline: Duration,
    /// How long a tombstone is kept at least.
    pub tombstone_retention: TimeDelta,
    /// How many refused records a consumer sets aside before it halts instead.
    pub refusal_limit: RefusalLimit,
    /// How often a halted consumer looks whether it has been helped.
    pub halt_recheck: Duration,
    /// How often the table of a consumer that works is verified, to warn of what may stop it.
    pub drift_check: Duration,
    /// How long a pipeline that has work may make no progress before it is started again. Longer than any one thing
    /// that it does may take.
    pub stall_limit: Duration,
    /// How long something must be wrong before people are told. It is over when it has not been for twice that.
    pub alert_after: Duration,
    /// How people are told of incidents.
    pub notifier: Notifier,
    /// How the node gets out to databases.
    pub egress: Egress,
    /// Where it reports its metrics; `None` where the process does.
    pub meter: Option<Meter>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            cluster: "sequin".into(),
            node: "localhost".into(),
            session_ttl: None,
            writers: 3,
            consumer_budget_bytes: 16 * 1024 * 1024,
            node_budget_bytes: 64 * 1024 * 1024,
            drain_deadline: Duration::from_secs(20),
            tombstone_retention: TimeDelta::days(7),
            refusal_limit: RefusalLimit::default(),
            halt_recheck: Duration::from_secs(30),
            drift_check: Duration::from_mins(5),
            stall_limit: Duration::from_mins(4),
            alert_after: Duration::from_secs(30),
            notifier: Notifier::default(),
            egress: Egress::default(),
            meter: None,
        }
    }
}

/// The node's ports and settings.
pub(crate) struct Context {
    pub(crate) stream: Arc<dyn RecordStream>,
    pub(crate) documents: Documents,
    pub(crate) settings: EngineSettings,
    /// The bytes that all consumers of the node together may have in flight.
    pub(crate) budget: NodeBudget,
    /// For whatever begins: a node that starts has all of it to begin at the same time.
    pub(crate) turns: Turns,
    pub(crate) telemetry: Telemetry,
    pub(crate) began_at: DateTime<Utc>,
    started_at: Instant,
}

impl Context {
    pub(crate) fn new(settings: EngineSettings, stream: Arc<dyn RecordStream>, documents: Documents) -> Self {
        let budget = NodeBudget::new(settings.node_budget_bytes);
        let turns = Turns::new(BEGINNING_AT_ONCE);
        let telemetry = Telemetry::new(settings.meter.as_ref(), &budget);
        let (began_at, started_at) = (Utc::now(), Instant::now());
        Self { stream, documents, settings, budget, turns, telemetry, began_at, started_at }
    }

    /// When to look again after `wait`, about: at a step that all who look now and then have in common. What they write is
    /// then written together, with one commit, and not each for itself.
    pub(crate) fn in_step(&self, wait: Duration) -> Instant {
        let since = (Instant::now() + wait - self.started_at).as_millis();
        let steps = since.div_ceil(STEP.as_millis());
        self.started_at + STEP * u32::try_from(steps).unwrap_or(u32::MAX)
    }
}
