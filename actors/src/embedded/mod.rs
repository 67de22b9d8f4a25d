//! The data directory of a single machine, and the SQLite files in it.

mod directory;
mod sqlite;

pub use directory::{DataDirectory, DirectoryError};
pub use sqlite::{Loss, SqliteError};
pub(crate) use sqlite::{Settings, SqliteFile};
