//! A circuit breaker: whether a target is used, and when one that is not is probed again
//! (<https://martinfowler.com/bliki/CircuitBreaker.html>).

use std::time::{Duration, Instant};

use super::{backoff::Backoff, restarts::STABLE};

/// The bound of the first wait; each further one is twice that, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The bound of every wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Whether a target is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// It is.
    Closed,
    /// It is not, until it is probed.
    Open,
    /// It is being probed, and not used yet.
    HalfOpen,
}

/// The breaker of one target. It begins half-open: nothing is known before the first probe.
#[derive(Debug)]
pub struct Breaker {
    circuit: Circuit,
    closed_at: Instant,
    backoff: Backoff,
}

impl Breaker {
    /// A breaker that awaits its first probe.
    pub fn new(now: Instant) -> Self {
        Self { circuit: Circuit::HalfOpen, closed_at: now, backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT) }
    }

    /// Whether the target is used.
    pub fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// The target failed: it is not used for now. Returns how long to wait before it is probed; `chance` is drawn
    /// evenly from 0 to 1.
    ///
    /// A target that answers its probes and fails soon after waits ever longer all the same.
    pub fn failed(&mut self, now: Instant, chance: f64) -> Duration {
        if self.circuit == Circuit::Closed && now.duration_since(self.closed_at) >= STABLE {
            self.backoff.reset();
        }
        self.circuit = Circuit::Open;
        self.backoff.next(chance)
    }

    /// A probe is under way. One that is used stays so meanwhile.
    pub fn probing(&mut self) {
        if self.circuit == Circuit::Open {
            self.circuit = Circuit::HalfOpen;
        }
    }

    /// A probe was answered: the target is used.
    pub fn answered(&mut self, now: Instant) {
        if self.circuit != Circuit::Closed {
            self.closed_at = now;
        }
        self.circuit = Circuit::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_at_a_failure_is_half_open_while_probed_and_closes_at_an_answer() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        breaker.answered(now);
        breaker.probing();
        assert_eq!(breaker.circuit(), Circuit::Closed, "a routine probe does not interrupt");
        breaker.failed(now, 1.0);
        assert_eq!(breaker.circuit(), Circuit::Open);
        breaker.probing();
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        breaker.failed(now, 1.0);
        assert_eq!(breaker.circuit(), Circuit::Open);
    }

    #[test]
    fn waits_grow_while_it_flaps_and_start_over_once_it_was_closed_for_a_while() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        let mut flap = |closed_for| {
            breaker.answered(now);
            now += closed_for;
            breaker.failed(now, 1.0)
        };
        let waits: Vec<_> = (0..3).map(|_| flap(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000]);
        assert_eq!(flap(Duration::from_secs(120)), FIRST_WAIT);
    }

    #[test]
    fn waits_grow_up_to_the_longest_however_long_it_is_down() {
        let start = Instant::now();
        let mut breaker = Breaker::new(start);
        let waits: Vec<_> = (0..40).map(|hour| breaker.failed(start + Duration::from_hours(hour), 1.0)).collect();
        assert!(waits.is_sorted() && waits.ends_with(&[LONGEST_WAIT; 30]), "{waits:?}");
    }
}
