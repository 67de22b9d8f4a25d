//! What is known of providers and syncs: a key-value bucket, and a copy of it on each node.
//!
//! Publishing the records of a sync that is known costs no question. The copy is kept up by a watch; where it does not
//! know one, the bucket is asked, so that what another node wrote a moment ago counts. A bucket that is lost is made again
//! from the copies.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    messages::{self, EXPECTED},
    several::several,
};
use crate::{
    jetstream::{Arrived, Cursor, JetStream, JetStreamError, MOST_CONSUMERS},
    model::{Provider, StreamId, SyncDescription, SyncId, SyncSeen},
};

/// How long the first copy may take.
const FIRST_COPY: Duration = Duration::from_secs(30);

/// How long it may take until it is decided which of two writes of a key counts, and how long to wait in between.
const DECIDED: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);

/// For how long the bucket must not be there before it counts as lost.
const LOST: Duration = Duration::from_secs(10);

/// How many entries are written again at a time.
const AT_A_TIME: usize = 64;

/// A provider's stream, as it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ProviderEntry {
    /// Which one it is.
    pub(super) identity: StreamId,
    /// The first position that it gives.
    pub(super) first: u64,
    pub(super) created_at: DateTime<Utc>,
}

/// A sync, as the last record that describes it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SyncEntry {
    pub(super) provider: Provider,
    pub(super) external_id: Option<String>,
    pub(super) metadata: String,
}

impl SyncEntry {
    pub(super) fn new(provider: &Provider, description: Option<&SyncDescription>) -> Self {
        let external_id = description.and_then(|description| description.external_id.clone());
        let metadata = description.map_or_else(|| "{}".into(), |description| description.metadata.clone());
        Self { provider: provider.clone(), external_id, metadata }
    }

    pub(super) fn is_described_by(&self, description: &SyncDescription) -> bool {
        self.external_id == description.external_id && self.metadata == description.metadata
    }
}

#[derive(Default)]
struct Copy {
    providers: BTreeMap<Provider, Held<ProviderEntry>>,
    syncs: BTreeMap<SyncId, Held<SyncEntry>>,
}

struct Held<T> {
    revision: u64,
    value: T,
}

/// See the module.
pub(super) struct Registry {
    connection: JetStream,
    copy: Arc<Watched>,
    watch: JoinHandle<()>,
}

#[derive(Default)]
struct Watched {
    copy: Mutex<Copy>,
    changed: watch::Sender<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Registry {
    /// Makes the bucket if it is not there, and copies it.
    pub(super) async fn open(connection: JetStream) -> Result<Self, JetStreamError> {
        make(&connection).await?;
        connection.raise_replicas(&stream(&connection)).await;
        let copy = Arc::new(Watched::default());
        let mut cursor = cursor(&connection);
        let first = timeout(FIRST_COPY, copy_all(&mut cursor, &copy)).await;
        first.unwrap_or_else(|_| Err(JetStreamError::took_too_long("copying the registry")))?;
        let watch = tokio::spawn(keep_up(connection.clone(), cursor, Arc::clone(&copy)));
        Ok(Self { connection, copy, watch })
    }

    /// Changes with what is known.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.copy.changed.subscribe()
    }

    pub(super) fn providers(&self) -> Vec<Provider> {
        self.copy.lock().providers.keys().cloned().collect()
    }

    pub(super) fn provider(&self, provider: &Provider) -> Option<ProviderEntry> {
        self.copy.lock().providers.get(provider).map(|held| held.value.clone())
    }

    fn known_sync(&self, sync: SyncId) -> Option<SyncEntry> {
        self.copy.lock().syncs.get(&sync).map(|held| held.value.clone())
    }

    /// Whether all of these are known, and described as they are here.
    pub(super) fn knows_all(&self, seen: &[SyncSeen]) -> bool {
        let copy = self.copy.lock();
        seen.iter().all(|seen| {
            copy.syncs.get(&seen.id).is_some_and(|Held { value, .. }| {
                let is_described = |description| value.is_described_by(description);
                value.provider == seen.provider && seen.description.as_ref().is_none_or(is_described)
            })
        })
    }

    /// What the copy knows of the provider of a sync.
    pub(super) fn provider_of(&self, sync: SyncId) -> Option<Provider> {
        self.copy.lock().syncs.get(&sync).map(|held| held.value.provider.clone())
    }

    /// Some syncs after `after`, in order.
    pub(super) fn syncs_after(
        &self,
        after: Option<SyncId>,
        provider: Option<&Provider>,
        limit: usize,
    ) -> Vec<(SyncId, SyncEntry)> {
        let copy = self.copy.lock();
        let range = copy.syncs.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let matching = range.filter(|(_, held)| provider.is_none_or(|provider| held.value.provider == *provider));
        matching.take(limit).map(|(&id, held)| (id, held.value.clone())).collect()
    }

    /// A sync, if anybody ever published of it.
    pub(super) async fn sync(&self, sync: SyncId) -> Result<Option<SyncEntry>, JetStreamError> {
        if let Some(known) = self.known_sync(sync) {
            return Ok(Some(known));
        }
        self.look_up(&sync_key(sync)).await?;
        Ok(self.known_sync(sync))
    }

    /// A provider, if anybody ever published of it.
    pub(super) async fn find_provider(&self, provider: &Provider) -> Result<Option<ProviderEntry>, JetStreamError> {
        if let Some(known) = self.provider(provider) {
            return Ok(Some(known));
        }
        self.look_up(&provider_key(provider)).await?;
        Ok(self.provider(provider))
    }

    /// Makes a sync unless it is there, and says what is there.
    pub(super) async fn create_sync(&self, sync: SyncId, entry: &SyncEntry) -> Result<SyncEntry, JetStreamError> {
        let deadline = Instant::now() + DECIDED;
        loop {
            let error = match self.put(&sync_key(sync), to_be_first(), entry).await {
                Ok(()) => return Ok(entry.clone()),
                Err(error) => error,
            };
            if error.is_conflict() {
                if let Some(found) = self.sync(sync).await? {
                    return Ok(found);
                }
            } else if !error.is_undecided() {
                return Err(error);
            }
            // Another node's write is on its way, or has come and whoever was asked does not know of it yet.
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(AGAIN).await;
        }
    }

    /// Writes what a sync is described as now.
    pub(super) async fn put_sync(&self, sync: SyncId, entry: &SyncEntry) -> Result<(), JetStreamError> {
        self.put(&sync_key(sync), HeaderMap::new(), entry).await
    }

    /// Writes what a provider's stream is now.
    pub(super) async fn put_provider(&self, provider: &Provider, entry: &ProviderEntry) -> Result<(), JetStreamError> {
        if self.provider(provider).as_ref() == Some(entry) {
            return Ok(());
        }
        self.put(&provider_key(provider), HeaderMap::new(), entry).await
    }

    /// Forgets everything, here and in the bucket. The copies on other nodes do not hear of it.
    pub(super) async fn clear(&self) -> Result<(), JetStreamError> {
        let purge = format!("STREAM.PURGE.{}", stream(&self.connection));
        self.connection.ask_patiently::<serde::de::IgnoredAny>(&purge, &()).await?;
        *self.copy.lock() = Copy::default();
        Ok(())
    }

    async fn put(&self, key: &str, headers: HeaderMap, entry: &impl Serialize) -> Result<(), JetStreamError> {
        put(&self.connection, &self.copy, key, headers, entry).await
    }

    /// Asks the bucket for what the copy does not know.
    async fn look_up(&self, key: &str) -> Result<(), JetStreamError> {
        let (stream, subject) = (stream(&self.connection), subject(&self.connection, key));
        if let Some(found) = messages::last(&self.connection, &stream, &subject).await? {
            self.copy.remember(key, found.sequence, &found.payload);
        }
        Ok(())
    }
}

fn bucket(connection: &JetStream) -> String {
    format!("{}-registry", connection.cluster())
}

fn stream(connection: &JetStream) -> String {
    format!("KV_{}", bucket(connection))
}

/// Makes the bucket if it is not there.
async fn make(connection: &JetStream) -> Result<(), JetStreamError> {
    let (stream, bucket) = (stream(connection), bucket(connection));
    let config = json!({
        "name": stream,
        "subjects": [format!("$KV.{bucket}.>")],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "max_consumers": MOST_CONSUMERS,
        "discard": "new",
        "storage": "file",
        "num_replicas": connection.replicas(),
        "allow_rollup_hdrs": true,
        "deny_delete": true,
    });
    match connection.ask_patiently::<serde::de::IgnoredAny>(&format!("STREAM.CREATE.{stream}"), &config).await {
        Ok(_) => Ok(()),
        // With other replicas, as when an operator has changed them.
        Err(error) if error.is_name_taken() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes an entry, and remembers it.
async fn put(
    connection: &JetStream,
    copy: &Watched,
    key: &str,
    headers: HeaderMap,
    entry: &impl Serialize,
) -> Result<(), JetStreamError> {
    let bytes: Bytes = rmp_serde::to_vec_named(entry).expect("writing to memory can't fail").into();
    let revision = connection.publish(subject(connection, key), headers, bytes.clone()).await?;
    copy.remember(key, revision, &bytes);
    Ok(())
}

fn subject(connection: &JetStream, key: &str) -> String {
    format!("$KV.{}.{key}", bucket(connection))
}

/// Of a write that is to be the first of its key.
fn to_be_first() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED, "0");
    headers
}

fn provider_key(provider: &Provider) -> String {
    format!("provider.{provider}")
}

fn sync_key(sync: SyncId) -> String {
    format!("sync.{sync}")
}

fn cursor(connection: &JetStream) -> Cursor {
    Cursor::new(connection.clone(), stream(connection), format!("$KV.{}.>", bucket(connection)), 0)
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is read from now on counts more than what is known, as of a bucket that counts from one again.
    fn forget_revisions(&self) {
        let mut copy = self.lock();
        copy.providers.values_mut().for_each(|held| held.revision = 0);
        copy.syncs.values_mut().for_each(|held| held.revision = 0);
    }

    fn remember(&self, key: &str, revision: u64, value: &[u8]) {
        let mut copy = self.lock();
        if let Some(sync) = key.strip_prefix("sync.").and_then(|id| id.parse().ok()) {
            hold(&mut copy.syncs, sync, revision, value);
        } else if let Some(provider) = key.strip_prefix("provider.").and_then(|slug| Provider::parse(slug).ok()) {
            hold(&mut copy.providers, provider, revision, value);
        }
        drop(copy);
        self.changed.send_replace(());
    }
}

/// Keeps the newest value of a key. One that can't be read, as of a newer node, leaves what was there.
fn hold<K: Ord, T: DeserializeOwned>(held: &mut BTreeMap<K, Held<T>>, key: K, revision: u64, value: &[u8]) {
    if held.get(&key).is_some_and(|known| known.revision >= revision) {
        return;
    }
    match rmp_serde::from_slice(value) {
        Ok(value) => _ = held.insert(key, Held { revision, value }),
        Err(error) => tracing::error!(%error, "an entry of the registry can't be read, and is left as it is"),
    }
}

async fn copy_all(cursor: &mut Cursor, copy: &Watched) -> Result<(), JetStreamError> {
    loop {
        copy_some(cursor, copy).await?;
        if cursor.is_done().await? {
            return Ok(());
        }
        cursor.ready().await?;
    }
}

async fn copy_some(cursor: &mut Cursor, copy: &Watched) -> Result<(), JetStreamError> {
    cursor.fetch(1000, 1 << 20).await?;
    while let Some(Arrived { sequence, subject, payload, .. }) = cursor.take() {
        // `$KV.<bucket>.<key>`
        if let Some(key) = subject.splitn(3, '.').nth(2) {
            copy.remember(key, sequence, &payload);
        }
    }
    cursor.read_to().await.map(drop)
}

/// Copies what is new, for ever.
async fn keep_up(connection: JetStream, mut first: Cursor, copy: Arc<Watched>) {
    let mut missing_since: Option<Instant> = None;
    loop {
        let kept_up = async {
            loop {
                first.ready().await?;
                copy_some(&mut first, &copy).await?;
            }
        };
        let outcome: Result<(), JetStreamError> = kept_up.await;
        if let Err(error) = outcome {
            tracing::warn!(%error, "what other nodes publish is not heard of at present");
            let is_missing = error.is_no_stream();
            missing_since = is_missing.then(|| missing_since.unwrap_or_else(Instant::now));
            let is_lost = missing_since.is_some_and(|since| since.elapsed() > LOST);
            if is_lost || matches!(error, JetStreamError::Replaced(_)) {
                match make_again(&connection, &copy).await {
                    Ok(()) => tracing::error!("the registry was lost, and was made again of what this node knew"),
                    Err(error) => tracing::error!(%error, "the registry was lost, and is not made again yet"),
                }
            }
        }
        sleep(Duration::from_secs(1)).await;
        // From the start: the bucket may be another one.
        copy.forget_revisions();
        first = cursor(&connection);
    }
}

/// Makes the bucket again, and writes what is known and not there.
async fn make_again(connection: &JetStream, copy: &Watched) -> Result<(), JetStreamError> {
    make(connection).await?;
    copy.forget_revisions();
    let (providers, syncs) = {
        let copy = copy.lock();
        let providers: Vec<_> =
            copy.providers.iter().map(|(key, held)| (provider_key(key), held.value.clone())).collect();
        let syncs: Vec<_> = copy.syncs.iter().map(|(&key, held)| (sync_key(key), held.value.clone())).collect();
        (providers, syncs)
    };
    let is_there = |outcome| match outcome {
        // Another node was first.
        Err(error) if JetStreamError::is_conflict(&error) => Ok(()),
        outcome => outcome,
    };
    let writes =
        providers.iter().map(async |(key, entry)| is_there(put(connection, copy, key, to_be_first(), entry).await));
    several(writes, AT_A_TIME).await?;
    let writes =
        syncs.iter().map(async |(key, entry)| is_there(put(connection, copy, key, to_be_first(), entry).await));
    several(writes, AT_A_TIME).await?;
    Ok(())
}
