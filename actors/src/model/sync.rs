//! A sync, as the stream knows it.

use chrono::{DateTime, Utc};

use super::{Idx, Provider, SyncId};

/// One customer's connection to a provider, and what the stream holds of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    /// Its id.
    pub id: SyncId,
    /// Whose sync it is.
    pub provider: Provider,
    /// The publisher's own id of it.
    pub external_id: Option<String>,
    /// The publisher's notes on it: the text of a JSON object.
    pub metadata: String,
    /// How many records the stream holds of it, deleted ones apart.
    pub records: u64,
    /// The position of its last version.
    pub last_updated_idx: Idx,
    /// When that was published.
    pub last_published_at: Option<DateTime<Utc>>,
}
