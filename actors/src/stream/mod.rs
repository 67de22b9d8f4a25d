//! The record stream, as the engine and the API see it: a port that a backend implements.
//!
//! A stream keeps the **last version of each record** of every provider. Publishing a record again drops its older
//! version and appends the new one; a delete is a version too, a *tombstone*. So reading from the start is the
//! backfill. What every backend must do is written as the contract suite that it has to pass.

#[cfg(test)]
mod contract;
mod jetstream;
mod passed;
mod sqlite;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::model::{Filter, Idx, Lag, Page, Provider, Publication, SequinId, StreamId, Sync, SyncId};

pub use jetstream::JetStreamStream;
pub use sqlite::SqliteStream;

/// What can go wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Record number `record` of a publication (from 0) can't be taken, so nothing of it was.
    #[error("record {record}: sync {sync} belongs to provider {provider}")]
    SyncOfAnotherProvider {
        /// Which record, from 0.
        record: usize,
        /// Its sync.
        sync: SyncId,
        /// The provider that the sync belongs to.
        provider: Provider,
    },
    /// The stream can't be reached, or its storage failed. Whatever was not acknowledged may be tried again.
    #[error("the record stream is unavailable: {0}")]
    Unavailable(#[source] Cause),
    /// Its storage is full. What is there can be read.
    #[error("the record stream takes nothing more: {0}")]
    Full(#[source] Cause),
    /// The stream is gone for good, as when it was deleted or its storage is damaged. It says so from then on.
    #[error("the record stream is lost: {0}")]
    Lost(#[source] Cause),
    /// The stream that was being read is not there any more, or another is in its place. It is not read on; what is to be
    /// done is for whoever has read it to find out.
    #[error("the record stream was replaced: {0}")]
    Replaced(String),
}

type Cause = Box<dyn std::error::Error + Send + std::marker::Sync>;

/// How much one read may return. It returns at least one record if there is one, however large.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// At most this many records.
    pub records: usize,
    /// Stop before the envelopes take more bytes than this.
    pub bytes: usize,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The position of the last record.
    pub last: Idx,
    /// How many records were left out, since another version of them counts than the one they replace.
    pub left_out: usize,
}

/// The version of a record that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its position in its provider's stream.
    pub idx: Idx,
    /// The envelope.
    pub envelope: Vec<u8>,
}

/// Which syncs to list.
#[derive(Clone, Debug, Default)]
pub struct SyncQuery {
    /// Only this provider's.
    pub provider: Option<Provider>,
    /// Only those after this one, in the order of their ids.
    pub after: Option<SyncId>,
    /// At most this many.
    pub limit: usize,
}

/// The durable, compacted stream of all providers' records.
#[async_trait]
pub trait RecordStream: Send + std::marker::Sync {
    /// Accepts all records of the publication, but for those whose condition does not hold
    /// ([`Publication::push_replacing`]).
    ///
    /// Once this returns, the records are as durable as the backend makes them. When it refuses, nothing was accepted. When
    /// it is [unavailable](StreamError::Unavailable) or [full](StreamError::Full), some may have been, where the backend has
    /// no transactions: publishing the same again is right then.
    async fn publish(&self, publication: Publication) -> Result<Published, StreamError>;

    /// Reads matching records in order, beginning after `after`.
    fn reader(&self, filter: &Filter, after: Idx) -> Box<dyn RecordReader>;

    /// Reads the version of one record that counts now: never one that was superseded when this was called.
    async fn latest(&self, sync: SyncId, record: SequinId) -> Result<Option<Version>, StreamError>;

    /// How many matching records lie beyond `after`, and when the oldest of them was published.
    async fn lag(&self, filter: &Filter, after: Idx) -> Result<Lag, StreamError>;

    /// The position that the next record of the filter's provider will lie beyond.
    async fn head(&self, filter: &Filter) -> Result<Idx, StreamError>;

    /// Which stream it is that the filter's records lie in: the same for as long as its positions mean the same. `None`
    /// while nothing was ever published of the provider or the sync.
    async fn identity(&self, filter: &Filter) -> Result<Option<StreamId>, StreamError>;

    /// Removes everything that the stream holds of a sync now, or of one collection of it, and says how many versions that
    /// were.
    async fn purge(&self, sync: SyncId, collection: Option<&str>) -> Result<u64, StreamError>;

    /// Drops the tombstones that were published before `before` and that every matching consumer has `passed`,
    /// and says how many.
    async fn drop_tombstones(&self, before: DateTime<Utc>, passed: &[(Filter, Idx)]) -> Result<u64, StreamError>;

    /// Every provider that ever published.
    async fn providers(&self) -> Result<Vec<Provider>, StreamError>;

    /// The syncs of which the stream holds anything, in the order of their ids.
    async fn syncs(&self, query: SyncQuery) -> Result<Vec<Sync>, StreamError>;

    /// One sync, if the stream holds anything of it.
    async fn sync(&self, sync: SyncId) -> Result<Option<Sync>, StreamError>;
}

/// A cursor over a stream.
#[async_trait]
pub trait RecordReader: Send {
    /// Waits until there may be something to read. Losing the future loses nothing.
    async fn ready(&mut self) -> Result<(), StreamError>;

    /// Reads on. The page can be empty.
    async fn read(&mut self, limit: PageLimit) -> Result<Page, StreamError>;
}
