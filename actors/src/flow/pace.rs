//! Pace: how many records a second a target takes, from all its consumers together.
//!
//! Who is about to write waits until what was written before is paid off, and then owes as much time as his own records
//! take. So a transaction begins at once when nothing is owed, however large it is, and the next one waits it off. Time in
//! which nothing is written is no credit for later, but for a second's worth of it.

use std::{num::NonZeroU32, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

/// What time without records is worth at most.
const CREDIT: Duration = Duration::from_secs(1);

/// The pace of one target. Those who wait go one after the other, in the order in which they came.
#[derive(Debug)]
pub struct Pace {
    most: watch::Sender<Option<NonZeroU32>>,
    /// When what was written is paid off.
    owed_until: Mutex<Instant>,
}

impl Pace {
    /// So many records a second at most; `None` for as many as can be written.
    pub fn new(most: Option<u32>) -> Self {
        let most = watch::Sender::new(most.and_then(NonZeroU32::new));
        Self { most, owed_until: Mutex::new(Instant::now()) }
    }

    /// So many from now on, for those who wait too.
    pub fn set(&self, most: Option<u32>) {
        let most = most.and_then(NonZeroU32::new);
        self.most.send_if_modified(|before| std::mem::replace(before, most) != most);
    }

    /// How many records are at most to be written at once, so that they are spread over the seconds.
    pub fn at_once(&self) -> usize {
        self.most.borrow().map_or(usize::MAX, |most| usize::try_from(most.get()).unwrap_or(usize::MAX))
    }

    /// Waits until so many records may be written. Who gives up before that has taken nothing.
    pub async fn take(&self, records: usize) {
        if self.most.borrow().is_none() {
            return;
        }
        let mut owed_until = self.owed_until.lock().await;
        let mut most = self.most.subscribe();
        loop {
            let Some(a_second) = *most.borrow_and_update() else { return };
            let now = Instant::now();
            if *owed_until <= now {
                let since = owed_until.max(now.checked_sub(CREDIT).unwrap_or(now));
                *owed_until = since + worth(records, a_second);
                return;
            }
            tokio::select! {
                () = sleep_until(*owed_until) => {}
                // What is owed was reckoned by another pace.
                Ok(()) = most.changed() => *owed_until = Instant::now(),
            }
        }
    }
}

/// How long so many records take.
fn worth(records: usize, a_second: NonZeroU32) -> Duration {
    Duration::from_secs(1) * u32::try_from(records).unwrap_or(u32::MAX) / a_second.get()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    /// How long somebody waits who is about to write so many records.
    async fn wait(pace: &Pace, records: usize) -> Duration {
        let began = Instant::now();
        pace.take(records).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn over_time_as_many_records_are_written_as_the_pace_allows_whatever_the_batches() {
        let pace = Pace::new(Some(100));
        let began = Instant::now();
        let mut records: u128 = 0;
        for batch in [1, 250, 3, 100, 46, 500, 100].into_iter().cycle().take(70) {
            pace.take(batch).await;
            records += batch as u128;
        }
        pace.take(1).await;
        let allowed = began.elapsed().as_millis() / 10;
        assert!(allowed.abs_diff(records) <= 1, "{records} of {allowed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_worth_more_than_a_second_goes_at_once_and_is_waited_off() {
        let pace = Pace::new(Some(100));
        assert_eq!(wait(&pace, 1000).await, Duration::ZERO);
        assert_eq!(wait(&pace, 1).await.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_without_records_is_worth_a_second() {
        let pace = Pace::new(Some(100));
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(wait(&pace, 100).await, Duration::ZERO);
        assert_eq!(wait(&pace, 100).await, Duration::ZERO);
        assert_eq!(wait(&pace, 100).await.as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_has_taken_nothing_and_keeps_nobody_waiting() {
        let pace = Pace::new(Some(100));
        pace.take(100).await;
        let mut first = Box::pin(pace.take(5000));
        assert!(first.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(wait(&pace, 1).await.as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_pace_is_that_of_those_who_wait_too() {
        let pace = Arc::new(Pace::new(Some(1)));
        pace.take(3600).await;
        for other in [Some(1000), None] {
            let waiting = tokio::spawn({
                let pace = Arc::clone(&pace);
                async move { wait(&pace, 3_600_000).await }
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
            pace.set(other);
            assert_eq!(waiting.await.expect("it ends").as_secs(), 1, "{other:?}");
        }
        assert_eq!((wait(&pace, 10).await, pace.at_once()), (Duration::ZERO, usize::MAX));
    }
}
