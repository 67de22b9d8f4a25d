//! What somebody wrote of syncs, as this node knows it: publishing must not ask the store for each record.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use sequin_actors::{
    model::{SyncId, SyncSettings},
    store::{DocumentEvent, Documents, DocumentsError},
};

/// How long to wait before the store is watched again that failed.
const WATCHED_AGAIN: Duration = Duration::from_secs(1);

/// The settings of all syncs that have any.
pub(in crate::api) type AllSettings = HashMap<SyncId, Arc<SyncSettings>>;

/// The settings of all syncs that have any: what the store holds, a moment later.
pub(in crate::api) struct KnownSettings {
    all: RwLock<Arc<AllSettings>>,
}

impl KnownSettings {
    pub(in crate::api) async fn open(documents: &Documents) -> Result<Self, DocumentsError> {
        // Those that can't be read are told of by the watch.
        let found = documents.all::<SyncSettings>().await?.into_iter().flatten();
        let all: AllSettings = found.map(|settings| (settings.id, Arc::new(settings))).collect();
        Ok(Self { all: RwLock::new(Arc::new(all)) })
    }

    /// As they are now.
    pub(in crate::api) fn now(&self) -> Arc<AllSettings> {
        Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what was just written here, before the store tells of it.
    pub(super) fn learn(&self, settings: SyncSettings) {
        self.change(|all| drop(all.insert(settings.id, Arc::new(settings))));
    }

    /// Forgets what was just deleted here, before the store tells of it.
    pub(super) fn forget(&self, sync: SyncId) {
        self.change(|all| drop(all.remove(&sync)));
    }

    fn change(&self, change: impl FnOnce(&mut AllSettings)) {
        change(Arc::make_mut(&mut self.all.write().unwrap_or_else(PoisonError::into_inner)));
    }

    /// Learns and forgets settings as the store does, for ever.
    pub(in crate::api) async fn keep_up(&self, documents: &Documents) {
        loop {
            let Err(error) = self.watch(documents).await;
            tracing::warn!(%error, "what is written of syncs is not heard of; trying again");
            tokio::time::sleep(WATCHED_AGAIN).await;
        }
    }

    async fn watch(&self, documents: &Documents) -> Result<Infallible, DocumentsError> {
        // What is known, and not told until the watch is current, was deleted when nobody watched.
        let mut missing: HashSet<SyncId> = self.now().keys().copied().collect();
        let mut watch = documents.watch::<SyncSettings>().await?;
        loop {
            match watch.next().await {
                Ok(DocumentEvent::Put(id, settings)) => {
                    missing.remove(&id);
                    self.learn(settings.value);
                }
                Ok(DocumentEvent::Deleted(id)) => self.forget(id),
                // What is known of it is better than nothing.
                Ok(DocumentEvent::Unreadable(id, unreadable)) => {
                    missing.remove(&id);
                    tracing::error!(%unreadable, "passed over");
                }
                Ok(DocumentEvent::Current) => missing.drain().for_each(|id| self.forget(id)),
                Err(error @ DocumentsError::Store(_)) => return Err(error),
                Err(error) => tracing::error!(%error, "passed over"),
            }
        }
    }
}
