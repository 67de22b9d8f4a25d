//! What a node counts of itself: its budget, its session, and what it owns.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::registry::{Instruments, Registry};
use crate::flow::budget::NodeBudget;

/// What a node counts.
#[derive(Debug)]
pub struct NodeMetrics {
    budget: NodeBudget,
    claimed: AtomicU64,
    released: AtomicU64,
    lost: AtomicU64,
    owned: AtomicU64,
    renewed: AtomicU64,
    not_renewed: AtomicU64,
}

impl NodeMetrics {
    pub(super) fn new(budget: NodeBudget) -> Self {
        Self {
            budget,
            claimed: AtomicU64::new(0),
            released: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            owned: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
            not_renewed: AtomicU64::new(0),
        }
    }

    /// It has won a target.
    pub fn claimed(&self) {
        self.claimed.fetch_add(1, Ordering::Relaxed);
    }

    /// It has let go of a target, which has ended here.
    pub fn released(&self) {
        self.released.fetch_add(1, Ordering::Relaxed);
    }

    /// It has lost so many targets, all that it had.
    pub fn lost(&self, targets: usize) {
        self.lost.fetch_add(targets as u64, Ordering::Relaxed);
    }

    /// So many targets are its own.
    pub fn owns(&self, targets: usize) {
        self.owned.store(targets as u64, Ordering::Relaxed);
    }

    /// It tried to renew its session.
    pub fn heartbeat(&self, is_renewed: bool) {
        if is_renewed { &self.renewed } else { &self.not_renewed }.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn register(meter: &Meter, node: &Arc<Registry<NodeMetrics>>) {
    let instruments = Instruments::of(meter, node);
    instruments.gauge(
        "sequin.budget.used",
        "By",
        "Bytes of records in flight, of all consumers of the node.",
        |node, tell| tell(node.budget.used() as u64, &[]),
    );
    instruments.gauge(
        "sequin.budget.limit",
        "By",
        "Bytes of records that all consumers of the node may have in flight.",
        |node, tell| tell(node.budget.limit() as u64, &[]),
    );
    instruments.counter(
        "sequin.ownership.changes",
        "{change}",
        "Targets that the node claimed, let go of, or lost with its session.",
        |node, tell| {
            let counts = [("claimed", &node.claimed), ("released", &node.released), ("lost", &node.lost)];
            for (change, count) in counts {
                tell(count.load(Ordering::Relaxed), &[KeyValue::new("sequin.change", change)]);
            }
        },
    );
    instruments.gauge("sequin.targets.owned", "{target}", "Targets that the node owns.", |node, tell| {
        tell(node.owned.load(Ordering::Relaxed), &[]);
    });
    instruments.counter(
        "sequin.session.heartbeats",
        "{heartbeat}",
        "How often the node renewed its session, or could not.",
        |node, tell| {
            for (outcome, count) in [("ok", &node.renewed), ("failed", &node.not_renewed)] {
                tell(count.load(Ordering::Relaxed), &[KeyValue::new("sequin.outcome", outcome)]);
            }
        },
    );
}
