//! A rate over the last seconds.

use std::time::Duration;

/// How much of what a rate shows is older than this: about a third.
const WINDOW: Duration = Duration::from_secs(2);

/// A rate below this is none.
const LEAST: f64 = 0.05;

/// Events a second, averaged with weights that fall off exponentially with age.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// `None` until something was observed.
    per_second: Option<f64>,
}

impl Rate {
    /// Takes in that `events` happened in the last `elapsed`.
    pub fn observe(&mut self, events: u64, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate is shown to three digits")]
        let now = events as f64 / seconds;
        let weight = 1.0 - (-seconds / WINDOW.as_secs_f64()).exp();
        let before = self.per_second.unwrap_or(now);
        let averaged = before + weight * (now - before);
        self.per_second = Some(if averaged < LEAST { 0.0 } else { averaged });
    }

    /// Events a second.
    pub fn per_second(self) -> f64 {
        self.per_second.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_shows_as_it_is_and_an_old_one_is_forgotten() {
        let mut rate = Rate::default();
        for _ in 0..60 {
            rate.observe(500, Duration::from_millis(500));
        }
        assert!((rate.per_second() - 1000.0).abs() < 1.0);
        rate.observe(0, Duration::from_secs(60));
        assert!(rate.per_second() < 0.1);
    }
}
