//! A collection that is published as a whole, version after version: what of it is older than the version now.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Idx, SequinId, SyncId};

/// What a collection of a sync is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionKey {
    /// The sync.
    pub sync: SyncId,
    /// Stands for the collection's name, which may be long and may hold anything.
    pub collection: Uuid,
}

/// The version of a collection that is being published, or was last.
///
/// Which version a record is of is told by its position: those up to `stale_to` are of an older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionVersion {
    /// The collection's name.
    pub collection_id: String,
    /// The version, as its publisher counts.
    pub version: u64,
    /// Where the sync ended when the version began.
    pub stale_to: Idx,
    /// Up to here, what is older was deleted already.
    pub deleted_to: Idx,
}

impl CollectionKey {
    /// The key of a collection.
    pub fn of(sync: SyncId, collection_id: &str) -> Self {
        // No record has it: theirs have an upstream id, which is not empty.
        Self { sync, collection: SequinId::derive(sync, collection_id, "").0 }
    }
}

impl fmt::Display for CollectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sync, self.collection)
    }
}

impl FromStr for CollectionKey {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (sync, collection) = text.split_once('/').unwrap_or_default();
        Ok(Self { sync: sync.parse()?, collection: collection.parse()? })
    }
}

impl CollectionVersion {
    /// A version whose first record lies beyond `head`.
    pub fn beginning(collection_id: &str, version: u64, head: Idx) -> Self {
        Self { collection_id: collection_id.into(), version, stale_to: head, deleted_to: Idx::START }
    }

    /// Whether nothing older is left.
    pub fn is_active(&self) -> bool {
        self.deleted_to >= self.stale_to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_known_by_its_sync_and_its_name_whatever_that_holds() {
        let sync = SyncId(Uuid::from_u128(7));
        let key = CollectionKey::of(sync, "public/users é");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_ne!(key, CollectionKey::of(sync, "public/users e"));
    }
}
