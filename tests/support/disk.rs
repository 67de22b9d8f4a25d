//! A disk that fills up: small, real, and gone afterwards.

use std::{fs, io::Write, os::unix::fs::MetadataExt, path::Path, process::Command};

use tempfile::TempDir;

use super::database::Database;

/// A file system in memory, of which a test may take all the room.
pub(crate) struct SmallDisk {
    /// Where it is mounted.
    directory: TempDir,
}

impl SmallDisk {
    /// `None`, and a word about it, where this process may not mount one.
    pub(crate) fn mount(mebibytes: u32) -> Option<Self> {
        Self::mount_with(&format!("size={mebibytes}m"))
    }

    /// As the tablespace `small` of the database's server: enough when empty, and for some thousands of records.
    pub(crate) async fn as_tablespace_of(database: &Database) -> Option<Self> {
        let data: String = database.ask("show data_directory").await;
        let owner = fs::metadata(data).expect("the server's data").uid();
        let disk = Self::mount_with(&format!("size=6m,mode=0700,uid={owner}"))?;
        database.run(&format!("create tablespace small location '{}'", disk.directory.path().display())).await;
        Some(disk)
    }

    fn mount_with(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { directory }),
            other => {
                eprintln!("NOT TESTED on a disk that is really full: no tmpfs can be mounted here ({other:?})");
                None
            }
        }
    }

    /// An empty directory, whose folder `data` is on this disk.
    pub(crate) fn directory_with_data(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let data = self.directory.path().join("data");
        fs::create_dir(&data).expect("a directory on the disk");
        std::os::unix::fs::symlink(data, directory.path().join("data")).expect("a link to it");
        directory
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).expect("a file");
        for piece in [vec![0u8; 1 << 20], vec![0; 512]] {
            while ballast.write_all(&piece).is_ok() {}
        }
    }

    /// Gives it free again.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).expect("the file that took the room");
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.directory.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.directory.path());
    }
}

/// Also while somebody who is about to end still uses it.
fn unmount(path: &Path) {
    let unmounted = Command::new("umount").arg("--lazy").arg(path).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        eprintln!("{} is still mounted", path.display());
    }
}
