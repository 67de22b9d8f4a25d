//! What can keep a throwaway server from starting.

use std::{io, path::PathBuf, process::ExitStatus};

use super::{READY_WITHIN, SUPERUSER};

/// A server that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no Postgres on this machine, or only its client.
    #[error(
        "no PostgreSQL server (initdb, postgres) where pg_config points, in /usr/lib/postgresql or on PATH: \
         run deploy/setup.sh, or install your system's package (Debian: postgresql)"
    )]
    NotInstalled,
    /// Postgres refuses to run as root, and there is nobody else to run it as.
    #[error(
        "PostgreSQL refuses to run as root, and there is no user {SUPERUSER} to run it as: run this as another user"
    )]
    NoAccount,
    /// Files could not be made.
    #[error("making a temporary directory for PostgreSQL: {0}")]
    Files(#[source] io::Error),
    /// There is no port to listen on.
    #[error("finding a free loopback port: {0}")]
    Port(#[source] io::Error),
    /// A program could not be run.
    #[error("running {program}: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data directory could not be made.
    #[error("initdb failed ({status}): {stderr}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL ended while it started ({status}); the last lines of its log:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The server did not become ready.
    #[error("PostgreSQL was not ready within {} s; the last lines of its log:\n{log}", READY_WITHIN.as_secs())]
    NotReady {
        /// The last lines of its log.
        log: String,
    },
}

impl StartError {
    /// Whether the server ended with a message in its log.
    pub(super) fn log_says(&self, text: &str) -> bool {
        matches!(self, Self::Ended { log, .. } if log.contains(text))
    }
}
