//! Turns: how many begin at once, so that what starts together does not get in its own way.
//!
//! A turn is short: whoever takes longer goes on without one, so that those who are stuck hold nobody up.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

/// How long a turn lasts: some round trips to a server that is far away.
const TURN: Duration = Duration::from_millis(500);

/// A number of turns, which go to those who have waited longest.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// So many at once.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Waits for a turn, and begins `work` in it.
    pub async fn take<T>(&self, work: impl Future<Output = T>) -> T {
        let turn = self.0.acquire().await.expect("never closed");
        let mut work = pin!(work);
        if let Ok(done) = timeout(TURN, &mut work).await {
            return done;
        }
        drop(turn);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn as_many_begin_at_once_as_there_are_turns_and_the_next_when_one_is_through() {
        let turns = Turns::new(2);
        let mut first = Box::pin(turns.take(pending::<()>()));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(turns.take(ready(())).now_or_never().is_some());
        let mut second = Box::pin(turns.take(pending::<()>()));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(turns.take(ready(())).now_or_never().is_none(), "there is no third");
        drop(first);
        assert!(turns.take(ready(())).now_or_never().is_some());
    }

    #[tokio::test]
    async fn one_that_is_stuck_holds_nobody_up_for_longer_than_its_turn_and_goes_on() {
        let turns = Turns::new(1);
        let (finish, finished) = tokio::sync::oneshot::channel();
        let of_stuck = turns.clone();
        let stuck = tokio::spawn(async move { of_stuck.take(finished).await });
        tokio::task::yield_now().await;
        let began = Instant::now();
        turns.take(ready(())).await;
        assert!(began.elapsed() < TURN * 4, "{:?}", began.elapsed());
        finish.send("done").expect("it waits");
        assert_eq!(stuck.await.expect("it ends"), Ok("done"));
    }
}
