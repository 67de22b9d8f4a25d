//! The fence: no statement of an earlier pipeline may take effect after a new one has begun.
//!
//! A pipeline can end while the server still works on a statement of its: its connection broke, its task was dropped,
//! its process was killed. Should that statement commit late, it could bring back a row that the new pipeline has
//! deleted, since a delete leaves nothing behind that would hold it off. So, before it reads, a new pipeline ends every
//! session that bears the target's name and is not known to be alive in this process.
//!
//! It asks once, and not again before a session of ours has ended: until then, all that there are are known.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
    /// How many have ended, or were given up together with the server that they are with.
    endings: AtomicU64,
    /// One more than that was when there was last seen to be no stray; 0 before.
    fenced: AtomicU64,
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

    /// They are with a server from now on of which nothing is known.
    pub fn go_elsewhere(&self) {
        self.endings.fetch_add(1, Ordering::SeqCst);
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

    /// Whether there may be strays, as of how many endings.
    fn unfenced(&self) -> Option<u64> {
        let endings = self.endings.load(Ordering::SeqCst);
        (self.fenced.load(Ordering::SeqCst) != endings + 1).then_some(endings)
    }

    /// As of so many endings, there are none.
    fn fenced(&self, endings: u64) {
        self.fenced.store(endings + 1, Ordering::SeqCst);
    }

    /// Ends the sessions of the target that are not among the live, and waits until they are gone.
    pub(super) async fn end_strays(&self, client: &Client) -> Result<(), Fault> {
        let _none_is_opening = self.opening.write().await;
        let Some(endings) = self.unfenced() else { return Ok(()) };
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            let live = self.known();
            let strays: i64 = client.query_one(END_STRAYS, &[&live]).await?.try_get(0)?;
            if strays == 0 {
                self.fenced(endings);
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
        self.sessions.endings.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_looked_for_at_first_after_each_session_that_ended_and_elsewhere() {
        let sessions: Arc<LiveSessions> = Arc::default();
        let fence = || sessions.fenced(sessions.unfenced().expect("there may be strays"));
        fence();
        let session = sessions.add(1);
        assert_eq!(sessions.unfenced(), None, "one that lives is known");
        drop(session);
        fence();
        sessions.go_elsewhere();
        fence();
        assert_eq!(sessions.unfenced(), None);
    }

    #[test]
    fn what_ends_while_strays_are_looked_for_may_be_one() {
        let sessions: Arc<LiveSessions> = Arc::default();
        let session = sessions.add(1);
        let looking = sessions.unfenced().expect("there may be strays");
        drop(session);
        sessions.fenced(looking);
        assert!(sessions.unfenced().is_some());
    }
}
