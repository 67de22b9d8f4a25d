//! Status: what the actors observed, written to the store for the API and the console to read.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Backfill, ConsumerId, Idx};

/// How bad something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Records do not arrive, or not all of them.
    #[default]
    Error,
    /// Everything arrives, and may not for ever.
    Warning,
}

impl Severity {
    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something that is not as it should be: what, since when, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A stable word for programs: `target_unhealthy`, `table_missing`, …
    pub code: String,
    /// How bad it is.
    #[serde(default)]
    pub severity: Severity,
    /// What is wrong, in a sentence.
    pub summary: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why such a thing happens, where that is known.
    #[serde(default)]
    pub cause: Option<String>,
    /// The name of the target that it is about, when it is about one.
    #[serde(default)]
    pub target: Option<String>,
    /// What to do; SQL where SQL mends it.
    pub fix: String,
}

/// What a consumer that was started is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Bringing what the stream held when it was started.
    Backfilling,
    /// Bringing what happens.
    Live,
    /// Waiting for its target.
    Waiting,
    /// Stopped by a fault that needs somebody; the reasons say which.
    Halted,
    /// Stopped by somebody.
    Paused,
}

/// What a consumer observed of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsumerStatus {
    /// What it is doing.
    pub state: RunState,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
    /// When this was written.
    pub checked_at: DateTime<Utc>,
    /// How far the backfill is; `None` before the first start.
    pub backfill: Option<Backfill>,
    /// Everything up to here is in the table.
    pub checkpoint: Idx,
    /// What lies beyond.
    pub lag: Lag,
    /// In how many seconds nothing will, at the pace at which it becomes less; `None` if that is not known.
    #[serde(default)]
    pub eta_seconds: Option<u64>,
    /// Records applied a second, over the last seconds.
    pub records_per_second: f64,
    /// What was applied since the first start.
    pub applied: Applied,
    /// How many records are in quarantine.
    #[serde(default)]
    pub quarantined: u64,
    /// The node that runs it.
    pub node: String,
}

/// What lies beyond a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// How many matching records.
    pub records: u64,
    /// When the oldest of them was published.
    pub oldest_published_at: Option<DateTime<Utc>>,
}

/// How much was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Records created or updated.
    pub upserts: u64,
    /// Records deleted.
    pub deletes: u64,
    /// Records upserted with U+FFFD in place of text that the database can't hold.
    #[serde(default)]
    pub replaced_text: u64,
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, more: Self) {
        self.upserts += more.upserts;
        self.deletes += more.deletes;
        self.replaced_text += more.replaced_text;
    }
}

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Nothing is known yet.
    Connecting,
    /// It answers.
    Healthy,
    /// It does not; its consumers wait.
    Unhealthy,
}

/// What a target's actor observed of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// How it is.
    pub state: TargetState,
    /// Why it is unhealthy.
    pub reason: Option<Reason>,
    /// When this was written.
    pub checked_at: DateTime<Utc>,
    /// When each of its consumers was last seen at work, or ready for it: one that has nothing new to say of itself does not
    /// say so.
    #[serde(default)]
    pub consumers_seen: HashMap<ConsumerId, DateTime<Utc>>,
    /// The node that runs it.
    pub node: String,
}
