//! Novelty: whether it is worth a try to bring a batch as if all of its keys were new.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many batches at most pass without a try.
const LONGEST_PAUSE: u32 = 64;

/// What came of the tries up to now. After each that was in vain, twice as many batches pass without one, because what
/// a try in vain has written is garbage in the table.
#[derive(Debug, Default)]
pub(super) struct Novelty {
    /// How many batches pass before the next try.
    passing: AtomicU32,
    /// How many passed before the last try.
    passed: AtomicU32,
}

impl Novelty {
    /// Whether to try it with this batch.
    pub(super) fn is_worth_a_try(&self) -> bool {
        self.passing.fetch_update(Relaxed, Relaxed, |passing| passing.checked_sub(1)).is_err()
    }

    /// All keys were new.
    pub(super) fn confirmed(&self) {
        self.passed.store(0, Relaxed);
    }

    /// Some key was not.
    pub(super) fn refuted(&self) {
        let pause = (self.passed.load(Relaxed) * 2).clamp(1, LONGEST_PAUSE);
        self.passed.store(pause, Relaxed);
        self.passing.store(pause, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_in_vain_become_rare_and_one_that_succeeds_makes_them_frequent_again() {
        let novelty = Novelty::default();
        let pause = || (0..1000).find(|_| novelty.is_worth_a_try()).expect("it is tried again");
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                let pause = pause();
                novelty.refuted();
                pause
            })
            .collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(pause(), 64);
        novelty.confirmed();
        assert_eq!(pause(), 0);
        novelty.refuted();
        assert_eq!(pause(), 1);
    }
}
