//! The record stream in NATS JetStream: what a cluster has.
//!
//! - A provider has a stream that keeps the last message of each subject, and each record has a subject
//!   ([`names`]). The position of a record is its message's sequence.
//! - Providers and syncs are written down in a key-value bucket ([`registry`]), of which each node keeps a copy.
//! - A delete is a message like any other; an index of them, beside the records, finds those that are old
//!   ([`removal`]).
//! - A stream has an identity of its own in its metadata. One that was lost is made again with another, and gives
//!   positions beyond those of the lost one ([`provision`]).
//!
//! How durable an acknowledged record is depends on the servers: a majority of the replicas has it in memory, and writes
//! it to disk within `sync_interval`.

#[cfg(test)]
mod faults;
mod messages;
mod names;
mod provision;
mod publish;
mod questions;
mod read;
mod registry;
mod removal;
mod several;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::{names::Names, publish::Publisher, read::JetStreamReader, registry::Registry};
use super::{Published, RecordReader, RecordStream, StreamError, SyncQuery, Version};
use crate::{
    jetstream::{JetStream, JetStreamError},
    model::{Filter, Idx, Lag, MAX_ENVELOPE_BYTES, Provider, Publication, SequinId, StreamId, Sync, SyncId},
};

/// What a message takes beside its envelope: its subject and its headers.
const BESIDE: usize = 64 * 1024;

/// The stream of a cluster. See the module for how it lies on the servers.
pub struct JetStreamStream {
    connection: JetStream,
    registry: Arc<Registry>,
    publisher: Publisher,
}

impl JetStreamStream {
    /// Opens what is there, and makes it if it is not. Needs a tokio runtime.
    pub async fn open(connection: JetStream) -> Result<Self, JetStreamError> {
        let (found, needed) = (connection.max_payload(), MAX_ENVELOPE_BYTES + BESIDE);
        if found < needed {
            return Err(JetStreamError::SmallPayload { found, needed });
        }
        let registry = Arc::new(Registry::open(connection.clone()).await?);
        for provider in registry.providers() {
            connection.raise_replicas(&Names::of(&connection, &provider).stream()).await;
        }
        Ok(Self { connection, registry, publisher: Publisher::new() })
    }

    /// Makes the stream of a provider that has none, so that the first record will lie at `first`, as when what another
    /// backend held is moved here. Says whether it had none.
    pub async fn create_from(&self, provider: &Provider, first: Idx) -> Result<bool, JetStreamError> {
        provision::create(&self.connection, &self.registry, provider, first.0).await
    }

    /// Removes the streams of all providers, and what is written down of them and of their syncs: for whoever begins again
    /// to move something here. No node may run on the cluster.
    pub async fn clear(&self) -> Result<(), JetStreamError> {
        removal::remove_all(&self.connection).await?;
        self.registry.clear().await
    }
}

#[async_trait]
impl RecordStream for JetStreamStream {
    async fn publish(&self, publication: Publication) -> Result<Published, StreamError> {
        self.publisher.publish(&self.connection, &self.registry, publication).await
    }

    fn reader(&self, filter: &Filter, after: Idx) -> Box<dyn RecordReader> {
        let registry = Arc::clone(&self.registry);
        Box::new(JetStreamReader::new(self.connection.clone(), registry, filter.clone(), after))
    }

    async fn latest(&self, sync: SyncId, record: SequinId) -> Result<Option<Version>, StreamError> {
        Ok(questions::latest(&self.connection, &self.registry, sync, record).await?)
    }

    async fn lag(&self, filter: &Filter, after: Idx) -> Result<Lag, StreamError> {
        Ok(questions::lag(&self.connection, &self.registry, filter, after).await?)
    }

    async fn head(&self, filter: &Filter) -> Result<Idx, StreamError> {
        Ok(questions::head(&self.connection, &self.registry, filter).await?)
    }

    async fn identity(&self, filter: &Filter) -> Result<Option<StreamId>, StreamError> {
        Ok(questions::identity(&self.connection, &self.registry, filter).await?)
    }

    async fn purge(&self, sync: SyncId, collection: Option<&str>) -> Result<u64, StreamError> {
        Ok(removal::purge_sync(&self.connection, &self.registry, sync, collection).await?)
    }

    async fn drop_tombstones(&self, before: DateTime<Utc>, passed: &[(Filter, Idx)]) -> Result<u64, StreamError> {
        let mut dropped = 0;
        for provider in self.registry.providers() {
            match removal::drop_tombstones(&self.connection, &provider, before, passed).await {
                Ok(some) => dropped += some,
                // It has no tombstones, then.
                Err(error) if error.is_no_stream() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(dropped)
    }

    async fn providers(&self) -> Result<Vec<Provider>, StreamError> {
        Ok(self.registry.providers())
    }

    async fn syncs(&self, query: SyncQuery) -> Result<Vec<Sync>, StreamError> {
        questions::syncs(&self.connection, &self.registry, query).await
    }

    async fn sync(&self, sync: SyncId) -> Result<Option<Sync>, StreamError> {
        Ok(questions::sync(&self.connection, &self.registry, sync).await?)
    }
}

impl From<JetStreamError> for StreamError {
    fn from(error: JetStreamError) -> Self {
        match error {
            JetStreamError::Replaced(message) => Self::Replaced(message),
            full if full.is_full() => Self::Full(Box::new(full)),
            error => Self::Unavailable(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{jetstream::tests::connect, nats::Nats, stream::contract};

    /// A stream on a server of its own, gone with it.
    struct Fixture {
        _nats: Nats,
        stream: JetStreamStream,
    }

    impl Fixture {
        async fn open() -> Self {
            let nats = Nats::start();
            let stream = JetStreamStream::open(connect(&nats, "sequin").await).await.expect("a stream");
            Self { _nats: nats, stream }
        }
    }

    impl std::ops::Deref for Fixture {
        type Target = dyn RecordStream;

        fn deref(&self) -> &Self::Target {
            &self.stream
        }
    }

    contract::suite!(Fixture::open());
}
