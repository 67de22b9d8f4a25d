//! The fence: no statement of an earlier pipeline may take effect after a new one has begun.
//!
//! A pipeline can end while the server still works on a statement of its: its connection broke, its task was dropped,
//! its process was killed. Should that statement commit late, it could bring back a row that the new pipeline has
//! deleted, since a delete leaves nothing behind that would hold it off. So, before it reads, a new pipeline ends every
//! session that bears the target's name and is not known to be alive in this process.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{RwLock, RwLockReadGuard},
    time::Instant,
};
use tokio_postgres::Client;

use super::error::Fault;

/// How long a session may take to end once it was told to.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const END_POLL: Duration = Duration::from_millis(20);

const END_STRAYS: &str = "
    select count(pg_catalog.pg_terminate_backend(pid)) from pg_catalog.pg_stat_activity
    where application_name = pg_catalog.current_setting('application_name') and usename = session_user
      and datname = pg_catalog.current_database() and not pid = any($1)";

/// A session's process on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend(i32);

/// The sessions that this process has with one target, whichever pool they belong to.
#[derive(Debug, Default)]
pub struct LiveSessions {
    backends: Mutex<HashSet<Backend>>,
    /// Held for reading while a session is being opened: the server knows of it before we do.
    opening: RwLock<()>,
}

/// A session's entry among the live, for as long as it lives.
#[derive(Debug)]
pub(super) struct Alive {
    sessions: Arc<LiveSessions>,
    pub(super) backend: Backend,
}

impl LiveSessions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn known(&self) -> Vec<i32> {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.iter().map(|backend| backend.0).collect()
    }

    pub(super) async fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.opening.read().await
    }

    pub(super) fn add(self: &Arc<Self>, backend: i32) -> Alive {
        let backend = Backend(backend);
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).insert(backend);
        Alive { sessions: Arc::clone(self), backend }
    }

    /// Ends the sessions of the target that are not among the live, and waits until they are gone.
    pub(super) async fn end_strays(&self, client: &Client) -> Result<(), Fault> {
        let _none_is_opening = self.opening.write().await;
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            let live = self.known();
            let strays: i64 = client.query_one(END_STRAYS, &[&live]).await?.try_get(0)?;
            if strays == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Fault::timed_out("ending the sessions of an earlier run"));
            }
            tokio::time::sleep(END_POLL).await;
        }
    }
}

/// Whether the server no longer has a process for a session of ours.
pub(super) async fn is_gone(client: &Client, backend: Backend) -> Result<bool, Fault> {
    const IS_GONE: &str = "select not exists (select from pg_catalog.pg_stat_activity where pid = $1)";
    Ok(client.query_one(IS_GONE, &[&backend.0]).await?.try_get(0)?)
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.sessions.backends.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.backend);
    }
}
