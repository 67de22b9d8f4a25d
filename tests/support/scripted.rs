//! The real stream and the real store, which fail on demand.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Filter, Idx, Lag, Page, Provider, Publication, SequinId, StreamId, Sync as SyncOfProvider, SyncId},
    store::{Entry, Event, Revision, SqliteStore, Store, StoreError, Watch},
    stream::{PageLimit, Published, RecordReader, RecordStream, SqliteStream, StreamError, SyncQuery, Version},
};

/// A stream whose readers of one filter misbehave.
pub(crate) struct ScriptedStream {
    pub(crate) stream: SqliteStream,
    script: Arc<StreamScript>,
}

/// What goes wrong with a stream.
#[derive(Default)]
pub(crate) struct StreamScript {
    /// Whose readers; nobody's if there is none.
    pub(crate) filter: Mutex<Option<Filter>>,
    /// To make a reader panics.
    pub(crate) no_reader: AtomicBool,
    /// To read panics.
    pub(crate) no_page: AtomicBool,
    /// To read never ends.
    pub(crate) no_end: AtomicBool,
    /// How often the end of the stream is still told as it was long ago.
    pub(crate) old_heads: AtomicUsize,
    /// How many readers were made.
    pub(crate) readers: AtomicUsize,
}

struct ScriptedReader {
    reader: Box<dyn RecordReader>,
    script: Option<Arc<StreamScript>>,
}

impl ScriptedStream {
    pub(crate) fn new(stream: SqliteStream, script: &Arc<StreamScript>) -> Self {
        Self { stream, script: Arc::clone(script) }
    }
}

impl StreamScript {
    /// From now on, the readers of `filter` misbehave.
    pub(crate) fn for_readers_of(&self, filter: Option<Filter>) {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = filter;
    }

    fn is_for(&self, filter: &Filter) -> bool {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(filter)
    }
}

#[async_trait]
impl RecordStream for ScriptedStream {
    fn reader(&self, filter: &Filter, after: Idx) -> Box<dyn RecordReader> {
        let script = self.script.is_for(filter).then(|| Arc::clone(&self.script));
        if let Some(script) = &script {
            script.readers.fetch_add(1, Ordering::SeqCst);
            assert!(!script.no_reader.load(Ordering::SeqCst), "scripted: no reader");
        }
        Box::new(ScriptedReader { reader: self.stream.reader(filter, after), script })
    }

    async fn publish(&self, publication: Publication) -> Result<Published, StreamError> {
        self.stream.publish(publication).await
    }

    async fn latest(&self, sync: SyncId, record: SequinId) -> Result<Option<Version>, StreamError> {
        self.stream.latest(sync, record).await
    }

    async fn lag(&self, filter: &Filter, after: Idx) -> Result<Lag, StreamError> {
        self.stream.lag(filter, after).await
    }

    async fn head(&self, filter: &Filter) -> Result<Idx, StreamError> {
        let is_old = |left: usize| left.checked_sub(1);
        if self.script.old_heads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_old).is_ok() {
            return Ok(Idx(1));
        }
        self.stream.head(filter).await
    }

    async fn identity(&self, filter: &Filter) -> Result<Option<StreamId>, StreamError> {
        self.stream.identity(filter).await
    }

    async fn purge(&self, sync: SyncId, collection: Option<&str>) -> Result<u64, StreamError> {
        self.stream.purge(sync, collection).await
    }

    async fn drop_tombstones(&self, before: DateTime<Utc>, passed: &[(Filter, Idx)]) -> Result<u64, StreamError> {
        self.stream.drop_tombstones(before, passed).await
    }

    async fn providers(&self) -> Result<Vec<Provider>, StreamError> {
        self.stream.providers().await
    }

    async fn syncs(&self, query: SyncQuery) -> Result<Vec<SyncOfProvider>, StreamError> {
        self.stream.syncs(query).await
    }

    async fn sync(&self, sync: SyncId) -> Result<Option<SyncOfProvider>, StreamError> {
        self.stream.sync(sync).await
    }
}

#[async_trait]
impl RecordReader for ScriptedReader {
    async fn ready(&mut self) -> Result<(), StreamError> {
        self.reader.ready().await
    }

    async fn read(&mut self, limit: PageLimit) -> Result<Page, StreamError> {
        if let Some(script) = &self.script {
            assert!(!script.no_page.load(Ordering::SeqCst), "scripted: no page");
            if script.no_end.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        }
        self.reader.read(limit).await
    }
}

/// A store that takes no writes of the keys that begin with a prefix.
pub(crate) struct ScriptedStore {
    store: SqliteStore,
    script: Arc<StoreScript>,
}

/// What goes wrong with a store.
#[derive(Default)]
pub(crate) struct StoreScript {
    refused: Mutex<Option<&'static str>>,
    /// Whether what is refused is written all the same, and nobody knows.
    pub(crate) is_written: AtomicBool,
    /// How many writes were refused.
    pub(crate) refusals: AtomicUsize,
    /// Whether a watch loses what happens.
    pub(crate) is_deaf: AtomicBool,
}

struct ScriptedWatch {
    watch: Box<dyn Watch>,
    script: Arc<StoreScript>,
}

#[async_trait]
impl Watch for ScriptedWatch {
    async fn next(&mut self) -> Result<Event, StoreError> {
        loop {
            let event = self.watch.next().await;
            if event.is_err() || !self.script.is_deaf.load(Ordering::SeqCst) {
                return event;
            }
        }
    }
}

impl StoreScript {
    /// From now on, keys that begin with `prefix` are not written.
    pub(crate) fn refuse(&self, prefix: Option<&'static str>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = prefix;
    }

    fn check(&self, key: &str) -> Result<(), StoreError> {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refused {
            Some(prefix) if key.starts_with(prefix) => {
                self.refusals.fetch_add(1, Ordering::SeqCst);
                Err(StoreError::Unavailable("scripted".into()))
            }
            _ => Ok(()),
        }
    }
}

impl ScriptedStore {
    pub(crate) fn new(store: SqliteStore, script: &Arc<StoreScript>) -> Self {
        Self { store, script: Arc::clone(script) }
    }
}

#[async_trait]
impl Store for ScriptedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.store.list(prefix, after, limit).await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError> {
        self.script.check(key)?;
        self.store.create(key, value).await
    }

    async fn update(&self, key: &str, value: Vec<u8>, revision: Revision) -> Result<Revision, StoreError> {
        let refused = self.script.check(key);
        if refused.is_err() && self.script.is_written.load(Ordering::SeqCst) {
            self.store.update(key, value, revision).await?;
            return refused.map(|()| revision);
        }
        refused?;
        self.store.update(key, value, revision).await
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError> {
        self.script.check(key)?;
        self.store.put(key, value).await
    }

    async fn delete(&self, key: &str, revision: Option<Revision>) -> Result<(), StoreError> {
        self.store.delete(key, revision).await
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, StoreError> {
        let watch = self.store.watch(prefix).await?;
        Ok(Box::new(ScriptedWatch { watch, script: Arc::clone(&self.script) }))
    }
}
