//! What somebody wrote of syncs, as every node follows it: publishing must not ask the store for each record.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use sequin_actors::{
    model::{SyncId, SyncSettings},
    store::{DocumentEvent, DocumentWatch, Documents, DocumentsError},
};
use tokio::task::JoinHandle;

/// How long to wait before a watch that broke off is begun again.
const RETRY: Duration = Duration::from_secs(1);

/// The settings of all syncs that have any.
pub(in crate::api) type AllSettings = HashMap<SyncId, Arc<SyncSettings>>;

/// The settings of all syncs that have any, as they are now.
pub(in crate::api) struct FollowedSettings {
    all: Arc<RwLock<Arc<AllSettings>>>,
    following: JoinHandle<()>,
}

impl FollowedSettings {
    /// Reads what is there, and follows what changes.
    pub(in crate::api) async fn follow(documents: Documents) -> Result<Self, DocumentsError> {
        let all = Arc::default();
        let mut watch = documents.watch::<SyncSettings>().await?;
        while hear(&mut watch, &all).await? {}
        let of_task = Arc::clone(&all);
        let following = tokio::spawn(async move {
            loop {
                let Err(error) = follow(watch, &of_task).await;
                tracing::warn!(%error, "what is written of syncs is not followed for a moment");
                watch = loop {
                    tokio::time::sleep(RETRY).await;
                    match documents.watch::<SyncSettings>().await {
                        Ok(watch) => break watch,
                        Err(error) => tracing::debug!(%error, "nor yet again"),
                    }
                };
            }
        });
        Ok(Self { all, following })
    }

    /// As they are now.
    pub(in crate::api) fn now(&self) -> Arc<AllSettings> {
        Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was just written here is known here at once.
    pub(super) fn wrote(&self, settings: SyncSettings) {
        change(&self.all, |all| drop(all.insert(settings.id, Arc::new(settings))));
    }

    /// Likewise for what was deleted.
    pub(super) fn deleted(&self, sync: SyncId) {
        change(&self.all, |all| drop(all.remove(&sync)));
    }
}

impl Drop for FollowedSettings {
    fn drop(&mut self) {
        self.following.abort();
    }
}

async fn follow(
    mut watch: DocumentWatch<SyncSettings>,
    all: &RwLock<Arc<AllSettings>>,
) -> Result<std::convert::Infallible, DocumentsError> {
    loop {
        hear(&mut watch, all).await?;
    }
}

/// Takes over what happened; false once everything has been told that was there at the beginning.
async fn hear(watch: &mut DocumentWatch<SyncSettings>, all: &RwLock<Arc<AllSettings>>) -> Result<bool, DocumentsError> {
    match watch.next().await? {
        DocumentEvent::Put(id, settings) => change(all, |all| drop(all.insert(id, Arc::new(settings.value)))),
        DocumentEvent::Deleted(id) => change(all, |all| drop(all.remove(&id))),
        DocumentEvent::Unreadable(_, unreadable) => tracing::error!(%unreadable, "passed over"),
        DocumentEvent::Current => return Ok(false),
    }
    Ok(true)
}

fn change(all: &RwLock<Arc<AllSettings>>, change: impl FnOnce(&mut AllSettings)) {
    change(Arc::make_mut(&mut all.write().unwrap_or_else(PoisonError::into_inner)));
}
