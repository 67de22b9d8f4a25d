//! Ownership: which node brings the records of a target, and how it is known to live.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{SessionId, TargetId};

/// The number of a write: higher is later, and no two writes share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// The number of an ownership of a target: whoever takes it over has a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// That of a node that is alone, and of a target that nobody has owned yet.
    pub const FIRST: Self = Self(0);

    /// The next higher one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a node, from its start to its end, or until it was silent for so long that others ended it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The node's name.
    pub node: String,
    /// What of this program the node runs.
    pub version: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When the node last said so, by its own clock: for people. No decision rests on it.
    pub renewed_at: DateTime<Utc>,
    /// What it is about.
    pub phase: Phase,
}

/// What a session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its node owns targets, and takes more.
    Serving,
    /// Its node gives away what it owns.
    Leaving,
    /// It is over, and never begins again.
    Ended,
}

impl SessionId {
    /// A new one.
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

/// Whose a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// The target.
    pub target: TargetId,
    /// The session of its owner; `None` once that has let go of it.
    pub session: Option<SessionId>,
    /// The number of this ownership, or of the last one.
    pub epoch: Epoch,
}
