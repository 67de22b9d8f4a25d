//! Quarantine: versions of records that a database refused, set aside one by one.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ConsumerId, Idx, SequinId, SyncId};

/// Which record of which consumer: a consumer holds at most one version of a record in quarantine, the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QuarantineKey {
    /// The consumer.
    pub consumer: ConsumerId,
    /// The record.
    pub record: SequinId,
}

/// A version that the database refused: what it is known by and why it was refused, never its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its consumer and its record.
    pub key: QuarantineKey,
    /// The record's sync.
    pub sync_id: SyncId,
    /// The kind of record.
    pub collection_id: String,
    /// The record's id upstream.
    pub upstream_id: String,
    /// The version.
    pub idx: Idx,
    /// PostgreSQL's code for the refusal.
    pub sqlstate: Option<String>,
    /// What PostgreSQL said.
    pub message: String,
    /// What to do.
    pub fix: String,
    /// When this version was first refused.
    pub first_failed_at: DateTime<Utc>,
    /// When it was last refused.
    pub last_failed_at: DateTime<Utc>,
    /// How often it was refused.
    pub attempts: u32,
    /// When it is tried again by itself; `None` if that can't help.
    pub retry_at: Option<DateTime<Utc>>,
}

impl fmt::Display for QuarantineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.consumer, self.record)
    }
}

impl FromStr for QuarantineKey {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (consumer, record) = text.split_once('/').unwrap_or_default();
        Ok(Self { consumer: consumer.parse()?, record: record.parse()? })
    }
}
