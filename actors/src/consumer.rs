//! A consumer: one provider or sync, forwarded to one table.
//!
//! It loads its checkpoint, verifies the table, then runs a **pipeline**: a task that reads pages of the stream and
//! parts them among writers. Writers report what they committed; the watermark turns that into a checkpoint, which is
//! saved about once a second. There is one way to recover from whatever happens: the pipeline is torn down, what is in
//! flight is dropped, and a new one starts from the checkpoint. Each attempt has a generation, and what an earlier one
//! still says is not heard.
//!
//! ```text
//! Loading --> Waiting --TargetAvailable--> Verifying --Verified--> Running --drained--> Paused, or gone
//!                ^                             |                      |
//!                +-------- target fault -------+----------------------+
//!             Halted <---- wrong table, too many bad records ---------+
//! ```

mod draining;
mod faults;
mod pipeline;
mod reporting;
mod starting;
mod watch;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    flow::{pace::Pace, progress::Progress, restarts::Restarts, turns::Turns},
    model::{Checkpoint, Consumer, ConsumerStatus, Desired, Lag, Reason, RunState, StreamId},
    pipeline::{
        BringError, LoadError, Loaded, PrepareError, Prepared, Quarantine, ReadError, ReadPage, SavedCheckpoint,
        WrittenStatus, reason,
    },
    postgres::{ApplyError, Fault, Finding, Pool},
    store::DocumentsError,
    telemetry::ConsumerMetrics,
    writer::WriterReport,
};
use {
    pipeline::{Pipeline, Then},
    watch::Watch,
};

/// What a consumer is told. What belongs to one attempt carries its generation.
pub(crate) enum ConsumerMessage {
    /// This is what it should be now, and what its target is called.
    Reconcile(Arc<Consumer>, String),
    /// The target answers; this is its pool.
    TargetAvailable(Pool),
    /// The target does not answer.
    TargetUnavailable(Reason),
    /// Finish what is in flight, save the checkpoint, and end.
    Drain,
    /// Look at progress.
    Tick,
    /// The checkpoint was saved, or it is said why not.
    Saved(Result<Box<Checkpoint>, DocumentsError>),
    /// Something happened in the attempt of this generation.
    Happened(u64, Happening),
}

/// What happens in an attempt.
pub(crate) enum Happening {
    Loaded(Result<Loaded, LoadError>),
    /// The store has a checkpoint from which everything is brought again.
    StartedOver,
    Counted(Arc<Quarantine>),
    Prepared(Result<Prepared, PrepareError>),
    VerifiedAgain(Vec<Finding>),
    Diagnosed(Fault, Vec<Finding>),
    PageRead(ReadPage),
    ReadFailed(ReadError),
    Reported(WriterReport),
    Measured {
        lag: Lag,
        beyond_backfill: u64,
        /// Which stream it is, if that was not known.
        stream: Option<StreamId>,
        took: Duration,
    },
    /// A task has panicked.
    Panicked,
    /// It is time to try again.
    RetryDue,
    /// What is in flight has had its time.
    DrainDeadline,
    /// The last words are in the store.
    Finished,
}

pub(crate) struct ConsumerArguments {
    pub(crate) context: Arc<Context>,
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) target_name: String,
    /// The transactions of all its pipelines.
    pub(crate) transactions: TaskTracker,
    /// The target's, for one consumer after the other: with as few sessions as that takes.
    pub(crate) turns: Turns,
    /// The target's, for all its consumers together.
    pub(crate) pace: Arc<Pace>,
    /// For the target to tell.
    pub(crate) seen: Arc<Seen>,
    /// The target's too, which outlives a consumer that is started again.
    pub(crate) metrics: Arc<ConsumerMetrics>,
    /// `Err` says why the target is not there.
    pub(crate) pool: Result<Pool, Reason>,
    /// Tells the target's actor of a doubt.
    pub(crate) tell_target: Arc<dyn Fn(Doubt) + Send + Sync>,
}

/// When a consumer last looked at itself, in microseconds since 1970; 0 if it has not.
#[derive(Default)]
pub(crate) struct Seen(AtomicI64);

impl Seen {
    fn now(&self) {
        self.0.store(Utc::now().timestamp_micros(), Ordering::Relaxed);
    }

    pub(crate) fn at(&self) -> Option<DateTime<Utc>> {
        let micros = Some(self.0.load(Ordering::Relaxed)).filter(|&micros| micros > 0);
        micros.and_then(DateTime::from_timestamp_micros)
    }
}

/// Why a consumer doubts that its target is well.
pub(crate) enum Doubt {
    /// It failed the consumer, which waits until it hears that the target is available.
    Failed(Fault),
    /// It takes long to answer.
    Slow,
}

pub(crate) struct ConsumerState {
    myself: ActorRef<ConsumerMessage>,
    arguments: ConsumerArguments,
    mode: Mode,
    generation: u64,
    /// `None` while it is being loaded.
    progress: Option<Progress>,
    /// Where it is saved; `None` until it is loaded, and when somebody else has written it since.
    checkpoint: Option<Arc<SavedCheckpoint>>,
    status: Arc<WrittenStatus>,
    /// As the pipeline has it, or as it was last read.
    quarantine: Option<Arc<Quarantine>>,
    /// Why the target was not available, until something is brought to it again.
    outage: Option<Reason>,
    /// Why it last failed, until something is brought again.
    trouble: Option<Reason>,
    /// Whether somebody wants everything in quarantine to be tried again.
    is_asked_to_retry: bool,
    /// What may become wrong with the table.
    warnings: Vec<Reason>,
    /// Says that the checkpoint is not saved, while it is not.
    unsaved: Option<Reason>,
    restarts: Restarts,
    watch: Watch,
    ticked_at: Instant,
    /// The next tick.
    tick: Option<JoinHandle<()>>,
    /// Whether that is one of those that come now and then.
    is_at_rest: bool,
    /// What was last seen of it, written or not.
    observed: (RunState, Vec<Reason>),
    written: Option<(ConsumerStatus, Instant)>,
    /// The tasks of this attempt; a new attempt ends them.
    tasks: JoinSet<()>,
    /// Saves the checkpoint; goes on across attempts, one at a time.
    saving: JoinSet<()>,
    /// Writes the status, likewise.
    writing: JoinSet<()>,
}

enum Mode {
    Loading,
    Paused,
    Waiting(Reason),
    Halted(Vec<Reason>),
    Preparing,
    Running(Pipeline),
    Finishing,
}

pub(crate) struct ConsumerActor;

impl Actor for ConsumerActor {
    type Msg = ConsumerMessage;
    type State = ConsumerState;
    type Arguments = ConsumerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ConsumerMessage>,
        arguments: ConsumerArguments,
    ) -> Result<ConsumerState, ActorProcessingErr> {
        let now = Instant::now();
        let status = WrittenStatus::new(arguments.consumer.id, &arguments.context.documents);
        let mut state = ConsumerState {
            myself,
            arguments,
            mode: Mode::Loading,
            generation: 0,
            progress: None,
            checkpoint: None,
            status: Arc::new(status),
            quarantine: None,
            outage: None,
            trouble: None,
            is_asked_to_retry: false,
            warnings: Vec::new(),
            unsaved: None,
            restarts: Restarts::new(now.into_std()),
            watch: Watch::begin(now),
            ticked_at: now,
            tick: None,
            is_at_rest: false,
            observed: (RunState::Waiting, Vec::new()),
            written: None,
            tasks: JoinSet::new(),
            saving: JoinSet::new(),
            writing: JoinSet::new(),
        };
        state.load();
        state.tick_soon();
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<ConsumerMessage>,
        message: ConsumerMessage,
        state: &mut ConsumerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConsumerMessage::Reconcile(consumer, target_name) => state.reconcile(consumer, target_name),
            ConsumerMessage::TargetAvailable(pool) => state.target_available(pool),
            ConsumerMessage::TargetUnavailable(reason) => state.target_unavailable(reason),
            ConsumerMessage::Drain => state.drain(Then::Stop),
            ConsumerMessage::Tick => state.tick(),
            ConsumerMessage::Saved(saved) => state.saved(saved),
            ConsumerMessage::Happened(generation, happening) if generation == state.generation => match happening {
                Happening::Loaded(loaded) => state.loaded(loaded),
                Happening::StartedOver => state.load(),
                Happening::Counted(quarantine) => state.counted(quarantine),
                Happening::Prepared(prepared) => state.prepared(prepared).await?,
                Happening::VerifiedAgain(findings) => state.verified_again(&findings),
                Happening::Diagnosed(fault, findings) => state.diagnosed(&fault, &findings),
                Happening::PageRead(page) => state.page_read(page),
                Happening::ReadFailed(error) => state.read_failed(&error),
                Happening::Reported(report) => state.reported(report),
                Happening::Measured { lag, beyond_backfill, stream, took } => {
                    state.measured(lag, beyond_backfill, stream, took);
                }
                Happening::Panicked => state.fail(reason::trying_again("a task panicked".into())),
                Happening::RetryDue => state.begin(),
                Happening::DrainDeadline => state.end_drain(),
                Happening::Finished => state.myself.stop(None),
            },
            ConsumerMessage::Happened(..) => {}
        }
        state.rouse();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<ConsumerMessage>,
        event: SupervisionEvent,
        state: &mut ConsumerState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(writer, error) = event
            && state.pipeline().is_some_and(|pipeline| pipeline.has_writer(&writer))
        {
            state.fail(reason::trying_again(format!("a writer failed: {error}")));
        }
        Ok(())
    }
}

impl ConsumerState {
    // What others decide.

    fn reconcile(&mut self, consumer: Arc<Consumer>, target_name: String) {
        self.arguments.target_name = target_name;
        let before = std::mem::replace(&mut self.arguments.consumer, consumer);
        let consumer = &self.arguments.consumer;
        let is_asked_again = consumer.attempt != before.attempt;
        let is_changed = (&consumer.table, consumer.unsupported_text) != (&before.table, before.unsupported_text);
        // What is changed may be what a record in quarantine was waiting for.
        self.is_asked_to_retry |= is_asked_again || is_changed;
        if self.is_ending() {
            return;
        }
        if (&consumer.filter, consumer.rewind) != (&before.filter, before.rewind) {
            return self.begin_elsewhere();
        }
        let should_run = self.should_run();
        match self.mode {
            Mode::Running(_) if self.is_draining() => {}
            Mode::Preparing if should_run && is_changed => self.begin(),
            Mode::Running(_) if !should_run => self.drain(Then::Pause),
            Mode::Waiting(_) | Mode::Halted(_) | Mode::Preparing if !should_run => self.tear_down(Mode::Paused),
            Mode::Paused if should_run => self.begin(),
            Mode::Waiting(_) | Mode::Halted(_) | Mode::Running(_) if is_asked_again || is_changed => self.begin(),
            _ => {}
        }
        if is_asked_again && matches!(self.mode, Mode::Paused | Mode::Waiting(_)) {
            self.count();
        }
    }

    fn should_run(&self) -> bool {
        self.arguments.consumer.desired == Desired::Running
    }

    fn target_available(&mut self, pool: Pool) {
        let before = std::mem::replace(&mut self.arguments.pool, Ok(pool));
        self.outage = before.err().filter(reason::is_outage).or(self.outage.take());
        // A pipeline that is there uses an earlier pool.
        if matches!(self.mode, Mode::Waiting(_) | Mode::Preparing | Mode::Running(_)) && !self.is_draining() {
            self.begin();
        }
    }

    fn target_unavailable(&mut self, reason: Reason) {
        self.arguments.pool = Err(reason.clone());
        match self.mode {
            Mode::Running(_) if self.is_draining() => self.end_drain(),
            Mode::Waiting(_) | Mode::Preparing | Mode::Running(_) => self.tear_down(Mode::Waiting(reason)),
            Mode::Loading | Mode::Paused | Mode::Halted(_) | Mode::Finishing => {}
        }
    }

    // What happens in a pipeline.

    fn page_read(&mut self, page: ReadPage) {
        let Some(pipeline) = self.pipeline() else { return };
        pipeline.take(page);
        self.advance();
    }

    fn reported(&mut self, report: WriterReport) {
        match report {
            WriterReport::Applied { pages, applied, records } => {
                let Some(pipeline) = self.pipeline() else { return };
                let published_at = pipeline.completed(&pages);
                (self.outage, self.trouble) = (None, None);
                let metrics = &self.arguments.metrics;
                metrics.applied(applied);
                if let Some(progress) = &mut self.progress {
                    if progress.run_state() == RunState::Live {
                        metrics.delayed(published_at);
                    }
                    progress.applied(applied, records);
                }
                self.advance();
            }
            WriterReport::Failed(BringError::Apply(ApplyError::Database(fault))) => self.judge(fault),
            WriterReport::Failed(BringError::Apply(error @ ApplyError::Unreadable { .. })) => {
                self.halt(vec![reason::unreadable_record(error.to_string())]);
            }
            WriterReport::Failed(error @ BringError::TooManyRefusals { .. }) => {
                self.halt(vec![reason::quarantine_full(error.to_string())]);
            }
            WriterReport::Failed(BringError::TableAhead(ahead)) => self.table_is_ahead(ahead),
            WriterReport::Failed(BringError::Stream(error)) => self.stream_failed(&error),
            WriterReport::Failed(BringError::WrongTable(findings)) => drop(self.accept(&findings)),
            WriterReport::Failed(error @ BringError::Quarantine(_)) => {
                self.fail(reason::trying_again(error.to_string()));
            }
            WriterReport::Panicked => self.fail(reason::trying_again("a writer panicked".into())),
        }
    }

    /// Takes over what the watermark has reached.
    fn advance(&mut self) {
        let Mode::Running(pipeline) = &self.mode else { return };
        let (reached, is_settled) = (pipeline.reached(), pipeline.is_settled());
        if let Some(progress) = &mut self.progress {
            let was_backfilling = progress.backfill_until().is_some();
            progress.reached(reached, Utc::now());
            self.arguments.metrics.is_saved(progress.is_saved());
            if was_backfilling && progress.backfill_until().is_none() {
                self.watch.measure_soon();
            }
        }
        if is_settled && self.is_draining() {
            self.end_drain();
        }
    }

    // The end of an attempt.

    /// Ends the attempt: its tasks, its writers, and whatever is in flight.
    fn tear_down(&mut self, next: Mode) {
        self.generation += 1;
        self.tasks.abort_all();
        // A measurement that was under way has ended with them, and would be waited for.
        self.watch.measure_soon();
        if let Some(pipeline) = self.pipeline() {
            pipeline.stop();
        }
        self.mode = next;
        self.save();
        self.write_status();
    }

    /// Runs `work` as a task of this attempt, and hears what comes of it.
    fn attempt<H: Into<Option<Happening>> + 'static>(&mut self, work: impl Future<Output = H> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        let (myself, generation) = (self.myself.clone(), self.generation);
        self.tasks.spawn(hear(work, move |happening| tell(&myself, generation, happening)));
    }

    /// Hears `happening` after a while, if the attempt still goes on.
    fn hear_after(&mut self, wait: Duration, happening: Happening) {
        self.attempt(async move {
            tokio::time::sleep(wait).await;
            happening
        });
    }
}

/// Does `work`, and tells what comes of it. A panic would end it without a word.
async fn hear<H: Into<Option<Happening>>>(work: impl Future<Output = H>, tell: impl Fn(Happening)) {
    let heard = AssertUnwindSafe(work).catch_unwind().await.map_or(Some(Happening::Panicked), Into::into);
    if let Some(happening) = heard {
        tell(happening);
    }
}

/// An actor that has stopped needs not be told.
fn tell(consumer: &ActorRef<ConsumerMessage>, generation: u64, happening: Happening) {
    let _ = consumer.cast(ConsumerMessage::Happened(generation, happening));
}
