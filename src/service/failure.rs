//! Why a service can't be started, or can't go on.

use std::{net::SocketAddr, path::PathBuf};

use sequin_actors::{
    EngineError,
    embedded::{DirectoryError, SqliteError},
    jetstream::JetStreamError,
    model::Idx,
    store::{DocumentsError, KeyringError, StoreError},
    stream::StreamError,
};

use crate::config::{BACKEND, ENCRYPTION_KEY, SHORTEST_TOKEN};

/// A service that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is something else in the data directory's place.
    #[error("{BACKEND}: {0} is not a directory: name another, or move what is there away")]
    NotADirectory(PathBuf),
    /// The data directory can't be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file in it can't be used.
    #[error(transparent)]
    File(#[from] SqliteError),
    /// NATS can't be used.
    #[error(transparent)]
    Nats(#[from] JetStreamError),
    /// What all nodes of a cluster have to be told was not.
    #[error("{0} is needed with NATS, the same for all nodes")]
    NotTold(&'static str),
    /// What is in NATS is a part of what is to be there.
    #[error(
        "the cluster {0} in NATS is being migrated to, or a migration to it broke off: wait for `sequin migrate`, or run \
         it again"
    )]
    Migrating(String),
    /// The stream can't be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The control store can't be read.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The file of the admin token holds none.
    #[error("{0} holds no token of {SHORTEST_TOKEN} characters or more: remove it, and another one is made")]
    NoToken(PathBuf),
    /// The key that everything was sealed with is not there.
    #[error("{0} is missing, and {ENCRYPTION_KEY} is not set: put the file back, or set the key that was used before")]
    NoKey(PathBuf),
    /// The file of the key holds none.
    #[error("{0} holds no encryption key: {1}; put the one back that was made here, or restore it from a backup")]
    NotAKey(PathBuf, KeyringError),
    /// The key is another than the one that everything was sealed with.
    #[error(
        "{0} is not the encryption key that the secrets in the control store are sealed under: go back to that one (a \
         new one goes before it until `sequin rotate-keys` is done), or start where there is nothing yet"
    )]
    WrongKey(String),
    /// The stream is an earlier state than what the store knows of it.
    #[error(
        "the record stream ends at {head}, but consumer {consumer} has read up to {checkpoint}: records were lost, as \
         when only a part of a backup was restored; restore the whole data directory, or start on an empty one with \
         empty tables and publish again"
    )]
    StreamWentBack {
        /// A consumer that was further.
        consumer: String,
        /// Where it was.
        checkpoint: Idx,
        /// The last position that its provider's stream has given.
        head: Idx,
    },
    /// The actors did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address can't be listened on.
    #[error("SEQUIN_LISTEN: can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl ServiceError {
    /// Whether another value of a setting is the way out.
    pub fn is_wrong_setting(&self) -> bool {
        match self {
            Self::NotADirectory(_) | Self::NotTold(_) => true,
            Self::WrongKey(key) => key == ENCRYPTION_KEY,
            Self::Nats(error) => matches!(error, JetStreamError::Settings(_)),
            _ => false,
        }
    }
}

/// Why a running service can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The stream is lost.
    #[error(transparent)]
    Stream(StreamError),
    /// The control store is lost.
    #[error(transparent)]
    Store(StoreError),
    /// The actors are gone.
    #[error("the engine ended by itself, which is a bug: the log says more; start again, and nothing is lost")]
    Engine,
    /// Nobody answers requests any more.
    #[error("the HTTP server ended by itself: the log says more; start again, and nothing is lost")]
    Http,
}
