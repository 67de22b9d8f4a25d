//! The control store in NATS JetStream: a key-value bucket, which all nodes of a cluster share.
//!
//! A revision is the sequence that the stream below the bucket gave to a write. Whoever writes names the one that must be
//! there, and every write has an id, so that one that is sent again because its answer was lost is known for the same:
//! it is never refused for being there already. A deleted key leaves a marker, by which those who watch hear of it;
//! markers go after a day by themselves.

mod bucket;
mod failure;
mod keys;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::{
    bucket::{Bucket, Last},
    failure::{By, Failure, Patience},
    watch::JetStreamWatch,
};
use super::{Entry, Event, Revision, Store, StoreError, Watch};
use crate::jetstream::{JetStream, JetStreamError};

/// For how long it can be seen that a key was deleted. Whoever watches may be cut off for half as long.
const MARKERS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// How many values of a list are asked for at once.
const AT_ONCE: usize = 64;

/// From how many on they may be asked for all at once, and how long that may take.
const MANY: usize = 250;
const LISTED: Duration = Duration::from_secs(20);

/// More than the headers of a write take.
const HEADERS: usize = 1024;

/// How often somebody looks whether the bucket is still there, however little there is to do.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The store of a cluster.
pub struct JetStreamStore {
    bucket: Arc<Bucket>,
    /// What the ids of this node's writes begin with, and how many there were.
    writer: Uuid,
    writes: AtomicU64,
    _looking: AbortOnDropHandle<()>,
}

impl JetStreamStore {
    /// Opens the bucket, and makes it if it is not there.
    pub async fn open(connection: JetStream) -> Result<Self, JetStreamError> {
        Self::open_with_markers(connection, MARKERS_LAST).await
    }

    async fn open_with_markers(connection: JetStream, last: Duration) -> Result<Self, JetStreamError> {
        let bucket = Arc::new(Bucket::open(connection, last).await?);
        let looking = AbortOnDropHandle::new(tokio::spawn(look(Arc::clone(&bucket))));
        Ok(Self { bucket, writer: Uuid::new_v4(), writes: AtomicU64::new(0), _looking: looking })
    }

    /// Writes the value, or that the key is deleted, if its last write is `expected`.
    async fn write(
        &self,
        key: &str,
        value: Option<Vec<u8>>,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let subject = self.bucket.subject(key);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, self.id_of_a_write());
        if let Some(Revision(sequence)) = expected {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        }
        if value.is_none() {
            self.bucket.mark(&mut headers);
        }
        let value = Bytes::from(value.unwrap_or_default());
        self.check_size(key, value.len())?;
        let mut patience = Patience::new();
        loop {
            self.bucket.is_there()?;
            match self.bucket.publish(&subject, &headers, &value).await {
                Ok(sequence) => return Ok(Revision(sequence)),
                Err(Failure::Outrun(By::Another)) => return Err(StoreError::Conflict { key: key.into() }),
                Err(failure) => patience.after(failure).await?,
            }
        }
    }

    /// What is too large for the server would break the connection.
    fn check_size(&self, key: &str, bytes: usize) -> Result<(), StoreError> {
        let most = self.bucket.connection.max_payload();
        if bytes + HEADERS <= most {
            return Ok(());
        }
        let what =
            format!("{key} takes {bytes} bytes, and the NATS server takes messages of {most}: raise max_payload");
        Err(StoreError::Unavailable(what.into()))
    }

    fn id_of_a_write(&self) -> String {
        format!("{}-{}", self.writer.simple(), self.writes.fetch_add(1, Ordering::Relaxed))
    }

    async fn last(&self, key: &str) -> Result<Option<Last>, StoreError> {
        let (subject, mut patience) = (self.bucket.subject(key), Patience::new());
        loop {
            self.bucket.is_there()?;
            match self.bucket.last(&subject).await {
                Ok(last) => return Ok(last),
                Err(failure) => patience.after(failure).await?,
            }
        }
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut patience = Patience::new();
        loop {
            self.bucket.is_there()?;
            match self.bucket.keys(prefix).await {
                Ok(keys) => return Ok(keys),
                Err(failure) => patience.after(failure).await?,
            }
        }
    }

    /// All that lies under a prefix.
    async fn everything(&self, prefix: &str) -> Result<BTreeMap<String, Entry>, StoreError> {
        let mut watch = JetStreamWatch::new(Arc::clone(&self.bucket), prefix);
        let mut entries = BTreeMap::new();
        let told = async {
            loop {
                match watch.next().await? {
                    Event::Put(entry) => drop(entries.insert(entry.key.clone(), entry)),
                    Event::Deleted { key } => drop(entries.remove(&key)),
                    Event::Current => return Ok::<_, StoreError>(()),
                }
            }
        };
        let too_slow = |_| StoreError::Unavailable(format!("{prefix} was not listed within {LISTED:?}").into());
        timeout(LISTED, told).await.map_err(too_slow)??;
        Ok(entries)
    }
}

#[async_trait]
impl Store for JetStreamStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let entry = |last: Last| {
            let revision = Revision(last.sequence);
            last.value.map(|value| Entry { key: key.into(), value: value.into(), revision })
        };
        Ok(self.last(key).await?.and_then(entry))
    }

    /// The leader tells which keys there are, and then each value; or, when most of them are asked for, a watch tells all
    /// at once, which takes a third of the time. Either is what the leader knew when it was asked, or later.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let mut keys = self.keys(prefix).await?;
        let all = keys.len();
        keys.retain(|key| after.is_none_or(|after| key.as_str() > after));
        let asked_for = keys.len().min(limit);
        if asked_for > MANY && asked_for > all / 4 {
            let mut entries = self.everything(prefix).await?;
            entries.retain(|key, _| after.is_none_or(|after| key.as_str() > after));
            return Ok(entries.into_values().take(limit).collect());
        }
        keys.sort_unstable();
        let entries = stream::iter(keys).map(async |key: String| self.get(&key).await).buffered(AT_ONCE.min(limit));
        // What is left out does not count: a page that is not full is the last one.
        entries.try_filter_map(async |entry| Ok(entry)).take(limit).try_collect().await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError> {
        let mut expected = Revision(0);
        loop {
            match self.write(key, Some(value.clone()), Some(expected)).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other,
            }
            // It may be a marker that was in the way. If it is not the one that was, nor a value, it has gone by now.
            let there = match self.last(key).await? {
                Some(Last { value: Some(_), .. }) => return Err(StoreError::Conflict { key: key.into() }),
                Some(Last { sequence, .. }) => Revision(sequence),
                None => Revision(0),
            };
            expected = there;
        }
    }

    async fn update(&self, key: &str, value: Vec<u8>, revision: Revision) -> Result<Revision, StoreError> {
        self.write(key, Some(value), Some(revision)).await
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError> {
        self.write(key, Some(value), None).await
    }

    async fn delete(&self, key: &str, revision: Option<Revision>) -> Result<(), StoreError> {
        // No marker of what was never there.
        if revision.is_none() && self.get(key).await?.is_none() {
            return Ok(());
        }
        self.write(key, None, revision).await.map(drop)
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, StoreError> {
        self.bucket.is_there()?;
        Ok(Box::new(JetStreamWatch::new(Arc::clone(&self.bucket), prefix)))
    }
}

/// Looks whether the bucket is still there, until it is lost: then every answer says so.
async fn look(bucket: Arc<Bucket>) {
    while bucket.is_there().is_ok() {
        if let Err(failure) = bucket.check().await {
            tracing::debug!(?failure, "the control store does not answer as it should");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
