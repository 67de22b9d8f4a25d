//! Wakes the readers that a publication concerns, and no others.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::model::{Filter, SyncSeen};

/// One bell a filter that somebody reads.
#[derive(Default)]
pub(super) struct Wakers {
    bells: Mutex<HashMap<Filter, watch::Sender<()>>>,
}

impl Wakers {
    pub(super) fn subscribe(&self, filter: &Filter) -> watch::Receiver<()> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        // Only before it would grow: with many readers, it would take long each time.
        if bells.len() == bells.capacity() {
            bells.retain(|_, bell| bell.receiver_count() > 0);
        }
        bells.entry(filter.clone()).or_default().subscribe()
    }

    pub(super) fn wake(&self, syncs: &[SyncSeen]) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let providers: HashSet<_> = syncs.iter().map(|seen| &seen.provider).collect();
        let providers = providers.into_iter().map(|provider| Filter::Provider(provider.clone()));
        let syncs = syncs.iter().map(|seen| Filter::Sync(seen.id));
        for filter in providers.chain(syncs) {
            if let Some(bell) = bells.get(&filter) {
                bell.send_replace(());
            }
        }
    }
}
