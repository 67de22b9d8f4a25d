//! Turns: how a limited time is shared by those that are tried one after the other, so that the last one has its turn too.

use std::time::Duration;

use tokio::time::Instant;

/// The time that somebody has. It ends by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    ends: Instant,
}

impl Turn {
    /// One that begins now.
    pub(super) fn of(length: Duration) -> Self {
        Self { ends: Instant::now() + length }
    }

    /// What is left of it.
    pub(super) fn left(self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// A turn within it for each. It begins when it is asked for, and what one leaves is shared by those that come after.
    pub(super) fn shared<T>(self, by: impl ExactSizeIterator<Item = T>) -> impl Iterator<Item = (T, Self)> {
        let all = by.len();
        by.enumerate().map(move |(before, one)| {
            let waiting = u32::try_from(all - before).unwrap_or(u32::MAX);
            (one, Self::of(self.left() / waiting))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_one_leaves_is_shared_by_those_that_come_after_and_all_together_take_no_longer() {
        let whole = Turn::of(Duration::from_secs(12));
        let mut turns = whole.shared(["quick", "dead", "dead too"].into_iter());
        let mut lefts = Vec::new();
        for takes in [Some(2), None, None] {
            let (_, turn) = turns.next().expect("a turn");
            lefts.push(turn.left().as_secs());
            advance(takes.map_or(turn.left(), Duration::from_secs)).await;
        }
        assert_eq!(lefts, [4, 5, 5]);
        assert_eq!(whole.left(), Duration::ZERO);
    }
}
