//! A pipeline: one run of a consumer, from its checkpoint on.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use chrono::{DateTime, Utc};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::{
    sync::Mutex,
    task::{AbortHandle, JoinSet},
};

use super::{ConsumerArguments, Doubt, Happening, hear};
use crate::{
    flow::{budget::Budget, coalesce::PageOfPart, watermark::Watermark},
    model::Idx,
    pipeline::{Bringing, Quarantine, ReadPage, Reading},
    postgres::Pool,
    spans::Applying,
    writer::{MAX_ROWS, WriterActor, WriterArguments, WriterMessage},
};

/// A reader, its writers, and the watermark between them.
pub(super) struct Pipeline {
    writers: Vec<ActorRef<WriterMessage>>,
    watermark: Watermark,
    reader: AbortHandle,
    bringing: Arc<Bringing>,
    /// How often something was read or applied.
    moves: u64,
    /// What comes once nothing is in flight, if it reads no more.
    drains_to: Option<Then>,
}

/// What comes after a drain.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Then {
    Pause,
    Stop,
}

impl Pipeline {
    /// Starts a pipeline, from its end to its beginning. What happens in it is told to `tell`.
    pub(super) async fn start(
        arguments: &ConsumerArguments,
        pool: &Pool,
        quarantine: &Arc<Quarantine>,
        from: Idx,
        tell: impl Fn(Happening) + Clone + Send + Sync + 'static,
        supervisor: ActorCell,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, SpawnErr> {
        let ConsumerArguments { context, consumer, target_name, transactions, tell_target, pace, metrics, .. } =
            arguments;
        let tell_target = Arc::clone(tell_target);
        let bringing = Arc::new(Bringing {
            pool: pool.clone(),
            pace: Arc::clone(pace),
            stream: Arc::clone(&context.stream),
            table: consumer.table.clone(),
            unsupported_text: consumer.unsupported_text,
            quarantine: Arc::clone(quarantine),
            is_slow: Box::new(move || tell_target(Doubt::Slow)),
            attempts: AtomicU64::new(0),
            largest_part: AtomicUsize::new(MAX_ROWS),
            queue: Mutex::new(()),
            verified_at: Mutex::new(None),
            shown: Applying::of(consumer, target_name),
            metrics: Arc::clone(metrics),
        });
        let mut writers = Vec::new();
        for _ in 0..context.settings.writers {
            let tell = tell.clone();
            let arguments = WriterArguments {
                bringing: Arc::clone(&bringing),
                transactions: transactions.clone(),
                report: Box::new(move |report| tell(Happening::Reported(report))),
            };
            let (writer, _) = WriterActor::spawn_linked(None, WriterActor, arguments, supervisor.clone()).await?;
            writers.push(writer);
        }
        let reading = Reading {
            stream: Arc::clone(&context.stream),
            reader: context.stream.reader(&consumer.filter, from),
            read_to: from,
            quarantine: Arc::clone(quarantine),
            budget: Budget::new(
                context.budget.clone(),
                consumer.target,
                consumer.id,
                context.settings.consumer_budget_bytes,
            )
            .telling(metrics.blocked()),
            writers: writers.len(),
            metrics: Arc::clone(metrics),
        };
        let tell_page = tell.clone();
        let read = async move {
            let Err(error) = reading.run(|page| tell_page(Happening::PageRead(page))).await;
            Happening::ReadFailed(error)
        };
        let reader = tasks.spawn(hear(read, tell));
        let watermark = Watermark::starting_at(from);
        Ok(Self { writers, watermark, reader, bringing, moves: 0, drains_to: None })
    }

    /// Sends a page's parts on to their writers.
    pub(super) fn take(&mut self, page: ReadPage) {
        self.watermark.opened(page.read_to, page.parts.len());
        self.moves += 1;
        for (writer, part) in page.parts {
            // A writer that has failed has said so.
            let _ = self.writers[writer].cast(WriterMessage::Apply(part));
        }
    }

    /// Parts of these pages are committed. Returns when those were published of which that was the last part.
    pub(super) fn completed(&mut self, pages: &[PageOfPart]) -> Vec<DateTime<Utc>> {
        self.moves += 1;
        let completed = pages.iter().filter(|page| self.watermark.completed(page.number));
        completed.filter_map(|page| page.published_at).collect()
    }

    /// Everything up to here is in the table.
    pub(super) fn reached(&self) -> Idx {
        self.watermark.reached()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_settled(&self) -> bool {
        self.watermark.is_settled()
    }

    /// How often something was read, applied or tried.
    pub(super) fn moves(&self) -> u64 {
        self.moves + self.bringing.attempts.load(Ordering::Relaxed)
    }

    pub(super) fn has_writer(&self, actor: &ActorCell) -> bool {
        self.writers.iter().any(|writer| writer.get_id() == actor.get_id())
    }

    /// Reads no more, and finishes what is in flight.
    pub(super) fn drain(&mut self, then: Then) {
        self.reader.abort();
        self.drains_to = Some(then);
    }

    pub(super) fn drains_to(&self) -> Option<Then> {
        self.drains_to
    }

    /// Ends it, with whatever is in flight.
    pub(super) fn stop(&self) {
        self.reader.abort();
        for writer in &self.writers {
            writer.stop(None);
        }
    }
}
