//! The tokens that this node knows, by their hashes: what the store holds, a moment later, without asking it each time.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    mem,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Token, TokenHash, TokenId},
    store::{DocumentEvent, Documents, DocumentsError, StoreError},
};
use tokio::sync::Notify;

use super::bearer::is_same;

/// How far apart the uses of a token are written down at least, in seconds.
const USE_WRITTEN_EVERY: i64 = 60;

/// How long to wait before the store is watched again that failed.
const WATCHED_AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct KnownTokens {
    /// By one half of the hash, of which nobody can choose as much; who is let in is decided by the whole.
    tokens: RwLock<HashMap<u128, Arc<Known>>>,
    /// Those whose use is to be written down.
    used: Mutex<HashSet<TokenId>>,
    somebody_used_one: Notify,
}

pub(super) struct Known {
    pub(super) token: Token,
    /// When its use was last written down, in seconds of Unix time.
    written_at: AtomicI64,
}

impl KnownTokens {
    /// The token of this hash.
    pub(super) fn find(&self, hash: &TokenHash) -> Option<Arc<Known>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&half(hash)).filter(|known| is_same(&known.token.hash, hash)).cloned()
    }

    pub(super) fn learn(&self, token: Token) {
        let written_at = AtomicI64::new(token.last_used_at.map_or(0, |at| at.timestamp()));
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(half(&token.hash), Arc::new(Known { token, written_at }));
    }

    pub(super) fn forget(&self, id: TokenId) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, known| known.token.id != id);
    }

    /// Has its use written down, soon and by somebody else, unless that was done within the last minute.
    pub(super) fn note_use(&self, known: &Known, now: DateTime<Utc>) {
        let (now, written_at) = (now.timestamp(), known.written_at.load(Ordering::Relaxed));
        // A clock that was set back must not silence it.
        if (now - written_at).abs() < USE_WRITTEN_EVERY {
            return;
        }
        let swapped = known.written_at.compare_exchange(written_at, now, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_ok() {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(known.token.id);
            self.somebody_used_one.notify_one();
        }
    }

    /// Writes uses down, for ever.
    pub(super) async fn write_uses(&self, documents: &Documents) {
        loop {
            self.somebody_used_one.notified().await;
            let used = mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
            for id in used {
                match write_use(documents, id).await {
                    // Somebody else has written it, or revoked it.
                    Ok(()) | Err(DocumentsError::Store(StoreError::Conflict { .. })) => {}
                    Err(error) => tracing::warn!(%error, token_id = %id, "the use of a token was not written down"),
                }
            }
        }
    }

    /// Learns and forgets tokens as the store does, for ever.
    pub(super) async fn follow(&self, documents: &Documents) {
        loop {
            let Err(error) = self.watch(documents).await;
            tracing::warn!(%error, "changes to tokens are not heard of; trying again");
            tokio::time::sleep(WATCHED_AGAIN).await;
        }
    }

    async fn watch(&self, documents: &Documents) -> Result<Infallible, DocumentsError> {
        // What is known, and not told until the watch is current, was deleted when nobody watched.
        let mut missing = self.ids();
        let mut watch = documents.watch::<Token>().await?;
        loop {
            match watch.next().await {
                Ok(DocumentEvent::Put(id, token)) => {
                    missing.remove(&id);
                    self.learn(token.value);
                }
                Ok(DocumentEvent::Deleted(id)) => self.forget(id),
                // What its bearer may do is not known any more.
                Ok(DocumentEvent::Unreadable(id, unreadable)) => {
                    tracing::error!(%unreadable, "a token is not taken");
                    self.forget(id);
                }
                Ok(DocumentEvent::Current) => missing.drain().for_each(|id| self.forget(id)),
                Err(error @ DocumentsError::Store(_)) => return Err(error),
                Err(error) => tracing::error!(%error, "passed over"),
            }
        }
    }

    fn ids(&self) -> HashSet<TokenId> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.values().map(|known| known.token.id).collect()
    }
}

async fn write_use(documents: &Documents, id: TokenId) -> Result<(), DocumentsError> {
    if let Some(found) = documents.get::<Token>(id).await? {
        let token = Token { last_used_at: Some(Utc::now()), ..found.value };
        documents.update(id, &token, found.revision).await?;
    }
    Ok(())
}

fn half(hash: &TokenHash) -> u128 {
    hash.0.iter().take(size_of::<u128>()).fold(0, |half, byte| half << 8 | u128::from(*byte))
}
