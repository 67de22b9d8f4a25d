//! What a file's errors mean: they may pass, the disk is full, or the file is lost for good.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rusqlite::{ErrorCode, ffi};

/// A file that can't be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SqliteError {
    /// It failed in a way that may pass.
    #[error("{path}: {source}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// There is no room for what was to be written, and nothing of it was.
    #[error("{0}: the disk is full: free some space or make it larger")]
    Full(PathBuf),
    /// It can't be worked with any more.
    #[error("{path}: {loss}")]
    Lost {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        loss: Loss,
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
    /// The file is being closed.
    #[error("{0}: closed")]
    Closed(PathBuf),
}

/// Why a file can't be worked with any more, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// SQLite finds that its content can't be right.
    #[error(
        "it is damaged ({0}): restore the data directory from a backup, or start on an empty one with empty tables \
         and publish again"
    )]
    Damaged(String),
    /// Its path does not lead to it any more. What is written to it would be gone with its last user.
    #[error(
        "it was deleted or replaced while it was in use: put the data directory back, restore it from a backup, or \
         start on an empty one with empty tables and publish again"
    )]
    Gone,
    /// What wrote to it panicked.
    #[error("a bug ended what writes to it ({0}), and what was acknowledged is in it: start again, and report this")]
    Panicked(String),
}

impl SqliteError {
    /// What it means that SQLite said this of the file.
    pub(super) fn new(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let code = error.sqlite_error().map(|error| (error.code, error.extended_code));
        match code {
            Some((ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)) => {
                Self::Lost { path, loss: Loss::Damaged(error.to_string()) }
            }
            Some((_, ffi::SQLITE_READONLY_DBMOVED)) => Self::Lost { path, loss: Loss::Gone },
            // The index of the write-ahead log, a file too, could not grow.
            Some((ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE)) => Self::Full(path),
            _ => Self::Failed { path, source: Arc::new(error) },
        }
    }
}

/// Whether an open file can still be worked with. Once it is lost it stays so, whatever a later look would find.
pub(super) struct Condition {
    path: PathBuf,
    opened: Vec<Identity>,
    lost: OnceLock<Loss>,
}

/// A file's device and inode.
type Identity = (u64, u64);

impl Condition {
    /// That of a file in WAL mode that was just opened and read.
    pub(super) fn of_opened(path: &Path) -> Result<Self, SqliteError> {
        let unseen = |_| SqliteError::Lost { path: path.into(), loss: Loss::Gone };
        Ok(Self { path: path.into(), opened: identities(path).map_err(unseen)?, lost: OnceLock::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if the file is lost, and finds out whether its path still leads to it.
    pub(super) fn check(&self) -> Result<(), SqliteError> {
        if let Some(loss) = self.lost.get() {
            return Err(SqliteError::Lost { path: self.path.clone(), loss: loss.clone() });
        }
        let is_gone = match identities(&self.path) {
            Ok(found) => found != self.opened,
            // Whatever else hinders the look may pass, and does not hinder SQLite, which has the files open.
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if is_gone { Err(self.lose(Loss::Gone)) } else { Ok(()) }
    }

    /// What it means that SQLite said this.
    pub(super) fn judge(&self, error: rusqlite::Error) -> SqliteError {
        match SqliteError::new(&self.path, error) {
            SqliteError::Lost { loss, .. } => self.lose(loss),
            error => error,
        }
    }

    /// From now on the file is lost; the first reason counts.
    pub(super) fn lose(&self, loss: Loss) -> SqliteError {
        let loss = self.lost.get_or_init(|| loss).clone();
        SqliteError::Lost { path: self.path.clone(), loss }
    }

    /// Why nobody answers any more.
    pub(super) fn closed(&self) -> SqliteError {
        self.check().err().unwrap_or_else(|| SqliteError::Closed(self.path.clone()))
    }
}

/// The database, its write-ahead log and the log's index, which live as long as a connection is open: the log holds
/// commits that the database does not, and a connection that found no index would make another.
fn identities(path: &Path) -> io::Result<Vec<Identity>> {
    let beside = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        fs::metadata(name).map(|file| (file.dev(), file.ino()))
    };
    ["", "-wal", "-shm"].into_iter().map(beside).collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{
        super::{Settings, SqliteFile},
        *,
    };

    const SETTINGS: Settings = Settings {
        schema: &["CREATE TABLE t(n INTEGER PRIMARY KEY, text TEXT NOT NULL)"],
        writer_cache_kib: 64,
        reader_cache_kib: 64,
    };

    /// A file of some pages.
    async fn fill(path: &Path) -> SqliteFile {
        let file = SqliteFile::open(path, &SETTINGS).expect("a file");
        file.write(|c| insert(c, 1..=500)).await.expect("rows");
        file
    }

    fn insert(connection: &Connection, numbers: impl Iterator<Item = i64>) -> rusqlite::Result<()> {
        for n in numbers {
            connection.execute("INSERT INTO t VALUES (?1, ?2)", (n, "x".repeat(1000)))?;
        }
        Ok(())
    }

    async fn count(file: &SqliteFile) -> Result<i64, SqliteError> {
        file.read(|c| c.query_row("SELECT count(text) FROM t", [], |row| row.get(0))).await
    }

    fn loss_of<T: std::fmt::Debug>(result: Result<T, SqliteError>) -> Loss {
        match result {
            Err(SqliteError::Lost { loss, .. }) => loss,
            other => panic!("not lost: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_file_that_its_path_does_not_lead_to_any_more_is_lost_and_acknowledges_nothing() {
        for gone in ["t.db", "t.db-wal", "t.db-shm"] {
            let directory = tempfile::tempdir().expect("a directory");
            let file = fill(&directory.path().join("t.db")).await;
            fs::rename(directory.path().join(gone), directory.path().join("elsewhere")).expect("moved");
            assert_eq!(loss_of(file.write(|c| insert(c, 501..=501)).await), Loss::Gone, "{gone}");
            fs::rename(directory.path().join("elsewhere"), directory.path().join(gone)).expect("moved back");
            assert_eq!(loss_of(count(&file).await), Loss::Gone, "{gone}, which was gone for a while");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let file = fill(&directory.path().join("t.db")).await;
        fs::copy(directory.path().join("t.db"), directory.path().join("copy")).expect("a copy");
        fs::rename(directory.path().join("copy"), directory.path().join("t.db")).expect("replaced by it");
        assert_eq!(loss_of(count(&file).await), Loss::Gone);
        let file = fill(&directory.path().join("u.db")).await;
        fs::remove_dir_all(directory.path()).expect("removed");
        assert_eq!(loss_of(count(&file).await), Loss::Gone);
    }

    #[tokio::test]
    async fn a_damaged_file_is_lost_once_the_damage_is_met() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("t.db");
        drop(fill(&path).await);
        let mut bytes = fs::read(&path).expect("the file");
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0xa5);
        fs::write(&path, bytes).expect("damaged");
        let file = SqliteFile::open(&path, &SETTINGS).expect("its beginning is as it should be");
        assert!(matches!(loss_of(count(&file).await), Loss::Damaged(_)));
        assert!(matches!(loss_of(file.write(|c| insert(c, 501..=501)).await), Loss::Damaged(_)));
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_or_only_a_part_of_one_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("t.db");
        drop(fill(&path).await);
        let whole = fs::read(&path).expect("the file");
        for bytes in [b"my diary\n".repeat(2000), whole[..whole.len() / 3].to_vec(), whole[..50].to_vec()] {
            fs::write(&path, &bytes).expect("written");
            let refused = SqliteFile::open(&path, &SETTINGS);
            assert!(matches!(loss_of(refused.map(drop)), Loss::Damaged(_)), "{} bytes", bytes.len());
            assert!(fs::read(&path).expect("the file") == bytes, "{} bytes were written to", bytes.len());
        }
    }

    #[tokio::test]
    async fn a_file_whose_writer_panicked_is_lost_and_holds_what_was_acknowledged() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("t.db");
        let file = fill(&path).await;
        let panics = file.write(|c| insert(c, 501..=501).map(|()| assert!(c.is_autocommit(), "a bug"))).await;
        assert!(panics.is_err());
        let next = loss_of(file.write(|c| insert(c, 502..=502)).await);
        assert_eq!(next, Loss::Panicked("a bug".into()));
        assert_eq!(loss_of(count(&file).await), next);
        drop(file);
        let file = SqliteFile::open(&path, &SETTINGS).expect("the file again");
        assert_eq!(count(&file).await.expect("a count"), 500);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_what_does_not_fit_and_is_no_loss() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = fill(&directory.path().join("t.db")).await;
        let limit = |pages: u32| file.write(move |c| c.execute_batch(&format!("PRAGMA max_page_count={pages}")));
        limit(1).await.expect("as many pages as there are");
        let insert_some = |from: i64| file.write(move |c| insert(c, from..from + 100));
        let is_refused = |result: Result<(), SqliteError>| matches!(result, Err(SqliteError::Full(_)));
        // One alone, and some that may share a commit.
        assert!(is_refused(insert_some(501).await));
        let (first, second, third) = tokio::join!(insert_some(501), insert_some(601), insert_some(701));
        assert!(is_refused(first) && is_refused(second) && is_refused(third));
        assert_eq!(count(&file).await.expect("a count"), 500);
        let needs_no_room = file.write(|c| c.execute("UPDATE t SET text = 'short' WHERE n = 1", [])).await;
        assert_eq!(needs_no_room.expect("written"), 1);
        limit(100_000).await.expect("room");
        insert_some(501).await.expect("rows");
        assert_eq!(count(&file).await.expect("a count"), 600);
    }
}
