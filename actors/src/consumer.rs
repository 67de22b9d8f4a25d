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
//!             Halted <---- wrong table, bad record -------------------+
//! ```

mod faults;
mod pipeline;
mod reporting;

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    flow::{progress::Progress, restarts::Restarts},
    model::{Checkpoint, Consumer, ConsumerStatus, Desired, Lag, Reason, Severity},
    pipeline::{ReadError, ReadPage, load, reason},
    postgres::{ApplyError, Fault, Finding, Pool},
    writer::WriterReport,
};
use {
    pipeline::{Pipeline, Then},
    reporting::TICK,
};

/// What a consumer is told. What belongs to one attempt carries its generation.
pub(crate) enum ConsumerMessage {
    /// This is what it should be now.
    Reconcile(Arc<Consumer>),
    /// The target answers; this is its pool.
    TargetAvailable(Pool),
    /// The target does not answer.
    TargetUnavailable(Reason),
    /// Finish what is in flight, save the checkpoint, and end.
    Drain,
    /// Look at progress.
    Tick,
    /// The checkpoint was saved.
    Saved(Checkpoint),
    /// Something happened in the attempt of this generation.
    Happened(u64, Happening),
}

/// What happens in an attempt.
pub(crate) enum Happening {
    Loaded(Result<Progress, String>),
    Verified(Result<Vec<Finding>, Fault>),
    PageRead(ReadPage),
    ReadFailed(ReadError),
    Reported(WriterReport),
    Measured {
        lag: Lag,
        beyond_backfill: u64,
        took: Duration,
    },
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
    /// `Err` says why the target is not there.
    pub(crate) pool: Result<Pool, Reason>,
    /// Tells the target's actor that the target failed this consumer.
    pub(crate) suspect_target: Box<dyn Fn(Fault) + Send + Sync>,
}

pub(crate) struct ConsumerState {
    myself: ActorRef<ConsumerMessage>,
    arguments: ConsumerArguments,
    mode: Mode,
    generation: u64,
    /// `None` while it is being loaded.
    progress: Option<Progress>,
    restarts: Restarts,
    ticked_at: Instant,
    measure_at: Instant,
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
    Verifying,
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
        let mut state = ConsumerState {
            myself,
            arguments,
            mode: Mode::Loading,
            generation: 0,
            progress: None,
            restarts: Restarts::new(now.into_std()),
            ticked_at: now,
            measure_at: now,
            written: None,
            tasks: JoinSet::new(),
            saving: JoinSet::new(),
            writing: JoinSet::new(),
        };
        state.load();
        state.myself.send_after(TICK, || ConsumerMessage::Tick);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<ConsumerMessage>,
        message: ConsumerMessage,
        state: &mut ConsumerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConsumerMessage::Reconcile(consumer) => state.reconcile(consumer),
            ConsumerMessage::TargetAvailable(pool) => state.target_available(pool),
            ConsumerMessage::TargetUnavailable(reason) => state.target_unavailable(reason),
            ConsumerMessage::Drain => state.drain(Then::Stop),
            ConsumerMessage::Tick => state.tick(),
            ConsumerMessage::Saved(checkpoint) => state.saved(checkpoint),
            ConsumerMessage::Happened(generation, happening) if generation == state.generation => match happening {
                Happening::Loaded(progress) => state.loaded(progress),
                Happening::Verified(findings) => state.verified(findings).await?,
                Happening::PageRead(page) => state.page_read(page),
                Happening::ReadFailed(error) => state.read_failed(&error),
                Happening::Reported(report) => state.reported(report),
                Happening::Measured { lag, beyond_backfill, took } => state.measured(lag, beyond_backfill, took),
                Happening::RetryDue => state.begin(),
                Happening::DrainDeadline => state.end_drain(),
                Happening::Finished => state.myself.stop(None),
            },
            ConsumerMessage::Happened(..) => {}
        }
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
            state.fail(format!("a writer failed: {error}"));
        }
        Ok(())
    }
}

impl ConsumerState {
    // What others decide.

    fn reconcile(&mut self, consumer: Arc<Consumer>) {
        let is_asked_again = consumer.attempt != self.arguments.consumer.attempt;
        self.arguments.consumer = consumer;
        let should_run = self.should_run();
        match self.mode {
            Mode::Running(_) if !should_run && !self.is_draining() => self.drain(Then::Pause),
            Mode::Waiting(_) | Mode::Halted(_) | Mode::Verifying if !should_run => self.tear_down(Mode::Paused),
            Mode::Paused if should_run => self.begin(),
            Mode::Halted(_) if is_asked_again => self.begin(),
            _ => {}
        }
    }

    fn should_run(&self) -> bool {
        self.arguments.consumer.desired == Desired::Running
    }

    fn target_available(&mut self, pool: Pool) {
        self.arguments.pool = Ok(pool);
        // A pipeline that is there uses an earlier pool.
        if matches!(self.mode, Mode::Waiting(_) | Mode::Verifying | Mode::Running(_)) && !self.is_draining() {
            self.begin();
        }
    }

    fn target_unavailable(&mut self, reason: Reason) {
        self.arguments.pool = Err(reason.clone());
        match self.mode {
            Mode::Running(_) if self.is_draining() => self.end_drain(),
            Mode::Waiting(_) | Mode::Verifying | Mode::Running(_) => self.tear_down(Mode::Waiting(reason)),
            Mode::Loading | Mode::Paused | Mode::Halted(_) | Mode::Finishing => {}
        }
    }

    // The way to a running pipeline.

    fn load(&mut self) {
        let (context, consumer) = (Arc::clone(&self.arguments.context), Arc::clone(&self.arguments.consumer));
        self.attempt(async move {
            let loaded = load(&consumer, &context.documents, &*context.stream).await;
            Happening::Loaded(loaded.map_err(|error| error.to_string()))
        });
    }

    fn loaded(&mut self, progress: Result<Progress, String>) {
        match progress {
            Ok(progress) => {
                self.progress = Some(progress);
                self.begin();
            }
            Err(message) => self.fail(message),
        }
    }

    /// Begins an attempt, with what there is to begin with.
    fn begin(&mut self) {
        if self.progress.is_none() {
            self.tear_down(Mode::Loading);
            return self.load();
        }
        if !self.should_run() {
            return self.tear_down(Mode::Paused);
        }
        let pool = match &self.arguments.pool {
            Ok(pool) => pool.clone(),
            Err(reason) => return self.tear_down(Mode::Waiting(reason.clone())),
        };
        self.tear_down(Mode::Verifying);
        self.restarts.started(std::time::Instant::now());
        let table = self.arguments.consumer.table.clone();
        let transactions = self.arguments.transactions.clone();
        self.attempt(async move {
            let verify = async {
                // Those of the pipeline before: dropped, but perhaps not yet gone.
                transactions.wait().await;
                let session = pool.get().await?;
                session.end_strays().await?;
                session.verify(&table).await
            };
            Happening::Verified(verify.await)
        });
    }

    async fn verified(&mut self, findings: Result<Vec<Finding>, Fault>) -> Result<(), SpawnErr> {
        match findings {
            Err(fault) => self.judge(fault),
            Ok(findings) if findings.iter().any(|finding| finding.severity == Severity::Error) => {
                self.halt(findings.iter().map(reason::of_finding).collect());
            }
            Ok(_) => self.run().await?,
        }
        Ok(())
    }

    async fn run(&mut self) -> Result<(), SpawnErr> {
        let (Some(progress), Ok(pool)) = (&self.progress, &self.arguments.pool) else { return Ok(()) };
        let from = progress.checkpoint().idx;
        let (myself, generation) = (self.myself.clone(), self.generation);
        let tell = move |happening| tell(&myself, generation, happening);
        let supervisor = self.myself.get_cell();
        let pipeline = Pipeline::start(&self.arguments, pool, from, tell, supervisor, &mut self.tasks).await?;
        self.mode = Mode::Running(pipeline);
        tracing::info!(consumer = %self.arguments.consumer.name, %from, "running");
        self.advance();
        self.write_status();
        Ok(())
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
                pipeline.completed(&pages);
                if let Some(progress) = &mut self.progress {
                    progress.applied(applied, records);
                }
                self.advance();
            }
            WriterReport::Failed(ApplyError::Database(fault)) => self.judge(fault),
            WriterReport::Failed(error @ ApplyError::Unreadable { .. }) => {
                self.halt(vec![reason::unreadable_record(error.to_string())]);
            }
            WriterReport::Panicked => self.fail("a writer panicked".into()),
        }
    }

    /// Takes over what the watermark has reached.
    fn advance(&mut self) {
        let Mode::Running(pipeline) = &self.mode else { return };
        let (reached, is_settled) = (pipeline.reached(), pipeline.is_settled());
        if let Some(progress) = &mut self.progress {
            let was_backfilling = progress.backfill_until().is_some();
            progress.reached(reached, Utc::now());
            if was_backfilling && progress.backfill_until().is_none() {
                self.measure_soon();
            }
        }
        if is_settled && self.is_draining() {
            self.end_drain();
        }
    }

    fn pipeline(&mut self) -> Option<&mut Pipeline> {
        match &mut self.mode {
            Mode::Running(pipeline) => Some(pipeline),
            _ => None,
        }
    }

    // The end of an attempt.

    /// Ends the attempt: its tasks, its writers, and whatever is in flight.
    fn tear_down(&mut self, next: Mode) {
        self.generation += 1;
        self.tasks.abort_all();
        if let Some(pipeline) = self.pipeline() {
            pipeline.stop();
        }
        self.mode = next;
        self.save();
        self.write_status();
    }

    /// Runs `work` as a task of this attempt, and hears what comes of it.
    fn attempt(&mut self, work: impl Future<Output = Happening> + Send + 'static) {
        let (myself, generation) = (self.myself.clone(), self.generation);
        self.tasks.spawn(async move { tell(&myself, generation, work.await) });
    }

    /// Hears `happening` after a while, if the attempt still goes on.
    fn hear_after(&mut self, wait: Duration, happening: Happening) {
        self.attempt(async move {
            tokio::time::sleep(wait).await;
            happening
        });
    }

    fn drain(&mut self, then: Then) {
        match self.pipeline() {
            Some(pipeline) => {
                pipeline.drain(then);
                let deadline = self.arguments.context.settings.drain_deadline;
                self.hear_after(deadline, Happening::DrainDeadline);
                self.advance();
            }
            None if then == Then::Stop => self.finish(),
            None => {}
        }
    }

    fn is_draining(&self) -> bool {
        matches!(&self.mode, Mode::Running(pipeline) if pipeline.drains_to().is_some())
    }

    fn end_drain(&mut self) {
        match self.pipeline().and_then(|pipeline| pipeline.drains_to()) {
            Some(Then::Stop) => self.finish(),
            // Resumed while it drained, it begins again.
            Some(Then::Pause) => self.begin(),
            None => {}
        }
    }
}

/// An actor that has stopped needs not be told.
fn tell(consumer: &ActorRef<ConsumerMessage>, generation: u64, happening: Happening) {
    let _ = consumer.cast(ConsumerMessage::Happened(generation, happening));
}
