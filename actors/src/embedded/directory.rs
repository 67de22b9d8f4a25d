//! The data directory: made when it is not there, used by one process at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

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
    /// Another process has it.
    #[error("data directory {0} is in use by another process: stop that one, or name another directory")]
    InUse(PathBuf),
}

/// A data directory, locked for as long as this lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if it is not there (mode 0700) and locks it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let io = |source| DirectoryError::Io { path: path.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse(path.into())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
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
