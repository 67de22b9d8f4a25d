//! What a consumer tells the world: its checkpoint, its lag, its status.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use tokio::time::{Instant, timeout};

use super::{ConsumerArguments, ConsumerMessage, ConsumerState, Happening, Mode, tell};
use crate::{
    flow::progress::{LagLimit, Progress},
    model::{Checkpoint, ConsumerStatus, Reason, RunState},
    pipeline::{Quarantine, SavedCheckpoint, reason},
    spans,
    store::{DocumentsError, StoreError},
};

/// How often progress is looked at: the checkpoint saved, the lag measured, the status written if it changed.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// How often that is while a pipeline has nothing to do: it hears of what comes. With the target's heartbeat it stays below
/// the minute that the API takes for silence.
const REST: Duration = Duration::from_secs(20);

/// And while there is no pipeline that would hear.
const DEAF: Duration = Duration::from_secs(5);

/// A status that does not change is written this often all the same, to show that somebody watches. While a pipeline runs
/// the target does that: it tells of all its consumers at once.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long who ends waits for what is being saved already.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Of saving the checkpoint there is a span if it takes longer.
const SLOW_SAVE: Duration = Duration::from_secs(1);

impl ConsumerState {
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if let Some(progress) = &mut self.progress {
            progress.tick(now - self.ticked_at);
            let is_for_others = match &self.mode {
                Mode::Paused | Mode::Halted(_) => true,
                Mode::Waiting(reason) => reason.target.is_some(),
                _ => false,
            };
            if is_for_others {
                progress.is_excused(Utc::now());
            }
        }
        self.ticked_at = now;
        self.arguments.seen.now();
        self.save();
        self.look(now);
        self.write_status();
        match self.rest(now) {
            Some(rest) => {
                self.is_at_rest = true;
                self.tick_at(self.arguments.context.in_step(rest));
            }
            None => self.tick_soon(),
        }
    }

    pub(super) fn tick_soon(&mut self) {
        self.is_at_rest = false;
        self.tick_at(Instant::now() + TICK);
    }

    fn tick_at(&mut self, at: Instant) {
        if let Some(earlier) = self.tick.take() {
            earlier.abort();
        }
        let myself = self.myself.clone();
        self.tick = Some(tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            let _ = myself.cast(ConsumerMessage::Tick);
        }));
    }

    /// Ends a rest if there is a reason to.
    pub(super) fn rouse(&mut self) {
        let now = Instant::now();
        if self.is_at_rest && self.rest(now).is_none() {
            // Nothing has happened until now.
            self.ticked_at = now;
            self.tick_soon();
        }
    }

    /// For how long there is nothing to look at, unless something happens; `None` while there is.
    fn rest(&self, now: Instant) -> Option<Duration> {
        let moves = self.progress.as_ref().is_some_and(Progress::moves) || self.unsaved.is_some();
        if moves || self.is_draining() {
            return None;
        }
        match &self.mode {
            Mode::Running(pipeline) => {
                let has_lag = self.progress.as_ref().is_some_and(Progress::has_lag);
                let has_work = has_lag || !pipeline.is_settled() || self.outage.is_some() || self.trouble.is_some();
                let rest = self.watch.until_due(pipeline.moves(), now).min(REST);
                (!has_work && rest > TICK).then_some(rest)
            }
            _ => Some(DEAF),
        }
    }

    /// Saves the checkpoint, if it has moved and is not being saved.
    pub(super) fn save(&mut self) {
        while self.saving.try_join_next().is_some() {}
        // The last words are saved by who says them.
        if !self.saving.is_empty() || matches!(self.mode, Mode::Finishing) {
            return;
        }
        let Some((checkpoint, in_store)) = self.to_save() else { return };
        self.arguments.metrics.saving();
        let (myself, began) = (self.myself.clone(), Instant::now());
        let ConsumerArguments { consumer, target_name, .. } = &self.arguments;
        let (consumer, target) = (Arc::clone(consumer), target_name.clone());
        self.saving.spawn(async move {
            let saved = in_store.write(&checkpoint).await;
            let took = began.elapsed();
            if took >= SLOW_SAVE {
                let name = format!("save the checkpoint of {}", consumer.name);
                spans::was_done(name, spans::of_consumer(&consumer.name, &target), took, saved.as_ref());
            }
            let saved = saved.map(|()| Box::new(checkpoint));
            let _ = myself.cast(ConsumerMessage::Saved(saved));
        });
    }

    /// What is not saved yet, and where to.
    fn to_save(&self) -> Option<(Checkpoint, Arc<SavedCheckpoint>)> {
        self.progress.as_ref().and_then(Progress::unsaved).zip(self.checkpoint.clone())
    }

    /// Waits until what is being saved is. Nobody else does from then on, and losing the future ends it.
    pub(super) fn saves(&mut self) -> impl Future<Output = ()> + use<> {
        let mut saving = std::mem::take(&mut self.saving);
        async move { while saving.join_next().await.is_some() {} }
    }

    pub(super) fn saved(&mut self, saved: Result<Box<Checkpoint>, DocumentsError>) {
        match (saved, &mut self.progress) {
            (Ok(checkpoint), Some(progress)) => {
                progress.saved(*checkpoint);
                self.arguments.metrics.saved(progress.is_saved());
                self.unsaved = None;
            }
            (Ok(_), None) => {}
            (Err(DocumentsError::Store(StoreError::Conflict { .. })), _) => self.outrun(),
            (Err(error), _) => {
                let error = error.to_string();
                tracing::warn!(consumer = %self.arguments.consumer.name, error, "the checkpoint was not saved");
                self.unsaved.get_or_insert_with(|| reason::checkpoint_not_saved(&error));
            }
        }
    }

    /// Somebody else has written the checkpoint, or an earlier write was done after all: what the store holds is what counts.
    fn outrun(&mut self) {
        // Who loads reads it in any case, and whoever ends has no use for it.
        if matches!(self.mode, Mode::Loading | Mode::Finishing) {
            return;
        }
        self.checkpoint = None;
        self.fail(reason::trying_again("the checkpoint was written by somebody else, and is loaded again".into()));
    }

    /// Writes the status, if it says something new or has not been written for a while.
    pub(super) fn write_status(&mut self) {
        self.observed = self.observe();
        self.tell_metrics();
        while self.writing.try_join_next().is_some() {}
        if !self.writing.is_empty() {
            return;
        }
        let now = Instant::now();
        let status = self.status();
        let is_told = matches!(self.mode, Mode::Running(_));
        let is_news = match &self.written {
            Some((written, at)) => differs(written, &status) || (!is_told && now - *at >= HEARTBEAT),
            None => true,
        };
        if !is_news {
            return;
        }
        self.written = Some((status.clone(), now));
        let (in_store, id) = (Arc::clone(&self.status), self.arguments.consumer.id);
        self.writing.spawn(async move {
            if let Err(error) = in_store.write(&status).await {
                tracing::warn!(consumer = %id, %error, "the status was not written");
            }
        });
    }

    /// Says for whoever collects metrics how it does.
    pub(super) fn tell_metrics(&self) {
        let metrics = &self.arguments.metrics;
        metrics.is_in(self.observed.0, self.quarantined());
        if let Some(progress) = &self.progress {
            metrics.is_at(progress.lag(), progress.checkpoint().backfill.as_ref());
            metrics.is_saved(progress.is_saved());
        }
    }

    fn quarantined(&self) -> u64 {
        self.quarantine.as_ref().map_or(0, |quarantine| quarantine.len() as u64)
    }

    fn status(&self) -> ConsumerStatus {
        let now = Utc::now();
        let (state, mut reasons) = self.observe();
        let is_running = matches!(self.mode, Mode::Running(_));
        let nothing_yet = Progress::resume(Checkpoint::default());
        let progress = self.progress.as_ref().unwrap_or(&nothing_yet);
        let limit = LagLimit::of(&self.arguments.consumer);
        if state != RunState::Paused {
            reasons.extend(progress.behind(limit, now));
            reasons.extend(is_running.then(|| progress.stalled_backfill(limit, now)).flatten());
            reasons.extend(self.quarantine.iter().flat_map(|quarantine| quarantine.reasons()));
            reasons.extend(self.warnings.iter().chain(&self.unsaved).cloned());
        }
        progress.status(state, reasons, self.quarantined(), &self.arguments.context.settings.node, now)
    }

    /// Counts what is in quarantine, while no pipeline does.
    pub(super) fn count(&mut self) {
        let (context, consumer) = (Arc::clone(&self.arguments.context), self.arguments.consumer.id);
        self.attempt(async move {
            let counted = Quarantine::load(consumer, &context.documents, context.settings.refusal_limit).await;
            let failed = |error: &_| tracing::warn!(%consumer, %error, "the quarantine was not counted");
            counted.inspect_err(failed).ok().map(Happening::Counted)
        });
    }

    pub(super) fn counted(&mut self, quarantine: Arc<Quarantine>) {
        self.quarantine = Some(quarantine);
        self.write_status();
    }

    fn observe(&self) -> (RunState, Vec<Reason>) {
        if !self.should_run() {
            return (RunState::Paused, Vec::new());
        }
        match &self.mode {
            // A target that answers may still take nothing.
            Mode::Running(_) if let Some(outage) = &self.outage => (RunState::Waiting, vec![outage.clone()]),
            // One that was started again may fail again.
            Mode::Running(_) => {
                let state = self.progress.as_ref().map_or(RunState::Waiting, Progress::run_state);
                (state, self.trouble.iter().cloned().collect())
            }
            Mode::Waiting(reason) => (RunState::Waiting, vec![reason.clone()]),
            Mode::Halted(reasons) => (RunState::Halted, reasons.clone()),
            // What was last observed holds until it is known what comes next.
            Mode::Loading | Mode::Preparing | Mode::Paused | Mode::Finishing => self.observed.clone(),
        }
    }

    /// Saves the last words, and ends.
    pub(super) fn finish(&mut self) {
        let status = self.status();
        self.tear_down(Mode::Finishing);
        self.writing.abort_all();
        let (status_in_store, id) = (Arc::clone(&self.status), self.arguments.consumer.id);
        let (saves, last) = (self.saves(), self.to_save());
        let (myself, generation) = (self.myself.clone(), self.generation);
        self.saving.spawn(async move {
            // One that takes longer is given up, and may be in the way of this one.
            let _ = timeout(LAST_SAVE, saves).await;
            let write = async {
                if let Some((checkpoint, in_store)) = last {
                    in_store.write(&checkpoint).await?;
                }
                status_in_store.write(&status).await
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
