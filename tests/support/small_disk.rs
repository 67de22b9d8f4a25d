//! A disk that is soon full: a file system of a few mebibytes, there for as long as its value lives.

use std::{os::unix::fs::MetadataExt, path::Path, process::Command};

use tempfile::TempDir;

use super::database::Database;

/// Enough for an empty tablespace and some thousands of records.
const SIZE: &str = "size=6m";

/// A mounted disk, as a tablespace of a server.
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Mounts a disk, and makes it the tablespace `small` of the database's server. `None` where mounting is not
    /// permitted; standard error then says so.
    pub(crate) async fn as_tablespace_of(database: &Database) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let data: String = database.ask("show data_directory").await;
        let owner = std::fs::metadata(Path::new(&data)).expect("the server's data").uid();
        let options = format!("{SIZE},mode=0700,uid={owner}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).output();
        let refusal = match mount {
            Ok(mount) if mount.status.success() => None,
            Ok(mount) => Some(String::from_utf8_lossy(&mount.stderr).into_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refusal) = refusal {
            eprintln!("nothing can be mounted here, so no disk was filled: {refusal}");
            return None;
        }
        let disk = Self { directory };
        database.run(&format!("create tablespace small location '{}'", disk.directory.path().display())).await;
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still be there. An error leaves a directory behind, which is no reason to fail.
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
    }
}
