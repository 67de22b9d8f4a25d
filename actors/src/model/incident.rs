//! Incidents: what people are told of.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ConsumerId, IncidentId, Reason, TargetId};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// A database can't be used; all of its consumers wait.
    TargetUnhealthy,
    /// What is to be brought waits for longer, or is more, than its consumer allows.
    ConsumerBehind,
    /// A consumer stopped, and needs somebody.
    ConsumerHalted,
    /// A consumer has work and does not get on.
    ConsumerStalled,
    /// The database refused records, which are set aside.
    RecordsQuarantined,
    /// A node reports on nothing any more, and no other has taken over.
    NodeSilent,
}

impl IncidentKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::TargetUnhealthy,
        Self::ConsumerBehind,
        Self::ConsumerHalted,
        Self::ConsumerStalled,
        Self::RecordsQuarantined,
        Self::NodeSilent,
    ];

    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TargetUnhealthy => "target_unhealthy",
            Self::ConsumerBehind => "consumer_behind",
            Self::ConsumerHalted => "consumer_halted",
            Self::ConsumerStalled => "consumer_stalled",
            Self::RecordsQuarantined => "records_quarantined",
            Self::NodeSilent => "node_silent",
        }
    }
}

/// What it went wrong with, and what that was called when it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A database.
    Target {
        /// Its id.
        id: TargetId,
        /// Its name.
        name: String,
    },
    /// A consumer.
    Consumer {
        /// Its id.
        id: ConsumerId,
        /// Its name.
        name: String,
        /// The name of its target.
        target: String,
    },
    /// A node.
    Node {
        /// Its name.
        name: String,
    },
}

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Nothing is wrong any more.
    Recovered,
    /// Somebody paused the consumer.
    Paused,
    /// Somebody deleted what it was about.
    Deleted,
}

/// How far behind a consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// How many records wait.
    pub records: u64,
    /// When the oldest of them was published.
    pub oldest_published_at: Option<DateTime<Utc>>,
    /// In how many seconds none will be left, at the pace at which they become fewer; `None` if they do not.
    pub eta_seconds: Option<u64>,
}

/// Something that is wrong for long enough that somebody should know: one for each cause, however many it hinders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id.
    pub id: IncidentId,
    /// What went wrong.
    pub kind: IncidentKind,
    /// With what.
    pub subject: Subject,
    /// How many consumers it hinders.
    pub consumers: u64,
    /// How many records it is about, where it is about records in quarantine.
    pub records: Option<u64>,
    /// How far behind the consumer is, where it is about that.
    pub behind: Option<Behind>,
    /// What is wrong, since when, why, and the way out.
    pub reason: Reason,
    /// When somebody was to know.
    pub opened_at: DateTime<Utc>,
    /// Since when nothing is wrong, while it is waited whether that lasts.
    pub cleared_at: Option<DateTime<Utc>>,
    /// When that had lasted.
    pub resolved_at: Option<DateTime<Utc>>,
    /// How it came to an end, once it has.
    pub resolution: Option<Resolution>,
}

impl Incident {
    /// Whether it is over, as programs see it.
    pub fn status(&self) -> &'static str {
        if self.resolved_at.is_some() { "resolved" } else { "open" }
    }

    /// The age of the oldest record that waits, in seconds. Once nothing is wrong, nothing gets older.
    pub fn seconds_behind(&self, now: DateTime<Utc>) -> f64 {
        let until = self.cleared_at.or(self.resolved_at).unwrap_or(now);
        let oldest = self.behind.and_then(|behind| behind.oldest_published_at);
        oldest.map_or(0.0, |oldest| (until - oldest).to_std().unwrap_or_default().as_secs_f64())
    }
}
