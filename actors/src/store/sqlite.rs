//! The control store in a SQLite file: the embedded default.
//!
//! A file of its own beside the stream's: SQLite has one writer a file, and a checkpoint must not wait behind a
//! publication. A deleted key leaves its revision behind until the file is opened again, so that a watch is a cursor
//! over revisions: it needs no queue, and nothing is lost on one that is slow.

mod watch;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use self::watch::{Bells, SqliteWatch};
use super::{Entry, Revision, Store, StoreError, Watch};
use crate::embedded::{Settings, SqliteError, SqliteFile};

const SETTINGS: Settings = Settings {
    schema: &["
    CREATE TABLE entry(key TEXT PRIMARY KEY, value BLOB, revision INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX entry_by_revision ON entry(revision);
    CREATE TABLE revision(last INTEGER NOT NULL);
    INSERT INTO revision VALUES (0);
    "],
    writer_cache_kib: 4 * 1024,
    reader_cache_kib: 2 * 1024,
};

/// The embedded store.
pub struct SqliteStore {
    file: Arc<SqliteFile>,
    bells: Arc<Bells>,
}

impl SqliteStore {
    /// Opens the file, and makes it if it is not there.
    pub async fn open(path: &Path) -> Result<Self, SqliteError> {
        let file = SqliteFile::open(path, &SETTINGS)?;
        match file.write(|connection| connection.execute("DELETE FROM entry WHERE value IS NULL", [])).await {
            Ok(_) => {}
            // What there is can be read all the same.
            Err(error @ SqliteError::Full(_)) => tracing::warn!(%error, "deleted keys are not cleared away"),
            Err(error) => return Err(error),
        }
        Ok(Self { file: Arc::new(file), bells: Arc::default() })
    }

    /// Writes the value, or deletes the key, if what is there is as `expected`; `None` if it is not.
    async fn write(
        &self,
        key: &str,
        value: Option<Vec<u8>>,
        expected: Expected,
    ) -> Result<Option<Revision>, StoreError> {
        let (of_file, of_bells, bells) = (key.to_owned(), key.to_owned(), Arc::clone(&self.bells));
        let write = move |connection: &Connection| write(connection, &of_file, value.as_deref(), expected);
        let written = move |written: &Option<Revision>| {
            if written.is_some() {
                bells.ring(&of_bells);
            }
        };
        Ok(self.file.write_and_tell(write, written).await?)
    }
}

/// What must be there for a write to happen.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Nothing,
    This(Revision),
    Something,
    Anything,
}

fn write(
    connection: &Connection,
    key: &str,
    value: Option<&[u8]>,
    expected: Expected,
) -> rusqlite::Result<Option<Revision>> {
    let there = connection
        .prepare_cached("SELECT revision FROM entry WHERE key = ?1 AND value IS NOT NULL")?
        .query_row([key], |row| row.get(0).map(Revision))
        .optional()?;
    let is_as_expected = match expected {
        Expected::Nothing => there.is_none(),
        Expected::This(revision) => there == Some(revision),
        Expected::Something => there.is_some(),
        Expected::Anything => true,
    };
    if !is_as_expected {
        return Ok(None);
    }
    let revision = connection
        .prepare_cached("UPDATE revision SET last = last + 1 RETURNING last")?
        .query_row([], |row| row.get(0))?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO entry(key, value, revision) VALUES (?1, ?2, ?3)")?
        .execute(params![key, value, revision])?;
    Ok(Some(Revision(revision)))
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        let get = move |connection: &Connection| {
            connection
                .prepare_cached("SELECT key, value, revision FROM entry WHERE key = ?1 AND value IS NOT NULL")?
                .query_row([key], entry)
                .optional()
        };
        Ok(self.file.read(get).await?)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (from, to) = (after.unwrap_or(prefix).to_owned(), end_of(prefix));
        let skip_first = after.is_some();
        let list = move |connection: &Connection| {
            let mut select = connection.prepare_cached(
                "SELECT key, value, revision FROM entry WHERE key >= ?1 AND key < ?2 AND (key <> ?1 OR NOT ?3)
                 AND value IS NOT NULL ORDER BY key LIMIT ?4",
            )?;
            let entries = select.query_map(params![from, to, skip_first, limit], entry)?;
            entries.collect()
        };
        Ok(self.file.read(list).await?)
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError> {
        self.write(key, Some(value), Expected::Nothing).await?.ok_or_else(|| conflict(key))
    }

    async fn update(&self, key: &str, value: Vec<u8>, revision: Revision) -> Result<Revision, StoreError> {
        self.write(key, Some(value), Expected::This(revision)).await?.ok_or_else(|| conflict(key))
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Revision, StoreError> {
        self.write(key, Some(value), Expected::Anything).await?.ok_or_else(|| conflict(key))
    }

    async fn delete(&self, key: &str, revision: Option<Revision>) -> Result<(), StoreError> {
        let expected = revision.map_or(Expected::Something, Expected::This);
        let deleted = self.write(key, None, expected).await?;
        if deleted.is_none() && revision.is_some() { Err(conflict(key)) } else { Ok(()) }
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(SqliteWatch::new(Arc::clone(&self.file), self.bells.subscribe(prefix), prefix)))
    }
}

fn conflict(key: &str) -> StoreError {
    StoreError::Conflict { key: key.into() }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: Revision(row.get(2)?) })
}

/// The first key beyond those that begin with `prefix`: SQLite compares text by its UTF-8 bytes.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

impl From<SqliteError> for StoreError {
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
    use crate::store::contract;

    /// A store in a file of its own, removed with the directory.
    struct Fixture {
        _directory: tempfile::TempDir,
        store: SqliteStore,
    }

    impl Fixture {
        async fn open() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
            Self { _directory: directory, store }
        }
    }

    impl std::ops::Deref for Fixture {
        type Target = dyn Store;

        fn deref(&self) -> &Self::Target {
            &self.store
        }
    }

    contract::suite!(Fixture::open());

    #[tokio::test]
    async fn revisions_go_on_after_the_file_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.db");
        let store = SqliteStore::open(&path).await.expect("a store");
        let before = store.create("a", vec![1]).await.expect("created");
        store.delete("a", None).await.expect("deleted");
        drop(store);
        let store = SqliteStore::open(&path).await.expect("the store again");
        assert!(store.create("a", vec![1]).await.expect("created") > Revision(before.0 + 1));
    }
}
