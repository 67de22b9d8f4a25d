//! A sync: as the stream knows it, and as somebody described it beside the stream.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    FieldError, Idx, Provider, SyncId,
    record::{check_id, check_metadata},
};

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

/// What somebody wrote of a sync, apart from what its records say: it stands for what a record leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSettings {
    /// The sync.
    pub id: SyncId,
    /// Whose sync it is.
    pub provider: Provider,
    /// The publisher's own id of it.
    pub external_id: Option<String>,
    /// The publisher's notes on it: the text of a JSON object.
    pub metadata: String,
    /// When this was written.
    pub updated_at: DateTime<Utc>,
}

impl SyncSettings {
    /// Everything that is wrong with them.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(external_id) = &self.external_id {
            check_id("external_id", external_id, &mut errors);
        }
        check_metadata("metadata", &self.metadata, &mut errors);
        errors
    }
}
