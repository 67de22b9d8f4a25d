//! A SQLite file in WAL mode: one thread that writes, some connections that read.
//!
//! SQLite has one writer at a time, and a commit costs an fsync. So the writer takes whatever jobs have gathered,
//! gives each a savepoint, and commits them all at once: jobs that arrive together share an fsync, and a job that
//! fails takes nothing along.
//!
//! A full disk and other errors may pass, and the file is there when they have. A file that is damaged, gone from its
//! path, or without its writer is lost: it says so to everybody from then on, and nothing is acknowledged.

mod condition;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc},
    thread,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

use self::condition::Condition;
pub use self::condition::{Loss, SqliteError};

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
    condition: Arc<Condition>,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<thread::JoinHandle<()>>,
    readers: Arc<Readers>,
}

struct Readers {
    condition: Arc<Condition>,
    cache_kib: u32,
    idle: Mutex<Vec<Connection>>,
    /// Held for reading by every read.
    snapshots: RwLock<()>,
    slots: Arc<Semaphore>,
}

/// A write that waits for its turn, and then for its commit.
trait Job: Send {
    fn run(&mut self, connection: &Connection, among_others: bool, condition: &Condition) -> Result<(), SqliteError>;
    fn settle(self: Box<Self>, commit: Result<(), SqliteError>);
}

struct Write<F, G, T> {
    work: Option<F>,
    outcome: Option<Result<T, SqliteError>>,
    tell: G,
    reply: oneshot::Sender<Result<T, SqliteError>>,
}

impl SqliteFile {
    /// Opens the file, makes it if it is not there, and brings its schema up to date.
    pub(crate) fn open(path: &Path, settings: &Settings) -> Result<Self, SqliteError> {
        let sqlite = |error| SqliteError::new(path, error);
        let connection = Connection::open(path).map_err(sqlite)?;
        prepare(&connection, settings.writer_cache_kib).map_err(sqlite)?;
        migrate(&connection, path, settings.schema)?;
        let condition = Arc::new(Condition::of_opened(path)?);
        let (jobs, queue) = mpsc::channel();
        let readers = Arc::new(Readers {
            condition: Arc::clone(&condition),
            cache_kib: settings.reader_cache_kib,
            idle: Mutex::default(),
            snapshots: RwLock::default(),
            slots: Arc::new(Semaphore::new(READERS)),
        });
        let of_writer = Arc::clone(&readers);
        let writer = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || {
                let write = AssertUnwindSafe(|| write_jobs(&connection, &queue, &of_writer));
                if let Err(panic) = catch_unwind(write) {
                    of_writer.condition.lose(Loss::Panicked(message_of(&*panic)));
                }
            })
            .expect("a thread can be started");
        Ok(Self { condition, jobs: Some(jobs), writer: Some(writer), readers })
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
        let jobs = self.jobs.as_ref().expect("present until dropped");
        jobs.send(Box::new(job)).map_err(|_| self.condition.closed())?;
        answer.await.map_err(|_| self.condition.closed())?
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
            readers.condition.check()?;
            let connection = readers.take()?;
            let _snapshot = readers.snapshots.read().unwrap_or_else(PoisonError::into_inner);
            let result = in_snapshot(&connection, work);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result.map_err(|error| readers.condition.judge(error))
        });
        // A read that was not run, or panicked, is one that the runtime did not finish before it ended.
        read.await.map_err(|_| self.condition.closed())?
    }
}

impl Drop for SqliteFile {
    /// Lets the writer finish what it has taken on. It goes last, because whoever does moves what is in the write-ahead
    /// log into the file, so that this alone holds everything, and readers may not.
    fn drop(&mut self) {
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
        let open = || {
            // It is one thread's at a time, and need not lock itself at each column of each row.
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(self.condition.path(), flags)?;
            prepare(&connection, self.cache_kib)?;
            Ok(connection)
        };
        open().map_err(|error| self.condition.judge(error))
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
    let sqlite = |error| SqliteError::new(path, error);
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
    let mut wal = readers.condition.path().as_os_str().to_owned();
    wal.push("-wal");
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        jobs.extend(queue.try_iter().take(MAX_JOBS - 1));
        let commit = commit_together(connection, &mut jobs, &readers.condition);
        // What was committed to a file that nobody finds again is not durable.
        let commit = commit.and_then(|()| readers.condition.check());
        for job in jobs {
            job.settle(commit.clone());
        }
        if std::fs::metadata(&wal).is_ok_and(|wal| wal.len() > MAX_WAL) {
            empty_wal(connection, readers);
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

/// Waits until nobody reads, and moves everything from the log into the file.
fn empty_wal(connection: &Connection, readers: &Readers) {
    let _nobody_reads = readers.snapshots.write().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(%error, path = %readers.condition.path().display(), "the write-ahead log was not emptied");
    }
}

fn commit_together(
    connection: &Connection,
    jobs: &mut [Box<dyn Job>],
    condition: &Condition,
) -> Result<(), SqliteError> {
    let judge = |error| condition.judge(error);
    let transaction = connection.unchecked_transaction().map_err(judge)?;
    // A savepoint keeps every page that is changed after it twice: one job alone needs none.
    if let [job] = jobs {
        job.run(connection, false, condition)?;
        return transaction.commit().map_err(judge);
    }
    for job in jobs {
        let outcome = job.run(connection, true, condition);
        // A full disk makes SQLite roll everything back at once; nothing is to be committed job by job after that.
        if connection.is_autocommit() {
            return outcome;
        }
    }
    transaction.commit().map_err(judge)
}

impl<F, G, T> Job for Write<F, G, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    G: FnOnce(&T) + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection, among_others: bool, condition: &Condition) -> Result<(), SqliteError> {
        let work = self.work.take().expect("a job runs once");
        let outcome = if among_others { in_savepoint(connection, work) } else { work(connection) };
        let outcome = outcome.map_err(|error| condition.judge(error));
        let failure = outcome.as_ref().err().cloned();
        self.outcome = Some(outcome);
        failure.map_or(Ok(()), Err)
    }

    fn settle(mut self: Box<Self>, commit: Result<(), SqliteError>) {
        let result = match (self.outcome.take(), commit) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(Ok(written)), Ok(())) => Ok(written),
            (None, Ok(())) => unreachable!("what was committed was run"),
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
    // SQLite has undone it by itself, and everything around it.
    if connection.is_autocommit() {
        return result;
    }
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
    async fn a_file_that_was_closed_holds_everything_by_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = SqliteFile::open(&directory.path().join("t.db"), &SETTINGS).expect("a file");
        file.write(|c| c.execute("INSERT INTO t VALUES (1)", [])).await.expect("written");
        file.read(|c| c.query_row("SELECT n FROM t", [], |row| row.get::<_, i64>(0))).await.expect("read");
        drop(file);
        let files = std::fs::read_dir(directory.path()).expect("the files");
        assert_eq!(files.map(|file| file.expect("a file").file_name()).collect::<Vec<_>>(), ["t.db"]);
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
