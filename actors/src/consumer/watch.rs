//! What a consumer looks at now and then: how far behind it is, whether it gets on, whether its table is still as it
//! should be.

use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;

use super::{ConsumerState, Happening, Mode, reporting::TICK};
use crate::{
    context::EngineSettings,
    flow::progress::{LagLimit, Progress},
    model::{Lag, StreamId},
    pipeline::{reason, verify_again},
    postgres::Finding,
};

/// Measuring the lag takes at most one part in this many of the time.
const MEASURE_SHARE: u32 = 50;

/// A measurement that was not answered is not waited for any longer than this.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(15);

/// The lag is measured this often at least, whatever the pipeline believes.
const MEASURE_ALWAYS: Duration = Duration::from_secs(120);

/// When to look at what, and what was seen last.
pub(super) struct Watch {
    /// Not before this.
    measure_at: Instant,
    /// And by this, also if nothing seems to have happened.
    measure_by: Instant,
    /// The pipeline's moves at the last measurement.
    measured: u64,
    /// And when it was last seen to get on.
    moved: u64,
    /// For how long it was not.
    still: Duration,
    verify_at: Instant,
}

impl Watch {
    pub(super) fn begin(now: Instant) -> Self {
        Self { measure_at: now, measure_by: now, measured: 0, moved: 0, still: Duration::ZERO, verify_at: now }
    }

    /// A pipeline was started, on a table that was just verified.
    pub(super) fn started(&mut self, now: Instant, settings: &EngineSettings) {
        (self.measured, self.moved, self.still) = (u64::MAX, 0, Duration::ZERO);
        self.put_off_verification(now, settings);
    }

    /// How long there is nothing to look at, after so many moves.
    pub(super) fn until_due(&self, moves: u64, now: Instant) -> Duration {
        let measure_at = if moves == self.measured { self.measure_by } else { self.measure_at };
        measure_at.min(self.verify_at).duration_since(now)
    }

    /// The lag that was last measured is not the one that is there now.
    pub(super) fn measure_soon(&mut self) {
        self.measure_at = Instant::now();
    }

    /// Not all at once: what was started together is not looked at together.
    fn put_off_verification(&mut self, now: Instant, settings: &EngineSettings) {
        self.verify_at = now + settings.drift_check.mul_f64(0.5 + fastrand::f64());
    }
}

impl ConsumerState {
    pub(super) fn look(&mut self, now: Instant) {
        self.measure(now);
        self.look_whether_an_outage_is_over();
        self.look_for_a_stall();
        self.look_for_drift(now);
    }

    /// Asks the stream what lies beyond the checkpoint, if that may have changed.
    fn measure(&mut self, now: Instant) {
        let Some(progress) = self.progress.as_ref().filter(|progress| progress.astray().is_none()) else { return };
        let (reached, until, has_lag) = (progress.checkpoint().idx, progress.backfill_until(), progress.has_lag());
        let knows_stream = progress.checkpoint().stream.is_some();
        if now < self.watch.measure_at {
            return;
        }
        // While a pipeline runs, it knows whether anything has come. Otherwise somebody has to look.
        let moves = self.pipeline().map(|pipeline| pipeline.moves());
        let has_moved = moves.is_none_or(|moves| moves != self.watch.measured);
        if !has_moved && !has_lag && now < self.watch.measure_by {
            return;
        }
        self.watch.measured = moves.unwrap_or_default();
        self.watch.measure_by = now + MEASURE_ALWAYS;
        // Not before this one has ended.
        self.watch.measure_at = now + MEASURE_TIMEOUT;
        let (context, filter) = (self.arguments.context.clone(), self.arguments.consumer.filter.clone());
        self.attempt(async move {
            let begun = Instant::now();
            let measured = async {
                let lag = context.stream.lag(&filter, reached).await?;
                let beyond_backfill = match until {
                    Some(until) => context.stream.lag(&filter, until).await?.records,
                    None => 0,
                };
                let stream = if knows_stream { None } else { context.stream.identity(&filter).await? };
                Ok::<_, crate::stream::StreamError>((lag, beyond_backfill, stream))
            };
            let measured = measured.await;
            let took = begun.elapsed();
            let failed = |error: &_| tracing::warn!(%filter, %error, "the lag could not be measured");
            let measured = measured.inspect_err(failed).ok();
            measured.map(|(lag, beyond_backfill, stream)| Happening::Measured { lag, beyond_backfill, stream, took })
        });
    }

    pub(super) fn measured(&mut self, lag: Lag, beyond_backfill: u64, stream: Option<StreamId>, took: Duration) {
        let limit = LagLimit::of(&self.arguments.consumer);
        if let Some(progress) = &mut self.progress {
            progress.measured(lag, beyond_backfill, limit, Utc::now());
            progress.reads(stream);
        }
        self.tell_metrics();
        // The next tick is soon enough, unless measuring is expensive.
        self.watch.measure_at = Instant::now() + (took * MEASURE_SHARE).saturating_sub(TICK);
    }

    /// It is over when there is nothing to bring, too.
    fn look_whether_an_outage_is_over(&mut self) {
        let has_lag = self.progress.as_ref().is_some_and(Progress::has_lag);
        if !has_lag && matches!(&self.mode, Mode::Running(pipeline) if pipeline.is_settled()) {
            (self.outage, self.trouble) = (None, None);
        }
    }

    /// Starts a pipeline again that has work and does not get on, whatever the reason.
    ///
    /// Time is counted in ticks: a process that was stopped for a while has not stalled.
    fn look_for_a_stall(&mut self) {
        let Mode::Running(pipeline) = &self.mode else { return };
        let has_work = !pipeline.is_settled() || self.progress.as_ref().is_some_and(Progress::has_lag);
        let moves = pipeline.moves();
        if !has_work || moves != self.watch.moved {
            (self.watch.moved, self.watch.still) = (moves, Duration::ZERO);
            return;
        }
        self.watch.still += TICK;
        let still = self.watch.still;
        if still >= self.arguments.context.settings.stall_limit {
            let message = format!("there was work, and no progress for {} s: it is started again", still.as_secs());
            self.fail(reason::stalled(message));
        }
    }

    /// Verifies the table of a pipeline that runs, to warn of what may stop it.
    fn look_for_drift(&mut self, now: Instant) {
        let (Mode::Running(_), Ok(pool)) = (&self.mode, &self.arguments.pool) else { return };
        if now < self.watch.verify_at {
            return;
        }
        let (pool, table) = (pool.clone(), self.arguments.consumer.table.clone());
        self.watch.put_off_verification(now, &self.arguments.context.settings);
        self.attempt(async move {
            // If that matters, the pipeline runs into it.
            let failed = |fault: &_| tracing::debug!(%fault, "the table was not verified");
            verify_again(&pool, &table).await.inspect_err(failed).ok().map(Happening::VerifiedAgain)
        });
    }

    pub(super) fn verified_again(&mut self, findings: &[Finding]) {
        self.accept(findings);
        self.write_status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_rests_wakes_to_measure_what_moved_to_verify_and_to_measure_all_the_same() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut watch = Watch {
            measure_at: after(3),
            measure_by: now + MEASURE_ALWAYS,
            verify_at: after(300),
            ..Watch::begin(now)
        };
        watch.measured = 7;
        assert_eq!(watch.until_due(8, now), Duration::from_secs(3));
        assert_eq!(watch.until_due(7, now), MEASURE_ALWAYS);
        watch.verify_at = after(10);
        assert_eq!(watch.until_due(7, now), Duration::from_secs(10));
        assert_eq!(watch.until_due(7, after(20)), Duration::ZERO, "it is due");
    }
}
