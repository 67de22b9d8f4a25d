//! What a consumer tells the world: its checkpoint, its lag, its status.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use tokio::time::Instant;

use super::{ConsumerMessage, ConsumerState, Happening, Mode, pipeline::Pipeline, tell};
use crate::{
    flow::progress::Progress,
    model::{Checkpoint, ConsumerStatus, Lag, Reason, RunState},
};

/// How often progress is looked at: the checkpoint saved, the lag measured, the status written if it changed.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// A status that does not change is written this often all the same, to show that somebody watches.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Measuring the lag takes at most one part in this many of the time.
const MEASURE_SHARE: u32 = 50;

impl ConsumerState {
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if let Some(progress) = &mut self.progress {
            progress.tick(now - self.ticked_at);
        }
        self.ticked_at = now;
        self.notice_panics();
        self.save();
        self.measure(now);
        self.write_status();
        self.myself.send_after(TICK, || ConsumerMessage::Tick);
    }

    /// A task that panicked has told nobody.
    fn notice_panics(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                self.fail("a task panicked".into());
            }
        }
    }

    /// Saves the checkpoint, if it has moved and is not being saved.
    pub(super) fn save(&mut self) {
        while self.saving.try_join_next().is_some() {}
        let Some(checkpoint) = self.progress.as_ref().and_then(Progress::unsaved) else { return };
        if !self.saving.is_empty() {
            return;
        }
        let (context, id) = (Arc::clone(&self.arguments.context), self.arguments.consumer.id);
        let myself = self.myself.clone();
        self.saving.spawn(async move {
            match context.documents.put(id, &checkpoint).await {
                Ok(_) => drop(myself.cast(ConsumerMessage::Saved(checkpoint))),
                Err(error) => tracing::warn!(consumer = %id, %error, "the checkpoint was not saved, and will be"),
            }
        });
    }

    pub(super) fn saved(&mut self, checkpoint: Checkpoint) {
        if let Some(progress) = &mut self.progress {
            progress.saved(checkpoint);
        }
    }

    /// Asks the stream what lies beyond the checkpoint, if that may have changed.
    fn measure(&mut self, now: Instant) {
        let Some(progress) = &self.progress else { return };
        let (reached, until, has_lag) = (progress.checkpoint().idx, progress.backfill_until(), progress.has_lag());
        if now < self.measure_at {
            return;
        }
        // While a pipeline runs, it knows whether anything has come. Otherwise somebody has to look.
        let has_moved = self.pipeline().is_none_or(Pipeline::take_has_moved);
        if !has_moved && !has_lag {
            return;
        }
        // Not before this one has ended.
        self.measure_at = now + HEARTBEAT;
        let (context, filter) = (Arc::clone(&self.arguments.context), self.arguments.consumer.filter.clone());
        let (myself, generation) = (self.myself.clone(), self.generation);
        self.tasks.spawn(async move {
            let begun = Instant::now();
            let measured = async {
                let lag = context.stream.lag(&filter, reached).await?;
                let beyond_backfill = match until {
                    Some(until) => context.stream.lag(&filter, until).await?.records,
                    None => 0,
                };
                Ok::<_, crate::stream::StreamError>((lag, beyond_backfill))
            };
            match measured.await {
                Ok((lag, beyond_backfill)) => {
                    let took = begun.elapsed();
                    tell(&myself, generation, Happening::Measured { lag, beyond_backfill, took });
                }
                Err(error) => tracing::warn!(%filter, %error, "the lag could not be measured"),
            }
        });
    }

    pub(super) fn measured(&mut self, lag: Lag, beyond_backfill: u64, took: Duration) {
        if let Some(progress) = &mut self.progress {
            progress.measured(lag, beyond_backfill);
        }
        // The next tick is soon enough, unless measuring is expensive.
        self.measure_at = Instant::now() + (took * MEASURE_SHARE).saturating_sub(TICK);
    }

    /// The lag that was last measured is not the one that is there now.
    pub(super) fn measure_soon(&mut self) {
        self.measure_at = Instant::now();
    }

    /// Writes the status, if it says something new or has not been written for a while.
    pub(super) fn write_status(&mut self) {
        while self.writing.try_join_next().is_some() {}
        if !self.writing.is_empty() {
            return;
        }
        let now = Instant::now();
        let status = self.status();
        let is_news = match &self.written {
            Some((written, at)) => differs(written, &status) || now - *at >= HEARTBEAT,
            None => true,
        };
        if !is_news {
            return;
        }
        self.written = Some((status.clone(), now));
        let (context, id) = (Arc::clone(&self.arguments.context), self.arguments.consumer.id);
        self.writing.spawn(async move {
            if let Err(error) = context.documents.put(id, &status).await {
                tracing::warn!(consumer = %id, %error, "the status was not written");
            }
        });
    }

    fn status(&self) -> ConsumerStatus {
        let now = Utc::now();
        let (state, mut reasons) = self.observed();
        let nothing_yet = Progress::resume(Checkpoint::default());
        let progress = self.progress.as_ref().unwrap_or(&nothing_yet);
        let threshold = Duration::from_secs(self.arguments.consumer.lag_threshold_seconds.into());
        if state != RunState::Paused {
            reasons.extend(progress.behind(threshold, now));
        }
        progress.status(state, reasons, &self.arguments.context.settings.node, now)
    }

    fn observed(&self) -> (RunState, Vec<Reason>) {
        if !self.should_run() {
            return (RunState::Paused, Vec::new());
        }
        match &self.mode {
            Mode::Running(_) => (self.progress.as_ref().map_or(RunState::Waiting, Progress::run_state), Vec::new()),
            Mode::Waiting(reason) => (RunState::Waiting, vec![reason.clone()]),
            Mode::Halted(reasons) => (RunState::Halted, reasons.clone()),
            // What was last observed holds until it is known what comes next.
            Mode::Loading | Mode::Verifying | Mode::Paused | Mode::Finishing => match &self.written {
                Some((written, _)) => (written.state, written.reasons.clone()),
                None => (RunState::Waiting, Vec::new()),
            },
        }
    }

    /// Saves the last words, and ends.
    pub(super) fn finish(&mut self) {
        let status = self.status();
        self.tear_down(Mode::Finishing);
        self.saving.abort_all();
        self.writing.abort_all();
        let (context, id) = (Arc::clone(&self.arguments.context), self.arguments.consumer.id);
        let unsaved = self.progress.as_ref().and_then(Progress::unsaved);
        let (myself, generation) = (self.myself.clone(), self.generation);
        self.saving.spawn(async move {
            let write = async {
                if let Some(checkpoint) = unsaved {
                    context.documents.put(id, &checkpoint).await?;
                }
                context.documents.put(id, &status).await
            };
            if let Err(error) = write.await {
                tracing::warn!(consumer = %id, %error, "the last checkpoint was not saved; what came since is read again");
            }
            tell(&myself, generation, Happening::Finished);
        });
    }
}

/// Whether the status says something new, but for the time at which it says so.
fn differs(written: &ConsumerStatus, status: &ConsumerStatus) -> bool {
    ConsumerStatus { checked_at: status.checked_at, ..written.clone() } != *status
}
