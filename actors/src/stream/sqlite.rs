//! The record stream in a SQLite file: the embedded default.
//!
//! - `log` holds one row a version, appended in order and never changed.
//! - `latest` says which version of a record counts; moving it is what compaction writes.
//! - `superseded` lists the versions that no longer count: they are never read again, and their rows are reclaimed
//!   later, block by block, in order. Deleting each at once would dirty a page of the log for every record published.
//! - `block` counts the versions that count and those that don't, per [`position::BLOCK`] positions, so that a
//!   consumer's lag is a sum of few numbers, and space is reclaimed where most of it is.
//! - `identity` is one row: which file this is, made with it. A copy is the same stream.

mod position;
mod publish;
mod read;
mod removal;
mod syncs;
mod wakers;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use tokio::{sync::Notify, task::JoinHandle};

use self::{
    publish::{Done, Known},
    read::SqliteReader,
    wakers::Wakers,
};
use super::{Published, RecordReader, RecordStream, StreamError, SyncQuery, Version, passed::Passed};
use crate::{
    embedded::{Settings, SqliteError, SqliteFile},
    model::{Filter, Idx, Lag, Provider, Publication, SequinId, StreamId, Sync, SyncId},
};

const SETTINGS: Settings = Settings {
    schema: &[
        "
    CREATE TABLE provider(no INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, last_idx INTEGER NOT NULL);
    CREATE TABLE sync(no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, provider INTEGER NOT NULL,
                      external_id TEXT, metadata TEXT NOT NULL);
    CREATE INDEX sync_by_provider ON sync(provider, id);
    CREATE TABLE log(position INTEGER PRIMARY KEY, sync INTEGER NOT NULL, record BLOB NOT NULL,
                     published_at INTEGER NOT NULL, envelope BLOB NOT NULL);
    CREATE INDEX log_by_sync ON log(sync);
    CREATE TABLE latest(sync INTEGER NOT NULL, record BLOB NOT NULL, position INTEGER NOT NULL,
                        tombstone INTEGER NOT NULL, PRIMARY KEY(sync, record)) WITHOUT ROWID;
    CREATE TABLE superseded(position INTEGER PRIMARY KEY);
    CREATE TABLE tombstone(position INTEGER PRIMARY KEY, sync INTEGER NOT NULL);
    CREATE TABLE block(no INTEGER PRIMARY KEY, live INTEGER NOT NULL, dead INTEGER NOT NULL);
    CREATE INDEX block_mostly_dead ON block(no) WHERE dead > 0 AND dead >= live;
    ",
        "
    CREATE TABLE identity(id BLOB NOT NULL);
    INSERT INTO identity(id) VALUES (randomblob(16));
    ",
    ],
    writer_cache_kib: 32 * 1024,
    reader_cache_kib: 4 * 1024,
};

/// The embedded stream. See the module for how it lies in the file.
pub struct SqliteStream {
    file: Arc<SqliteFile>,
    known: Arc<Mutex<Known>>,
    wakers: Arc<Wakers>,
    superseded: Arc<Notify>,
    reclaimer: JoinHandle<()>,
}

impl SqliteStream {
    /// Opens the file, and makes it if it is not there. Needs a tokio runtime.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let file = Arc::new(SqliteFile::open(path, &SETTINGS)?);
        let superseded = Arc::new(Notify::new());
        let reclaimer = tokio::spawn(reclaim_when_superseded(Arc::clone(&file), Arc::clone(&superseded)));
        superseded.notify_one();
        Ok(Self { file, known: Arc::default(), wakers: Arc::default(), superseded, reclaimer })
    }
}

impl Drop for SqliteStream {
    fn drop(&mut self) {
        self.reclaimer.abort();
    }
}

/// Gives back the space of superseded versions, one block a transaction, so that publishers never wait for long.
async fn reclaim_when_superseded(file: Arc<SqliteFile>, superseded: Arc<Notify>) {
    loop {
        superseded.notified().await;
        loop {
            match file.write(removal::reclaim_a_block).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "reclaiming space failed, and is tried again after the next publication");
                    break;
                }
            }
        }
    }
}

#[async_trait]
impl RecordStream for SqliteStream {
    async fn publish(&self, publication: Publication) -> Result<Published, StreamError> {
        let (known, wakers) = (Arc::clone(&self.known), Arc::clone(&self.wakers));
        let superseded = Arc::clone(&self.superseded);
        let publication = Arc::new(publication);
        let records = Arc::clone(&publication);
        let write = move |connection: &Connection| {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            publish::publish(connection, &mut known, &records, Utc::now())
        };
        let published = move |outcome: &Result<Done, StreamError>| {
            if let Ok(done) = outcome {
                wakers.wake(publication.syncs());
                if done.superseded {
                    superseded.notify_one();
                }
            }
        };
        Ok(self.file.write_and_tell(write, published).await??.published)
    }

    fn reader(&self, filter: &Filter, after: Idx) -> Box<dyn RecordReader> {
        Box::new(SqliteReader::new(Arc::clone(&self.file), self.wakers.subscribe(filter), filter.clone(), after))
    }

    async fn latest(&self, sync: SyncId, record: SequinId) -> Result<Option<Version>, StreamError> {
        Ok(self.file.read(move |connection| read::latest(connection, sync, record)).await?)
    }

    async fn lag(&self, filter: &Filter, after: Idx) -> Result<Lag, StreamError> {
        let filter = filter.clone();
        Ok(self.file.read(move |connection| read::lag(connection, &filter, after)).await?)
    }

    async fn head(&self, filter: &Filter) -> Result<Idx, StreamError> {
        let filter = filter.clone();
        Ok(self.file.read(move |connection| read::head(connection, &filter)).await?)
    }

    async fn identity(&self, filter: &Filter) -> Result<Option<StreamId>, StreamError> {
        let filter = filter.clone();
        Ok(self.file.read(move |connection| read::identity(connection, &filter)).await?)
    }

    async fn purge(&self, sync: SyncId, collection: Option<&str>) -> Result<u64, StreamError> {
        let collection: Option<Arc<str>> = collection.map(Into::into);
        let mut rest = self.file.read(move |connection| removal::extent_of_sync(connection, sync)).await?;
        let mut removed = 0;
        while let Some(range) = rest {
            let collection = collection.clone();
            let remove =
                move |connection: &Connection| removal::remove_some(connection, sync, collection.as_deref(), range);
            let some = self.file.write(remove).await?;
            removed += some.removed;
            rest = some.rest;
        }
        Ok(removed)
    }

    async fn drop_tombstones(&self, before: DateTime<Utc>, passed: &[(Filter, Idx)]) -> Result<u64, StreamError> {
        let passed = Passed::by(passed);
        let old = self.file.read(move |connection| removal::old_tombstones(connection, before)).await?;
        let nobody_needs = old.into_iter().filter(|tombstone| tombstone.is_passed(&passed)).collect::<Vec<_>>();
        for some in nobody_needs.chunks(removal::SOME) {
            let some = some.to_vec();
            self.file.write(move |connection| removal::drop_tombstones(connection, &some)).await?;
        }
        Ok(nobody_needs.len() as u64)
    }

    async fn providers(&self) -> Result<Vec<Provider>, StreamError> {
        Ok(self.file.read(syncs::providers).await?)
    }

    async fn syncs(&self, query: SyncQuery) -> Result<Vec<Sync>, StreamError> {
        Ok(self.file.read(move |connection| syncs::syncs(connection, &query)).await?)
    }

    async fn sync(&self, sync: SyncId) -> Result<Option<Sync>, StreamError> {
        Ok(self.file.read(move |connection| syncs::sync(connection, sync)).await?)
    }
}

impl From<SqliteError> for StreamError {
    fn from(error: SqliteError) -> Self {
        let of_kind = match error {
            SqliteError::Lost { .. } => Self::Lost,
            SqliteError::Full(_) => Self::Full,
            SqliteError::Failed { .. } | SqliteError::Newer { .. } | SqliteError::Closed(_) => Self::Unavailable,
        };
        of_kind(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::contract;

    /// A stream in a file of its own, removed with the directory.
    struct Fixture {
        _directory: tempfile::TempDir,
        stream: SqliteStream,
    }

    impl Fixture {
        fn open() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let stream = SqliteStream::open(&directory.path().join("records.db")).expect("a stream");
            Self { _directory: directory, stream }
        }
    }

    impl std::ops::Deref for Fixture {
        type Target = dyn RecordStream;

        fn deref(&self) -> &Self::Target {
            &self.stream
        }
    }

    contract::suite!(async { Fixture::open() });

    async fn rows_of_the_log(stream: &SqliteStream) -> i64 {
        let count =
            |connection: &rusqlite::Connection| connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0));
        stream.file.read(count).await.expect("a count")
    }

    #[tokio::test]
    async fn the_space_of_superseded_versions_is_given_back() {
        let fixture = Fixture::open();
        for _ in 0..40 {
            let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            contract::publish(&*fixture, "hubspot", 1, &ids).await;
        }
        while fixture.stream.file.write(removal::reclaim_a_block).await.expect("reclaimed") {}
        let rows = rows_of_the_log(&fixture.stream).await;
        assert!((500..1500).contains(&rows), "{rows} rows for 500 records that were published 40 times");
    }

    #[tokio::test]
    async fn a_full_disk_refuses_a_publication_whole_and_keeps_what_was_accepted() {
        let fixture = Fixture::open();
        let limit =
            |pages: u32| fixture.stream.file.write(move |c| c.execute_batch(&format!("PRAGMA max_page_count={pages}")));
        let ids: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let last = contract::publish(&*fixture, "hubspot", 1, &ids[..1000]).await;
        limit(1).await.expect("as many pages as there are");
        for _ in 0..2 {
            let refused = fixture.stream.publish(contract::upserts("stripe", 2, &ids)).await;
            assert!(matches!(refused, Err(StreamError::Full(_))), "{refused:?}");
        }
        let hubspot = Filter::Provider(Provider::parse("hubspot").expect("a slug"));
        assert_eq!(fixture.lag(&hubspot, Idx::START).await.expect("a lag").records, 1000);
        assert_eq!(fixture.providers().await.expect("providers").len(), 1);
        limit(100_000).await.expect("room");
        assert_eq!(contract::publish(&*fixture, "stripe", 2, &ids).await, Idx(5000));
        assert!(contract::publish(&*fixture, "hubspot", 1, &ids[..1]).await > last);
    }

    #[tokio::test]
    async fn positions_go_on_after_the_file_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("records.db");
        let stream = SqliteStream::open(&path).expect("a stream");
        let before = contract::publish(&stream, "hubspot", 1, &["a", "b"]).await;
        stream.purge(contract::sync(1), None).await.expect("deleted");
        drop(stream);
        let stream = SqliteStream::open(&path).expect("the stream again");
        assert!(contract::publish(&stream, "hubspot", 1, &["a"]).await > before);
    }
}
