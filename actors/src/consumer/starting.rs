//! The way to a running pipeline: where to go on, whether the table is as it should be, what is in quarantine.

use std::{sync::Arc, time::Duration};

use opentelemetry::KeyValue;
use ractor::SpawnErr;
use tokio::time::{Instant, sleep};

use super::{ConsumerArguments, ConsumerState, Happening, Mode, pipeline::Pipeline, tell};
use crate::{
    context::Context,
    model::{Checkpoint, Severity},
    pipeline::{LoadError, Loaded, Preparation, PrepareError, Prepared, Quarantine, load, reason},
    postgres::Finding,
    spans::{Work, of_consumer},
};

/// For how long a stream must end short of the checkpoint, whenever it is asked, before it counts as gone back.
const SURE_AFTER: Duration = Duration::from_secs(10);

/// How long to wait before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl ConsumerState {
    pub(super) fn load(&mut self) {
        let (context, consumer) = (Arc::clone(&self.arguments.context), Arc::clone(&self.arguments.consumer));
        let (earlier, saves) = (self.arguments.transactions.clone(), self.saves());
        let (name, attributes) = self.shown("load");
        self.attempt(async move {
            saves.await;
            let Context { documents, stream, settings, turns, .. } = &*context;
            let began = Instant::now();
            loop {
                let is_sure = began.elapsed() >= SURE_AFTER;
                let load = async {
                    let span = Work::begin(name.clone(), attributes.clone());
                    let load = load(&consumer, documents, &**stream, settings.refusal_limit, &earlier, is_sure);
                    span.run(load).await
                };
                match turns.take(Box::pin(load)).await {
                    Err(error @ LoadError::WentBack { .. }) => {
                        tracing::info!(consumer = %consumer.name, %error, "and is asked again");
                        sleep(ASK_AGAIN).await;
                    }
                    loaded => return Happening::Loaded(loaded),
                }
            }
        });
    }

    pub(super) fn loaded(&mut self, loaded: Result<Loaded, LoadError>) {
        match loaded {
            Ok(Loaded { progress, checkpoint, quarantine }) => {
                let astray = progress.astray();
                self.progress = Some(*progress);
                self.checkpoint = Some(checkpoint);
                self.unsaved = None;
                self.quarantine = Some(quarantine);
                match astray {
                    Some(astray) => self.halt(vec![reason::astray(astray, &self.arguments.consumer)]),
                    None => self.begin(),
                }
            }
            Err(error) => self.fail(reason::trying_again(error.to_string())),
        }
    }

    /// Begins an attempt, with what there is to begin with.
    pub(super) fn begin(&mut self) {
        // One that is astray looks whether it has been helped.
        let is_astray = self.progress.as_ref().is_none_or(|progress| progress.astray().is_some());
        if is_astray || self.checkpoint.is_none() {
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
        self.tear_down(Mode::Preparing);
        self.restarts.started(std::time::Instant::now());
        let ConsumerArguments { context, consumer, transactions, turns, .. } = &self.arguments;
        let earlier = transactions.clone();
        let preparation = Preparation {
            pool,
            table: consumer.table.clone(),
            consumer: consumer.id,
            documents: context.documents.clone(),
            refusal_limit: context.settings.refusal_limit,
        };
        let (context, turns) = (Arc::clone(context), turns.clone());
        let (name, attributes) = self.shown("prepare");
        self.attempt(async move {
            let prepare = async { Work::begin(name, attributes).run(preparation.prepare(earlier)).await };
            let prepare = Box::pin(turns.take(prepare));
            Happening::Prepared(context.turns.take(prepare).await)
        });
    }

    /// What it does is called so in traces.
    pub(super) fn shown(&self, what: &str) -> (String, Vec<KeyValue>) {
        let ConsumerArguments { consumer, target_name, .. } = &self.arguments;
        (format!("{what} {}", consumer.name), of_consumer(&consumer.name, target_name))
    }

    pub(super) async fn prepared(&mut self, prepared: Result<Prepared, PrepareError>) -> Result<(), SpawnErr> {
        match prepared {
            Err(PrepareError::Database(fault)) => self.judge(fault),
            Err(PrepareError::Documents(error)) => self.fail(reason::trying_again(error.to_string())),
            Ok(Prepared { findings, table, quarantine }) => {
                self.quarantine = Some(Arc::clone(&quarantine));
                if self.accept(&findings) {
                    let again = table.zip(self.progress.as_mut()).and_then(|(table, progress)| progress.goes_to(table));
                    match again {
                        Some(from_the_start) => self.start_over(from_the_start),
                        None => self.run(&quarantine).await?,
                    }
                }
            }
        }
        Ok(())
    }

    /// What is saved says nothing of what it should bring now.
    pub(super) fn begin_elsewhere(&mut self) {
        self.forget_progress();
        self.load();
    }

    /// Ends the attempt, and saves no more of where that was.
    fn forget_progress(&mut self) {
        self.progress = None;
        self.tear_down(Mode::Loading);
    }

    /// It is another table than so far, which gets everything.
    fn start_over(&mut self, from_the_start: Checkpoint) {
        tracing::warn!(consumer = %self.arguments.consumer.name, "the table is another than before, and is backfilled");
        // What the former one refused is passed over by the backfill.
        self.is_asked_to_retry = true;
        self.forget_progress();
        let Some(checkpoint) = self.checkpoint.clone() else { return self.load() };
        let saves = self.saves();
        self.attempt(async move {
            saves.await;
            match checkpoint.write(&from_the_start).await {
                Ok(()) => Happening::StartedOver,
                Err(error) => Happening::Loaded(Err(error.into())),
            }
        });
    }

    /// Remembers what may become wrong with the table, and halts if something is.
    pub(super) fn accept(&mut self, findings: &[Finding]) -> bool {
        let mut reasons: Vec<_> = findings.iter().map(reason::of_finding).collect();
        for reason in &mut reasons {
            self.keep_since(reason);
        }
        let (wrong, warnings): (Vec<_>, _) = reasons.into_iter().partition(|reason| reason.severity == Severity::Error);
        self.warnings = warnings;
        let is_accepted = wrong.is_empty();
        if !is_accepted {
            self.halt(wrong);
        }
        is_accepted
    }

    async fn run(&mut self, quarantine: &Arc<Quarantine>) -> Result<(), SpawnErr> {
        let (Some(progress), Ok(pool)) = (&self.progress, &self.arguments.pool) else { return Ok(()) };
        if std::mem::take(&mut self.is_asked_to_retry) {
            quarantine.retry_all();
        }
        let from = progress.checkpoint().idx;
        let (myself, generation) = (self.myself.clone(), self.generation);
        let tell = move |happening| tell(&myself, generation, happening);
        let supervisor = self.myself.get_cell();
        let start = Pipeline::start(&self.arguments, pool, quarantine, from, tell, supervisor, &mut self.tasks);
        self.mode = Mode::Running(start.await?);
        self.watch.started(Instant::now(), &self.arguments.context.settings);
        tracing::info!(consumer = %self.arguments.consumer.name, %from, "running");
        self.advance();
        self.write_status();
        Ok(())
    }
}
