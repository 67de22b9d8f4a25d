//! What is counted of incidents, and of telling people of them.
//!
//! Whoever alerts, on the one node of a cluster that does, says how many incidents are open ([`Alerts::open`]) and how many
//! notices are still to be delivered ([`Alerts::pending`]) whenever that changes, and how each delivery ended
//! ([`Alerts::delivered`]). When that node does so no longer, it says so ([`Alerts::ended`]), and reports neither any more.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::registry::{Instruments, Registry};
use crate::model::IncidentKind;

/// By what people are told.
#[derive(Clone, Copy, Debug)]
pub enum Channel {
    /// By mail.
    Email,
    /// By calling a webhook.
    Webhook,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// It was not, and is tried again.
    Failed,
    /// It was not, and is not tried again.
    GivenUp,
}

const CHANNELS: [&str; 2] = ["email", "webhook"];
const OUTCOMES: [&str; 3] = ["delivered", "failed", "given_up"];

/// What is counted of alerts.
#[derive(Debug, Default)]
pub struct Alerts {
    now: Mutex<Now>,
    deliveries: [[AtomicU64; OUTCOMES.len()]; CHANNELS.len()],
}

/// What there is; `None` where another node alerts.
#[derive(Debug, Default)]
struct Now {
    open: Option<[u64; IncidentKind::ALL.len()]>,
    pending: Option<u64>,
}

impl Alerts {
    /// So many incidents of a kind are open.
    pub fn open(&self, kind: IncidentKind, incidents: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let open = now.open.get_or_insert_default();
        if let Some(place) = IncidentKind::ALL.iter().position(|known| *known == kind) {
            open[place] = incidents;
        }
    }

    /// So many deliveries are still to be made.
    pub fn pending(&self, deliveries: u64) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).pending = Some(deliveries);
    }

    /// A delivery ended so.
    pub fn delivered(&self, channel: Channel, outcome: Outcome) {
        self.deliveries[channel as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Another node alerts from now on.
    pub fn ended(&self) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Now::default();
    }
}

pub(super) fn register(meter: &Meter, alerts: &Arc<Registry<Alerts>>) {
    let instruments = Instruments::of(meter, alerts);
    instruments.gauge(
        "sequin.incidents.open",
        "{incident}",
        "Incidents that are open, on the node that alerts.",
        |alerts, tell| {
            let open = alerts.now.lock().unwrap_or_else(PoisonError::into_inner).open;
            for (kind, incidents) in open.iter().flat_map(|open| IncidentKind::ALL.iter().zip(open)) {
                tell(*incidents, &[KeyValue::new("sequin.incident.kind", kind.as_str())]);
            }
        },
    );
    instruments.gauge(
        "sequin.alert.pending",
        "{delivery}",
        "Notices that are still to be delivered, on the node that alerts.",
        |alerts, tell| {
            let pending = alerts.now.lock().unwrap_or_else(PoisonError::into_inner).pending;
            if let Some(pending) = pending {
                tell(pending, &[]);
            }
        },
    );
    instruments.counter("sequin.alert.deliveries", "{delivery}", "How deliveries of notices ended.", |alerts, tell| {
        for (channel, deliveries) in CHANNELS.into_iter().zip(&alerts.deliveries) {
            for (outcome, count) in OUTCOMES.into_iter().zip(deliveries) {
                let labels = [KeyValue::new("sequin.channel", channel), KeyValue::new("sequin.outcome", outcome)];
                tell(count.load(Ordering::Relaxed), &labels);
            }
        }
    });
}
