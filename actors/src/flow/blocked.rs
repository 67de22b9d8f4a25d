//! For how long somebody had to wait, the wait that goes on included.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time in which at least one waited.
#[derive(Debug, Default)]
pub struct Blocked(Mutex<Waits>);

#[derive(Debug, Default)]
struct Waits {
    /// Of those that are over.
    total: Duration,
    /// Those that go on, and since when the first of them does.
    open: usize,
    since: Option<Instant>,
}

impl Blocked {
    /// Somebody waits, until what this returns is dropped.
    pub(super) fn begin(&self) -> impl Drop + use<'_> {
        let mut waits = self.waits();
        waits.open += 1;
        waits.since.get_or_insert_with(Instant::now);
        Waiting(self)
    }

    /// The time up to now. It never goes back.
    pub fn total(&self) -> Duration {
        let waits = self.waits();
        waits.total + waits.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits.
struct Waiting<'a>(&'a Blocked);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.waits();
        waits.open -= 1;
        if waits.open == 0
            && let Some(since) = waits.since.take()
        {
            waits.total += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_wait_at_the_same_time_count_once() {
        let (blocked, began) = (Blocked::default(), Instant::now());
        let (first, second) = (blocked.begin(), blocked.begin());
        drop(first);
        assert!(blocked.waits().since.is_some(), "one of them still waits");
        drop(second);
        assert!(blocked.waits().since.is_none());
        assert!(blocked.total() <= began.elapsed());
        assert_eq!(blocked.total(), blocked.total());
    }
}
