//! The data directory: made when it is not there, used by one process at a time.
//!
//! Once everything in it was made, it is marked. From then on a file that is missing is one that was lost, and is not
//! made anew: an empty stream beside a store that is not would look like one that has nothing new.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The mark: an empty file.
const COMPLETE: &str = "complete";

/// A directory that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It can't be made or opened.
    #[error("data directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is something else at its path.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// Another process has it.
    #[error("data directory {0} is in use by another process: stop that one, or name another directory")]
    InUse(PathBuf),
    /// A file is not there, or is empty, that was.
    #[error(
        "{0} is missing or empty, and was not: put it back, restore the data directory from a backup, or start on an \
         empty one with empty tables and publish again"
    )]
    Missing(PathBuf),
}

/// A data directory, locked for as long as this lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if it is not there (mode 0700) and locks it.
    ///
    /// The lock is on the directory itself, so that there is no file which somebody removes to get around it, and the
    /// system gives it free with the process, however that ends.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let io = |source| DirectoryError::Io { path: path.into(), source };
        if path.exists() && !path.is_dir() {
            return Err(DirectoryError::NotADirectory(path.into()));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = File::open(path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse(path.into())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Whether everything in it was made.
    pub fn is_complete(&self) -> bool {
        self.file(COMPLETE).exists()
    }

    /// Marks it: everything in it was made.
    pub fn complete(&self) -> Result<(), DirectoryError> {
        let path = self.file(COMPLETE);
        if self.is_complete() {
            return Ok(());
        }
        let made = File::create(&path).and_then(|mark| mark.sync_all());
        made.map_err(|source| DirectoryError::Io { path, source })
    }

    /// The path of a file that must be there unless the directory is new.
    pub fn kept_file(&self, name: &str) -> Result<PathBuf, DirectoryError> {
        let path = self.file(name);
        let is_there = match fs::metadata(&path) {
            Ok(found) => found.len() > 0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(DirectoryError::Io { path, source }),
        };
        if is_there || !self.is_complete() { Ok(path) } else { Err(DirectoryError::Missing(path)) }
    }

    /// Reads a file that only its owner may read (mode 0600), and makes it with the text that `make` gives if it is not there.
    pub fn private_file(&self, name: &str, make: impl FnOnce() -> String) -> Result<String, DirectoryError> {
        let path = self.file(name);
        let io = |source| DirectoryError::Io { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = make();
                let draft = self.file(&format!("{name}.new"));
                let mut file =
                    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(io)?;
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
                fs::rename(&draft, &path).map_err(io)?;
                Ok(text)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_kept_out_until_the_first_is_gone() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("data");
        let first = DataDirectory::open(&path).expect("the directory");
        assert!(matches!(DataDirectory::open(&path), Err(DirectoryError::InUse(_))));
        drop(first);
        DataDirectory::open(&path).expect("the directory, free again");
    }

    #[test]
    fn a_file_may_be_missing_from_a_new_directory_and_not_from_one_that_was_complete() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = DataDirectory::open(parent.path()).expect("the directory");
        let path = directory.kept_file("records.db").expect("the path of a file to be made");
        fs::write(&path, "records").expect("the file");
        directory.complete().expect("marked");
        assert_eq!(directory.kept_file("records.db").expect("the path of a file that is there"), path);
        fs::write(&path, "").expect("the file, emptied");
        assert!(matches!(directory.kept_file("records.db"), Err(DirectoryError::Missing(_))));
        fs::remove_file(&path).expect("the file, gone");
        assert!(matches!(directory.kept_file("records.db"), Err(DirectoryError::Missing(_))));
    }

    #[test]
    fn a_file_in_the_directorys_place_is_left_alone() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "mine").expect("written");
        let refused = DataDirectory::open(file.path());
        assert!(matches!(refused, Err(DirectoryError::NotADirectory(_))));
        assert_eq!(fs::read_to_string(file.path()).expect("the file"), "mine");
    }

    #[test]
    fn a_private_file_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().expect("a directory");
        let directory = DataDirectory::open(parent.path()).expect("the directory");
        let read = |text: &str| directory.private_file("key", || text.into()).expect("the file");
        assert_eq!((read("first"), read("second")), ("first".into(), "first".into()));
        let mode = fs::metadata(directory.file("key")).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
