//! The fence: no statement of an earlier pipeline may take effect after a new one has begun.
//!
//! A pipeline can end while the server still works on a statement of its: its connection broke, its task was dropped, its
//! process was killed or paused, its node lost the target to another. Should that statement commit late, it could bring back
//! a row that the new pipeline has deleted, since a delete leaves nothing behind that would hold it off. So, before it
//! reads, a new pipeline ends every session that bears the target's name and its own or a lower epoch, and is not known to
//! be alive in this process. A session that is connected after that belongs to somebody who finds out, before he uses
//! it, that the target is another's (see [`Lease`]).
//!
//! All that rests on the name: a session whose name the server shows otherwise, as behind a pooler that keeps it to
//! itself, is refused.
//!
//! It asks once, and not again before a session of ours has ended: until then, all that there are are known.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{RwLock, RwLockReadGuard},
    time::{Instant, timeout},
};
use tokio_postgres::{Client, types::ToSql};

use super::{error::Fault, pooler::Mark};
use crate::model::{Epoch, TargetId};

/// How long a session may take to end once it was told to.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to tell which ones there are.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const END_POLL: Duration = Duration::from_millis(20);

/// What bears the target's name, and an epoch, is counted: whose epoch is not higher is told to end, but for those that
/// live. Those of another user of ours, as before the target was given another one, can only be waited for. Where we are
/// called otherwise ourselves, so is what we look for, and nothing is known.
const END_STRAYS: &str = "
    with session as (
      select pid, usename = session_user as is_ours, substr(application_name, length($1) + 1) as epoch
      from pg_catalog.pg_stat_activity
      where left(application_name, length($1)) = $1 and datname = pg_catalog.current_database() and not pid = any($3)),
    numbered as (select pid, is_ours, epoch::bigint as epoch from session where epoch ~ '^[0-9]{1,9}$')
    select count(*) filter (where epoch > $2),
      count(case when epoch > $2 then null when is_ours then pg_catalog.pg_terminate_backend(pid)::int else 0 end),
      (select application_name from pg_catalog.pg_stat_activity where pid = pg_catalog.pg_backend_pid())
    from numbered";

/// What a database's sessions are called that belong to one ownership of a target.
#[derive(Clone)]
pub struct Lease {
    /// What they all begin with, whatever the epoch.
    target: String,
    epoch: Epoch,
    is_ours: Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>,
}

impl Lease {
    /// The lease of a target in an epoch. `is_ours` finds out, by a write to the store that begins when it is called, that
    /// nobody has taken the target over until then.
    ///
    /// PostgreSQL keeps 63 bytes of a name: of the cluster at most 16, and an epoch up to 999,999.
    pub fn new(
        cluster: &str,
        target: TargetId,
        epoch: Epoch,
        is_ours: Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>,
    ) -> Self {
        Self { target: format!("sequin/{cluster}/{}/", target.0.simple()), epoch, is_ours }
    }

    /// What a session is called.
    pub(super) fn application_name(&self) -> String {
        format!("{}{}", self.target, self.epoch)
    }

    pub(super) async fn is_ours(&self) -> bool {
        (self.is_ours)().await
    }
}

/// A session's process on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend(i32);

impl Backend {
    /// Whether it has this number.
    pub(super) fn is(self, pid: i32) -> bool {
        self.0 == pid
    }
}

/// The sessions that this process has with one target, whichever pool they belong to.
#[derive(Default)]
pub struct LiveSessions {
    /// `None` for those in which nothing of a stream is written.
    lease: Option<Lease>,
    /// By the marks of those that say so: two sessions with two servers may have processes of one number.
    backends: Mutex<HashMap<Backend, Vec<Mark>>>,
    /// How many have ended, or were given up together with the server that they are with.
    endings: AtomicU64,
    /// One more than that was when there was last seen to be no stray; 0 before.
    fenced: AtomicU64,
    /// Held for reading while a session is being opened: the server knows of it before we do.
    opening: RwLock<()>,
}

/// A session's entry among the live, for as long as it lives.
pub(super) struct Alive {
    sessions: Arc<LiveSessions>,
    pub(super) backend: Backend,
    mark: Mark,
}

impl LiveSessions {
    /// Those of a target that is ours by `lease`.
    pub fn of(lease: Lease) -> Self {
        Self { lease: Some(lease), ..Self::default() }
    }

    /// What they are called.
    pub(super) fn application_name(&self) -> String {
        self.lease.as_ref().map(Lease::application_name).unwrap_or_default()
    }

    /// Fails if a session that is connected must not be used: somebody else has taken the target over, or may have.
    pub(super) async fn check_ours(&self) -> Result<(), Fault> {
        match &self.lease {
            Some(lease) if !lease.is_ours().await => Err(Fault::not_owner()),
            _ => Ok(()),
        }
    }

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
        backends.keys().map(|backend| backend.0).collect()
    }

    pub(super) async fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.opening.read().await
    }

    pub(super) fn add(self: &Arc<Self>, backend: i32, mark: &Mark) -> Alive {
        let backend = Backend(backend);
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.entry(backend).or_default().push(mark.clone());
        Alive { sessions: Arc::clone(self), backend, mark: mark.clone() }
    }

    /// Whether this mark is that of a session which lives, and has this process. That of one which has ended means nothing: a
    /// pooler may have given its process to somebody else as it was.
    pub(super) fn has_left(&self, backend: i32, mark: &Mark) -> bool {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.get(&Backend(backend)).is_some_and(|marks| marks.contains(mark))
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
        let Some(lease) = &self.lease else { return Ok(()) };
        let _none_is_opening = self.opening.write().await;
        let Some(endings) = self.unfenced() else { return Ok(()) };
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            let live = self.known();
            let parameters: [&(dyn ToSql + Sync); 3] = [&lease.target, &i64::from(lease.epoch.0), &live];
            // While this waits no session is opened, not even one to ask whether the server knows this one.
            let found = timeout(ANSWER_TIMEOUT, client.query_one(END_STRAYS, &parameters)).await;
            let found = found.map_err(|_| Fault::timed_out("looking for the sessions of an earlier run"))??;
            let own: Option<String> = found.try_get(2)?;
            if own.as_ref() != Some(&lease.application_name()) {
                return Err(Fault::application_name_lost(&own.unwrap_or_default()));
            }
            if found.try_get::<_, i64>(0)? > 0 {
                return Err(Fault::not_owner());
            }
            if found.try_get::<_, i64>(1)? == 0 {
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

/// Whether the server no longer has a process for a session of ours. It may have gone over to another client of a pooler: to the
/// one who asks, or to one that is called otherwise.
pub(super) async fn is_gone(client: &Client, backend: Backend) -> Result<bool, Fault> {
    const IS_GONE: &str = "
        select not exists (
          select from pg_catalog.pg_stat_activity
          where pid = $1 and pid <> pg_catalog.pg_backend_pid()
            and application_name = pg_catalog.current_setting('application_name'))";
    Ok(client.query_one(IS_GONE, &[&backend.0]).await?.try_get(0)?)
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut backends = self.sessions.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut sessions) = backends.entry(self.backend) {
            sessions.get_mut().retain(|mark| *mark != self.mark);
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
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
        let session = sessions.add(1, &Mark::generate());
        assert_eq!(sessions.unfenced(), None, "one that lives is known");
        drop(session);
        fence();
        sessions.go_elsewhere();
        fence();
        assert_eq!(sessions.unfenced(), None);
    }

    #[test]
    fn a_process_is_known_until_the_last_session_that_says_it_has_it_has_ended() {
        let sessions: Arc<LiveSessions> = Arc::default();
        let [of_first, of_second] = [Mark::generate(), Mark::generate()];
        let (first, second) = (sessions.add(1, &of_first), sessions.add(1, &of_second));
        assert!([&of_first, &of_second].into_iter().all(|mark| sessions.has_left(1, mark)));
        assert!(!sessions.has_left(2, &of_first), "of another process");
        drop(first);
        assert_eq!(sessions.known(), [1]);
        assert!(!sessions.has_left(1, &of_first), "of one that has ended");
        drop(second);
        assert!(sessions.is_empty());
    }

    #[test]
    fn what_ends_while_strays_are_looked_for_may_be_one() {
        let sessions: Arc<LiveSessions> = Arc::default();
        let session = sessions.add(1, &Mark::generate());
        let looking = sessions.unfenced().expect("there may be strays");
        drop(session);
        sessions.fenced(looking);
        assert!(sessions.unfenced().is_some());
    }
}
