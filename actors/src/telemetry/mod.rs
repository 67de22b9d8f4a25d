//! The engine's own metrics: what it counts and measures of itself, by OpenTelemetry's API. Who exports them, and where to, is
//! decided outside; where nobody does, nothing of this is ever read.
//!
//! Nothing here is done for each record. What happens to a consumer or a target is counted by what its actor owns, once for
//! each page or batch, and read when somebody collects: so what moved away, or was deleted, is not reported any more.
//! Durations and sizes go into histograms, once a batch too; a histogram keeps what it was told for as long as the process
//! lives.
//!
//! Consumers and targets are told apart, by their names. Syncs never are: there may be millions.
//!
//! The table of all of them is in the README of this crate; a test holds it against what an engine reports.

mod alerts;
mod consumer;
mod node;
mod publishing;
mod registry;
mod target;

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};

pub use self::{
    alerts::{Alerts, Channel, Outcome},
    consumer::ConsumerMetrics,
    node::NodeMetrics,
    publishing::Publishing,
    target::{PoolMetrics, SessionCounts, TargetMetrics},
};
use self::{consumer::Histograms, registry::Registry};
use crate::{
    flow::budget::NodeBudget,
    model::{Consumer, Target},
};

/// The name of the meter.
pub(crate) const METER: &str = "sequin";

/// Where durations are told apart, in seconds.
const DURATIONS: [f64; 15] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What one engine counts and measures.
#[derive(Debug)]
pub struct Telemetry {
    consumers: Arc<Registry<ConsumerMetrics>>,
    targets: Arc<Registry<TargetMetrics>>,
    node: Arc<NodeMetrics>,
    alerts: Arc<Alerts>,
    /// Those of the node itself, which are told of as long as this is there.
    _of_node: (Arc<Registry<NodeMetrics>>, Arc<Registry<Alerts>>),
    histograms: Histograms,
    waits: Histogram<f64>,
    creations: Histogram<f64>,
}

impl Telemetry {
    /// Makes the instruments of an engine whose consumers share `budget`, of `meter` or of the process's own.
    pub fn new(meter: Option<&Meter>, budget: &NodeBudget) -> Self {
        let meter = &meter.cloned().unwrap_or_else(|| opentelemetry::global::meter(METER));
        let (consumers, targets) = (Arc::default(), Arc::default());
        consumer::register(meter, &consumers);
        target::register(meter, &targets);
        let (node, nodes) = registry::one(NodeMetrics::new(budget.clone()));
        node::register(meter, &nodes);
        let (alerts, alerting) = registry::one(Alerts::default());
        alerts::register(meter, &alerting);
        let waits = "Time that it took to obtain a session with a target's database from its pool.";
        let creations = "Time that it took to open a session with a target's database.";
        Self {
            consumers,
            targets,
            node,
            alerts,
            _of_node: (nodes, alerting),
            histograms: Histograms::new(meter),
            waits: seconds(meter, "db.client.connection.wait_time", waits, DURATIONS.into()),
            creations: seconds(meter, "db.client.connection.create_time", creations, DURATIONS.into()),
        }
    }

    /// For a consumer of a target of this name. It is reported as long as it is kept.
    pub fn consumer(&self, consumer: &Consumer, target: &str) -> Arc<ConsumerMetrics> {
        let metrics = Arc::new(ConsumerMetrics::new(consumer, target, self.histograms.clone()));
        self.consumers.add(&metrics);
        metrics
    }

    /// For a target. It is reported as long as it is kept.
    pub fn target(&self, target: &Target) -> Arc<TargetMetrics> {
        let pool = PoolMetrics::new(&target.name, self.waits.clone(), self.creations.clone());
        let metrics = Arc::new(TargetMetrics::new(pool));
        self.targets.add(&metrics);
        metrics
    }

    /// Of the node as a whole.
    pub fn node(&self) -> &NodeMetrics {
        &self.node
    }

    /// Of those who are told of incidents.
    pub fn alerts(&self) -> &Arc<Alerts> {
        &self.alerts
    }
}

/// A histogram of durations.
fn seconds(meter: &Meter, name: &'static str, description: &'static str, bounds: Vec<f64>) -> Histogram<f64> {
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(bounds).build()
}

/// What the conventions say of a message: in which system, and what is done with it.
fn messaging(operation: &'static str) -> [KeyValue; 2] {
    [KeyValue::new("messaging.system", "sequin"), KeyValue::new("messaging.operation.name", operation)]
}
