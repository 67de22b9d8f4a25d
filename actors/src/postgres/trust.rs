//! Trust: which sessions that lay idle are believed to be there still.
//!
//! NATs, proxies and load balancers forget connections without a word to either end, and a server can be gone the same
//! way. Who then sends a batch waits for an answer that never comes. So a session that lay idle for a while is asked
//! before it is given out. And where one was found to be gone, those that lay idle next to it went the same way, most
//! likely: none of them is waited for, each for itself.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A session that lay idle for longer is asked. A round trip that costs a batch that comes this rarely next to nothing.
const ASKED_AFTER: Duration = Duration::from_secs(5);

/// What is done with a session before it is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing.
    Believed,
    /// It is asked.
    Asked,
    /// It is closed, and not used again.
    Lost,
}

/// What is known of the sessions of a pool.
#[derive(Debug, Default)]
pub(super) struct Knowledge(Mutex<Times>);

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// When something was last left half done, perhaps for want of an answer.
    doubted: Option<Instant>,
    /// When a session was last found to be gone.
    lost: Option<Instant>,
}

impl Knowledge {
    /// Of a session that has rested since then.
    pub(super) fn of(&self, rested_since: Instant, now: Instant) -> Trust {
        let Times { doubted, lost } = *self.times();
        if lost.is_some_and(|lost| rested_since <= lost) {
            return Trust::Lost;
        }
        let is_doubted = doubted.is_some_and(|doubted| rested_since <= doubted);
        let is_long = now.saturating_duration_since(rested_since) >= ASKED_AFTER;
        if is_doubted || is_long { Trust::Asked } else { Trust::Believed }
    }

    /// Those that rest now are asked before they are used.
    pub(super) fn doubt(&self, now: Instant) {
        self.times().doubted = Some(now);
    }

    /// Those that rest now are not used again.
    pub(super) fn lose(&self, now: Instant) {
        self.times().lost = Some(now);
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rested_for_long_or_since_before_a_doubt_is_asked_and_who_rested_next_to_a_loss_is_lost() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let known = Knowledge::default();
        assert_eq!(known.of(start, after(4)), Trust::Believed);
        assert_eq!(known.of(start, after(5)), Trust::Asked);
        known.doubt(after(10));
        assert_eq!(known.of(after(9), after(11)), Trust::Asked);
        assert_eq!(known.of(after(11), after(11)), Trust::Believed, "it was used since");
        known.lose(after(20));
        assert_eq!(known.of(after(19), after(21)), Trust::Lost);
        assert_eq!(known.of(after(21), after(22)), Trust::Believed, "it was used since");
    }
}
