//! When to start again what has failed.

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// What runs for this long has recovered from whatever made it fail.
pub(super) const STABLE: Duration = Duration::from_secs(60);

/// The restarts of one thing: with backoff, which starts over once it has run for a while.
#[derive(Debug)]
pub struct Restarts {
    backoff: Backoff,
    started_at: Instant,
}

impl Restarts {
    /// It was started at `now`.
    pub fn new(now: Instant) -> Self {
        Self { backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)), started_at: now }
    }

    /// It was started again.
    pub fn started(&mut self, now: Instant) {
        self.started_at = now;
    }

    /// It failed at `now`: how long to wait before it is started again. `chance` is drawn evenly from 0 to 1.
    pub fn failed(&mut self, now: Instant, chance: f64) -> Duration {
        if now.duration_since(self.started_at) >= STABLE {
            self.backoff.reset();
        }
        self.backoff.next(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_starts_over_after_a_stable_while_and_not_before() {
        let start = Instant::now();
        let mut restarts = Restarts::new(start);
        let first = restarts.failed(start, 1.0);
        restarts.started(start);
        assert!(restarts.failed(start + STABLE / 2, 1.0) > first);
        restarts.started(start + STABLE);
        assert_eq!(restarts.failed(start + 2 * STABLE, 1.0), first);
    }
}
