//! A SQLite file in WAL mode: one thread that writes, some connections that read.
//!
//! SQLite has one writer at a time, and a commit costs an fsync. So the writer takes whatever jobs have gathered,
//! gives each a savepoint, and commits them all at once: jobs that arrive together share an fsync, and a job that
//! fails takes nothing along.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc},
    thread,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

/// A file that can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// SQLite's own error.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file was written by a newer version of this program.
    #[error("{path}: written by a newer version (schema {found}, this one knows {known}): upgrade")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its schema.
        found: usize,
        /// The last version that this program knows.
        known: usize,
    },
    /// The transaction that the job was part of did not commit.
    #[error("{path}: the commit failed: {message}")]
    Commit {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        message: String,
    },
    /// The file is being closed.
    #[error("{0}: closed")]
    Closed(PathBuf),
}

/// How a file is made and used.
pub(crate) struct Settings {
    /// The steps of its schema, oldest first; a file remembers how many it has taken.
    pub(crate) schema: &'static [&'static str],
    /// The writer's page cache, in KiB.
    pub(crate) writer_cache_kib: u32,
    /// Each reader's page cache, in KiB.
    pub(crate) reader_cache_kib: u32,
}

/// How many jobs share a commit at most: bounds how long the first of them waits.
const MAX_JOBS: usize = 256;

/// From this size on, the write-ahead log is emptied, in bytes. While reads overlap, SQLite itself never can.
const MAX_WAL: u64 = 64 * 1024 * 1024;

/// How many reads run at once.
const READERS: usize = 4;

/// An open file.
pub(crate) struct SqliteFile {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<thread::JoinHandle<()>>,
    readers: Arc<Readers>,
}

struct Readers {
    path: PathBuf,
    cache_kib: u32,
    idle: Mutex<Vec<Connection>>,
    /// Held for reading by every read.
    snapshots: RwLock<()>,
    slots: Arc<Semaphore>,
}

/// A write that waits for its turn, and then for its commit.
trait Job: Send {
    /// Says whether it succeeded.
    fn run(&mut self, connection: &Connection, among_others: bool) -> bool;
    fn settle(self: Box<Self>, path: &Path, commit: Result<(), &str>);
}

struct Write<F, G, T> {
    work: Option<F>,
    outcome: Option<rusqlite::Result<T>>,
    tell: G,
    reply: oneshot::Sender<Result<T, SqliteError>>,
}

impl SqliteFile {
    /// Opens the file, makes it if it is not there, and brings its schema up to date.
    pub(crate) fn open(path: &Path, settings: &Settings) -> Result<Self, SqliteError> {
        let sqlite = |source| SqliteError::Sqlite { path: path.into(), source };
        let connection = Connection::open(path).map_err(sqlite)?;
        prepare(&connection, settings.writer_cache_kib).map_err(sqlite)?;
        migrate(&connection, path, settings.schema)?;
        let (jobs, queue) = mpsc::channel();
        let readers = Arc::new(Readers {
            path: path.into(),
            cache_kib: settings.reader_cache_kib,
            idle: Mutex::default(),
            snapshots: RwLock::default(),
            slots: Arc::new(Semaphore::new(READERS)),
        });
        let of_writer = Arc::clone(&readers);
        let writer = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || write_jobs(&connection, &queue, &of_writer))
            .expect("a thread can be started");
        Ok(Self { path: path.into(), jobs: Some(jobs), writer: Some(writer), readers })
    }

    /// Runs `work` on the writer's connection, and returns once what it wrote is durable.
    ///
    /// Its writes are undone if it fails.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SqliteError> {
        self.write_and_tell(work, |_| {}).await
    }

    /// Like [`SqliteFile::write`]; `tell` hears of the outcome as soon as it is durable, also if nobody waits for it any
    /// more.
    pub(crate) async fn write_and_tell<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        tell: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, SqliteError> {
        let (reply, answer) = oneshot::channel();
        let job = Write { work: Some(work), outcome: None, tell, reply };
        let closed = || SqliteError::Closed(self.path.clone());
        let jobs = self.jobs.as_ref().expect("present until dropped");
        jobs.send(Box::new(job)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Runs `work` on a reader's connection, within one snapshot.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SqliteError> {
        let readers = Arc::clone(&self.readers);
        let slot = Arc::clone(&self.readers.slots).acquire_owned().await.expect("never closed");
        let read = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let connection = readers.take()?;
            let _snapshot = readers.snapshots.read().unwrap_or_else(PoisonError::into_inner);
            let result = in_snapshot(&connection, work);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result.map_err(|source| SqliteError::Sqlite { path: readers.path.clone(), source })
        });
        // A read that was not run, or panicked, is one that the runtime did not finish before it ended.
        read.await.map_err(|_| SqliteError::Closed(self.path.clone()))?
    }
}

impl Drop for SqliteFile {
    /// Lets the writer finish what it has taken on.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Readers {
    fn take(&self) -> Result<Connection, SqliteError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let sqlite = |source| SqliteError::Sqlite { path: self.path.clone(), source };
        let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?;
        prepare(&connection, self.cache_kib).map_err(sqlite)?;
        Ok(connection)
    }
}

fn in_snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let snapshot = connection.unchecked_transaction()?;
    let result = work(connection)?;
    snapshot.finish()?;
    Ok(result)
}

/// `synchronous=FULL` makes a commit durable in WAL mode: <https://www.sqlite.org/pragma.html#pragma_synchronous>.
fn prepare(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.execute_batch(&format!(
        "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=10000;
         PRAGMA cache_size=-{cache_kib}; PRAGMA wal_autocheckpoint=4000;"
    ))
}

fn migrate(connection: &Connection, path: &Path, schema: &[&str]) -> Result<(), SqliteError> {
    let sqlite = |source| SqliteError::Sqlite { path: path.into(), source };
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    if found > schema.len() {
        return Err(SqliteError::Newer { path: path.into(), found, known: schema.len() });
    }
    for (step, sql) in schema.iter().enumerate().skip(found) {
        let version = step + 1;
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {sql}; PRAGMA user_version={version}; COMMIT"))
            .map_err(sqlite)?;
    }
    Ok(())
}

fn write_jobs(connection: &Connection, queue: &mpsc::Receiver<Box<dyn Job>>, readers: &Readers) {
    let mut wal = readers.path.clone().into_os_string();
    wal.push("-wal");
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        jobs.extend(queue.try_iter().take(MAX_JOBS - 1));
        let commit = commit_together(connection, &mut jobs);
        for job in jobs {
            job.settle(&readers.path, commit.as_ref().copied().map_err(String::as_str));
        }
        if std::fs::metadata(&wal).is_ok_and(|wal| wal.len() > MAX_WAL) {
            empty_wal(connection, readers);
        }
    }
}

/// Waits until nobody reads, and moves everything from the log into the file.
fn empty_wal(connection: &Connection, readers: &Readers) {
    let _nobody_reads = readers.snapshots.write().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(%error, path = %readers.path.display(), "the write-ahead log was not emptied");
    }
}

fn commit_together(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), String> {
    let explain = |error: rusqlite::Error| error.to_string();
    let transaction = connection.unchecked_transaction().map_err(explain)?;
    // A savepoint keeps every page that is changed after it twice: one job alone needs none.
    if let [job] = jobs {
        let end = if job.run(connection, false) { transaction.commit() } else { transaction.rollback() };
        return end.map_err(explain);
    }
    for job in jobs {
        job.run(connection, true);
        // A full disk makes SQLite roll everything back at once; nothing is to be committed job by job after that.
        if connection.is_autocommit() {
            return Err("everything was rolled back, as when the disk is full".into());
        }
    }
    transaction.commit().map_err(explain)
}

impl<F, G, T> Job for Write<F, G, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    G: FnOnce(&T) + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection, among_others: bool) -> bool {
        let work = self.work.take().expect("a job runs once");
        let outcome = if among_others { in_savepoint(connection, work) } else { work(connection) };
        self.outcome.insert(outcome).is_ok()
    }

    fn settle(mut self: Box<Self>, path: &Path, commit: Result<(), &str>) {
        let result = match (commit, self.outcome.take()) {
            (Ok(()), Some(outcome)) => outcome.map_err(|source| SqliteError::Sqlite { path: path.into(), source }),
            (Err(message), _) => Err(SqliteError::Commit { path: path.into(), message: message.into() }),
            (Ok(()), None) => Err(SqliteError::Closed(path.into())),
        };
        if let Ok(written) = &result {
            (self.tell)(written);
        }
        // Whoever asked may have gone; what was committed stays.
        let _ = self.reply.send(result);
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT job")?;
    let result = work(connection);
    let end = if result.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    connection.execute_batch(end)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { schema: &["CREATE TABLE t(n INTEGER PRIMARY KEY)"], writer_cache_kib: 1024, reader_cache_kib: 1024 };

    #[tokio::test]
    async fn a_job_that_fails_takes_nothing_along_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = SqliteFile::open(&directory.path().join("t.db"), &SETTINGS).expect("a file");
        let insert = |n: i64| file.write(move |c| c.execute("INSERT INTO t VALUES (?1)", [n]));
        let failing = file.write(|c| {
            c.execute("INSERT INTO t VALUES (10)", [])?;
            c.execute("INSERT INTO nowhere VALUES (1)", [])
        });
        let (first, failed, second) = tokio::join!(insert(1), failing, insert(2));
        assert!(first.is_ok() && failed.is_err() && second.is_ok());
        let sum: i64 = file.read(|c| c.query_row("SELECT sum(n) FROM t", [], |row| row.get(0))).await.expect("a sum");
        assert_eq!(sum, 3);
    }

    #[tokio::test]
    async fn a_file_of_a_newer_schema_is_refused_with_its_number() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("t.db");
        let file = SqliteFile::open(&path, &SETTINGS).expect("a file");
        file.write(|c| c.execute_batch("PRAGMA user_version=7")).await.expect("a higher number");
        drop(file);
        let refused = SqliteFile::open(&path, &SETTINGS).err().expect("refused");
        assert!(refused.to_string().contains("schema 7, this one knows 1"), "{refused}");
    }
}
