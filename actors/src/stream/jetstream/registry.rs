//! What is known of providers and syncs: a key-value bucket, and a copy of it on each node.
//!
//! Publishing the records of a sync that is known costs no question. The copy is kept up by a watch; where it does not
//! know a sync, the bucket is asked, so that what another node wrote a moment ago counts.

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
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::messages::{self, EXPECTED};
use crate::{
    jetstream::{Arrived, Cursor, JetStream, JetStreamError, MOST_CONSUMERS},
    model::{Provider, StreamId, SyncDescription, SyncId, SyncSeen},
};

/// How long the first copy may take.
const FIRST_COPY: Duration = Duration::from_secs(30);

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
        let stream = stream(&connection);
        let bucket = bucket(&connection);
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
            Ok(_) => {}
            // With other replicas, as when an operator has changed them.
            Err(error) if error.is_name_taken() => {}
            Err(error) => return Err(error),
        }
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
        let subject = self.subject(&sync_key(sync));
        let Some(found) = messages::last(&self.connection, &stream(&self.connection), &subject).await? else {
            return Ok(None);
        };
        self.copy.remember(&sync_key(sync), found.sequence, &found.payload);
        Ok(self.known_sync(sync))
    }

    /// Makes a sync unless it is there, and says what is there.
    pub(super) async fn create_sync(&self, sync: SyncId, entry: &SyncEntry) -> Result<SyncEntry, JetStreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, "0");
        match self.put(&sync_key(sync), headers, entry).await {
            Ok(()) => Ok(entry.clone()),
            Err(error) if error.is_conflict() => Ok(self.sync(sync).await?.unwrap_or_else(|| entry.clone())),
            Err(error) => Err(error),
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
        self.put(&format!("provider.{provider}"), HeaderMap::new(), entry).await
    }

    /// Forgets everything, here and in the bucket. The copies on other nodes do not hear of it.
    pub(super) async fn clear(&self) -> Result<(), JetStreamError> {
        let purge = format!("STREAM.PURGE.{}", stream(&self.connection));
        self.connection.ask_patiently::<serde::de::IgnoredAny>(&purge, &()).await?;
        *self.copy.lock() = Copy::default();
        Ok(())
    }

    async fn put(&self, key: &str, headers: HeaderMap, entry: &impl Serialize) -> Result<(), JetStreamError> {
        let bytes: Bytes = rmp_serde::to_vec_named(entry).expect("writing to memory can't fail").into();
        let revision = self.connection.publish(self.subject(key), headers, bytes.clone()).await?;
        self.copy.remember(key, revision, &bytes);
        Ok(())
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", bucket(&self.connection))
    }
}

fn bucket(connection: &JetStream) -> String {
    format!("{}-registry", connection.cluster())
}

fn stream(connection: &JetStream) -> String {
    format!("KV_{}", bucket(connection))
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

async fn keep_up(connection: JetStream, mut first: Cursor, copy: Arc<Watched>) {
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
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        // From the start: the bucket may be another one.
        first = cursor(&connection);
    }
}
