//! A writer: one partition of a consumer's records.
//!
//! It takes parts of pages, in order, and has one transaction under way at a time. What arrives meanwhile gathers and
//! goes together in the next: so a batch is small and quick when little happens, and large when the consumer is behind.
//! Each batch ends in a report to the consumer. After a failure the writer does nothing more: the consumer tears
//! the pipeline down.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::{
    flow::coalesce::{Batch, PageOfPart, Part},
    model::Applied,
    pipeline::{BringError, Bringing},
    spans::ErrorType,
};

/// How many rows one transaction takes: enough to make its fixed cost small, few enough to keep its locks short.
pub(crate) const MAX_ROWS: usize = 5000;

/// What a writer is told.
pub(crate) enum WriterMessage {
    /// Bring this part of a page, after those that came before.
    Apply(Part),
    /// The transaction under way has ended.
    Ended(WriterReport),
}

/// What a writer tells its consumer.
pub(crate) enum WriterReport {
    /// These pages' parts are committed.
    Applied { pages: Vec<PageOfPart>, applied: Applied, records: u64 },
    /// A batch could not be brought, or not all of it.
    Failed(BringError),
    /// A transaction ended in a panic.
    Panicked,
}

pub(crate) struct WriterArguments {
    pub(crate) bringing: Arc<Bringing>,
    /// Knows of every transaction that is under way.
    pub(crate) transactions: TaskTracker,
    pub(crate) report: Box<dyn Fn(WriterReport) + Send + Sync>,
}

pub(crate) struct WriterState {
    arguments: WriterArguments,
    queue: VecDeque<Part>,
    phase: Phase,
    /// Holds the transaction under way; dropping it rolls that back.
    transaction: JoinSet<()>,
}

#[derive(PartialEq)]
enum Phase {
    Idle,
    Busy,
    Failed,
}

pub(crate) struct WriterActor;

impl Actor for WriterActor {
    type Msg = WriterMessage;
    type State = WriterState;
    type Arguments = WriterArguments;

    async fn pre_start(
        &self,
        _: ActorRef<WriterMessage>,
        arguments: WriterArguments,
    ) -> Result<WriterState, ActorProcessingErr> {
        Ok(WriterState { arguments, queue: VecDeque::new(), phase: Phase::Idle, transaction: JoinSet::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<WriterMessage>,
        message: WriterMessage,
        state: &mut WriterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WriterMessage::Apply(part) => state.queue.push_back(part),
            WriterMessage::Ended(report) => state.ended(report),
        }
        state.begin_next(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<WriterMessage>,
        _: SupervisionEvent,
        _: &mut WriterState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl WriterState {
    fn ended(&mut self, report: WriterReport) {
        self.phase = match report {
            WriterReport::Applied { .. } => Phase::Idle,
            WriterReport::Failed(_) | WriterReport::Panicked => Phase::Failed,
        };
        (self.arguments.report)(report);
    }

    fn begin_next(&mut self, myself: &ActorRef<WriterMessage>) {
        if self.phase != Phase::Idle || self.queue.is_empty() {
            return;
        }
        self.phase = Phase::Busy;
        while self.transaction.try_join_next().is_some() {}
        let mut batch = Batch::coalesce(self.next_parts());
        let (bringing, myself) = (Arc::clone(&self.arguments.bringing), myself.clone());
        let transaction = async move {
            let (records, began) = (batch.len(), Instant::now());
            let brought = AssertUnwindSafe(bringing.bring(&mut batch)).catch_unwind().await;
            let error = match &brought {
                Ok(brought) => brought.as_ref().err().map(ErrorType::error_type),
                Err(_) => Some("panic"),
            };
            bringing.metrics.brought(records, began.elapsed(), error);
            let report = match brought {
                Ok(Ok(applied)) => {
                    WriterReport::Applied { pages: batch.pages().collect(), applied, records: records as u64 }
                }
                Ok(Err(error)) => WriterReport::Failed(error),
                Err(_) => WriterReport::Panicked,
            };
            // The batch's bytes are free before anybody hears of it. A writer that has stopped needs no report.
            drop(batch);
            let _ = myself.cast(WriterMessage::Ended(report));
        };
        self.transaction.spawn(self.arguments.transactions.track_future(transaction));
    }

    /// As many waiting parts as one transaction takes, and at least one.
    fn next_parts(&mut self) -> Vec<Part> {
        let mut rows = 0;
        let mut parts = Vec::new();
        while let Some(part) = self.queue.front()
            && (parts.is_empty() || rows + part.rows.len() <= MAX_ROWS)
        {
            rows += part.rows.len();
            parts.extend(self.queue.pop_front());
        }
        parts
    }
}
