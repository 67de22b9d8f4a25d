//! Notices: what is said of incidents, to whom, and whether it has arrived.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Incident, IncidentId, IncidentKind, NoticeId};

/// What a notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeEvent {
    /// Something went wrong.
    Opened,
    /// It still is.
    Reminded,
    /// It is over.
    Resolved,
    /// Nothing: somebody wants to see whether notices arrive.
    Test,
}

impl NoticeEvent {
    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reminded => "reminded",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// Where a notice goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// One address.
    Email(String),
    /// The webhook of this name.
    Webhook(String),
}

/// Whether a notice has arrived at one of its destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Not yet.
    Pending {
        /// How often it was tried.
        attempts: u32,
        /// Not to be tried before.
        next_at: DateTime<Utc>,
        /// What went wrong the last time.
        error: Option<String>,
    },
    /// It has.
    Delivered {
        /// When.
        at: DateTime<Utc>,
    },
    /// It will not.
    GivenUp {
        /// Since when.
        at: DateTime<Utc>,
        /// Why.
        error: String,
    },
}

/// What is said of one incident, or of many at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its id, in order of time. What is sent of it bears it, so that whoever gets it twice can tell.
    pub id: NoticeId,
    /// What it says.
    pub event: NoticeEvent,
    /// Of which incidents.
    pub incidents: Vec<IncidentId>,
    /// The first of them, as they were then.
    pub shown: Vec<Incident>,
    /// How many of each kind they are, shown or not; empty where that was not counted, as by an earlier release.
    #[serde(default)]
    pub counts: Vec<(IncidentKind, u64)>,
    /// When it was to be said.
    pub made_at: DateTime<Utc>,
    /// To whom, and whether it has arrived there.
    pub deliveries: Vec<(Destination, Delivery)>,
}
