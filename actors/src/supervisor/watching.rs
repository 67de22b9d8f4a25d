//! Watching the store: what is there, and every change, whatever happens to the store or to the watch.

use std::{collections::HashSet, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::{
    context::Context,
    flow::backoff::Backoff,
    store::{Document, DocumentEvent, DocumentsError},
};

/// Tells every document of a kind, and every change; goes on whatever happens to the store.
pub(crate) async fn watch<T: Document + 'static>(context: Arc<Context>, tell: impl Fn(DocumentEvent<T, T::Id>))
where
    T::Id: Eq + Hash,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = HashSet::new();
    loop {
        // Nobody waits for this task: a panic in it would end the watch without a word.
        let following = AssertUnwindSafe(follow(&context, &tell, &mut told, &mut backoff)).catch_unwind().await;
        let failed = following.map_or_else(|_| "it panicked".into(), |error| error.to_string());
        tracing::error!(error = failed, kind = T::KIND, "watching the store failed, and is tried again");
        tokio::time::sleep(backoff.next(fastrand::f64())).await;
    }
}

async fn follow<T: Document>(
    context: &Context,
    tell: &impl Fn(DocumentEvent<T, T::Id>),
    told: &mut HashSet<T::Id>,
    backoff: &mut Backoff,
) -> DocumentsError
where
    T::Id: Eq + Hash,
{
    let mut watch = match context.documents.watch::<T>().await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    // What an earlier watch told, and this one does not, was deleted in between.
    let mut missing = told.clone();
    loop {
        let event = match watch.next().await {
            Ok(event) => event,
            Err(error @ DocumentsError::Store(_)) => return error,
            // Whatever lies there hinders nothing else.
            Err(error) => {
                tracing::error!(%error, "passed over");
                continue;
            }
        };
        match &event {
            // It is there: what runs by an earlier version of it goes on as it is.
            DocumentEvent::Unreadable(id, unreadable) => {
                tracing::error!(%unreadable, "left as it is");
                missing.remove(id);
            }
            DocumentEvent::Put(id, _) => {
                missing.remove(id);
                told.insert(*id);
            }
            DocumentEvent::Deleted(id) => drop(told.remove(id)),
            DocumentEvent::Current => {
                // Not before: what fails on the way here every time is not to be tried all the time.
                backoff.reset();
                for id in missing.drain() {
                    told.remove(&id);
                    tell(DocumentEvent::Deleted(id));
                }
            }
        }
        tell(event);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use chrono::Utc;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        context::EngineSettings,
        model::{Connection, Limits, Metadata, Target, TargetId, Tls},
        store::{Documents, Keyring, SqliteStore, Store},
        stream::SqliteStream,
    };

    fn target(name: &str) -> Target {
        let connection = Connection {
            host: "localhost".into(),
            port: 5432,
            database: "app".into(),
            username: "sequin".into(),
            password: None,
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        };
        let (id, now) = (TargetId::generate(), Utc::now());
        Target {
            id,
            name: name.into(),
            connection,
            pool_size: 4,
            limits: Limits::default(),
            metadata: Metadata::new(),
            created_at: now,
            updated_at: now,
        }
    }

    async fn context(directory: &Path) -> (Arc<Context>, Arc<SqliteStore>) {
        let stream = SqliteStream::open(&directory.join("records.db")).expect("a stream");
        let store = Arc::new(SqliteStore::open(&directory.join("control.db")).await.expect("a store"));
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(store.clone(), Arc::new(keyring));
        (Arc::new(Context::new(EngineSettings::default(), Arc::new(stream), documents)), store)
    }

    #[tokio::test]
    async fn a_watch_goes_on_after_a_panic_and_tells_everything_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (context, _store) = context(directory.path()).await;
        let there = target("a");
        context.documents.create(&there, Utc::now()).await.expect("created");
        let (tell, mut events) = mpsc::unbounded_channel();
        let is_first = AtomicBool::new(true);
        let watching = watch::<Target>(context, move |event| {
            assert!(!is_first.swap(false, Ordering::Relaxed), "scripted");
            drop(tell.send(event));
        });
        let told = tokio::select! {
            () = watching => panic!("it ended"),
            told = events.recv() => told.expect("it goes on"),
        };
        assert!(matches!(told, DocumentEvent::Put(id, _) if id == there.id), "{told:?}");
    }

    #[tokio::test]
    async fn what_became_unreadable_is_not_taken_for_deleted_also_by_a_watch_that_begins_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (context, store) = context(directory.path()).await;
        let documents = &context.documents;
        let (unreadable, deleted) = (target("a"), target("b"));
        for target in [&unreadable, &deleted] {
            documents.create(target, Utc::now()).await.expect("created");
        }
        let mut told = HashSet::new();
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        // What one watch tells until it is current; then it is lost.
        let mut events_of_a_watch = async || {
            let (tell, mut events) = mpsc::unbounded_channel();
            let tell = move |event| drop(tell.send(event));
            let until_current = async {
                let mut seen = Vec::new();
                loop {
                    match events.recv().await.expect("it goes on") {
                        DocumentEvent::Current => return seen,
                        event => seen.push(event),
                    }
                }
            };
            tokio::select! {
                failed = follow::<Target>(&context, &tell, &mut told, &mut backoff) => panic!("{failed}"),
                seen = until_current => seen,
            }
        };
        assert_eq!(events_of_a_watch().await.len(), 2);
        let damaged = b"no document".to_vec();
        store.put(&format!("target/{}", unreadable.id), damaged).await.expect("damaged");
        documents.delete::<Target>(deleted.id, None).await.expect("deleted");
        for deletions in [1, 0] {
            let events = events_of_a_watch().await;
            let told_deleted = |event: &&_| matches!(event, DocumentEvent::Deleted(id) if *id == deleted.id);
            assert_eq!(events.iter().filter(told_deleted).count(), deletions, "{events:?}");
            let others = events.iter().filter(|event| !told_deleted(event));
            let mut others = others.filter(|event| !matches!(event, DocumentEvent::Unreadable(..)));
            assert_eq!(others.next(), None);
        }
    }
}
