//! Idempotency keys: a create that is sent again makes nothing twice.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Secret;

/// What a key was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What it lies under: made of the key, which is not kept.
    pub id: Uuid,
    /// The id that the resource has, or would have had.
    pub resource: String,
    /// A digest of the request. It may have had a password in it, so this is a secret too.
    pub fingerprint: Secret,
    /// Whether it is known to have been made.
    pub is_made: bool,
    /// When it was first used.
    pub used_at: DateTime<Utc>,
}
