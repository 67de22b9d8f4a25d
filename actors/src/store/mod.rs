//! The control store, as the engine and the API see it: a port that a backend implements, and the documents in it.
//!
//! It holds desired state (what the API wrote) and status (what the actors observed). Whoever changes a document
//! names the revision that he read; whoever acts on one watches it.

#[cfg(test)]
mod contract;
mod documents;
mod jetstream;
mod seal;
mod sqlite;

use async_trait::async_trait;

pub use crate::model::Revision;
pub use documents::{
    Document, DocumentEvent, DocumentWatch, Documents, DocumentsError, Named, OnlyOne, Resealed, Unreadable,
    UnreadableCause, Versioned,
};
pub use jetstream::JetStreamStore;
pub use seal::{Keyring, KeyringError};
pub use sqlite::SqliteStore;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key is there already, or is not at the revision that was named.
    #[error("{key} was changed by somebody else in the meantime")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The store can't be reached, or its storage failed.
    #[error("the control store is unavailable: {0}")]
    Unavailable(#[source] Cause),
    /// Its storage is full. Nothing of what was to be written was; what is there can be read.
    #[error("the control store takes nothing more: {0}")]
    Full(#[source] Cause),
    /// The store is gone for good, as when it was deleted or its storage is damaged. It says so from then on.
    #[error("the control store is lost: {0}")]
    Lost(#[source] Cause),
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A key's value, and the write that it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The write that it came by.
    pub revision: Revision,
}

/// What happened to a key that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was there when the watch began, or was written since.
    Put(Entry),
    /// It was deleted.
    Deleted {
        /// The key.
        key: String,
    },
    /// Everything that was there when the watch began has been told.
    Current,
}

/// Keys and values with compare-and-swap. A key's parts are parted by slashes, and a prefix is whole parts: it ends with a slash.
///
/// Whoever was told that something is written finds it, on any node; for some seconds after a cluster has chosen another
/// leader, what was there before may still be read, and no write on top of that succeeds. Of a write that was answered by
/// [`Unavailable`](StoreError::Unavailable) nobody knows whether it happened.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads one key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Reads the keys that begin with `prefix` and come after `after`, in order, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Writes a key that must not be there.
    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError>;

    /// Writes a key that must be at `revision`.
    async fn update(&self, key: &str, value: Vec<u8>, revision: Revision) -> Result<Revision, StoreError>;

    /// Writes a key, whatever is there: for status, which has one writer.
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError>;

    /// Deletes a key; with a revision, only if it is at that one. A key that is not there is no error.
    async fn delete(&self, key: &str, revision: Option<Revision>) -> Result<(), StoreError>;

    /// Tells what is there under `prefix`, then [`Event::Current`], then what changes.
    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, StoreError>;
}

/// A watch over the keys under a prefix.
///
/// For each key, events come in the order of its writes, and the last one is always told. Those in between may not be. What is
/// deleted may be told before the watch is current, too, also of a key that it has not told of. A watch that was cut off for
/// too long to know what was deleted ends with an error: another one tells what is there.
#[async_trait]
pub trait Watch: Send {
    /// Waits for the next event. Losing the future loses nothing.
    async fn next(&mut self) -> Result<Event, StoreError>;
}
