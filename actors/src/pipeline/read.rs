//! Reading: pages of the stream, split among the writers, never more bytes than the budget has.

use std::{convert::Infallible, sync::Arc};

use super::quarantine::{Quarantine, Retry};
use crate::{
    flow::{
        budget::{Budget, Permit},
        coalesce::{PageInFlight, Part, Row},
        partition::partition,
    },
    model::{EnvelopeError, Idx, Page, Routing, decode_routing},
    store::DocumentsError,
    stream::{PageLimit, RecordReader, RecordStream, StreamError},
    telemetry::ConsumerMetrics,
};

/// One page: large enough that a page costs little, small enough that several are in flight within a budget.
const PAGE: PageLimit = PageLimit { records: 4096, bytes: 2 * 1024 * 1024 };

/// What a record in flight takes beside its envelope, in bytes.
const ROW_BYTES: usize = 128;

/// What a whole page takes.
const PAGE_BYTES: usize = PAGE.bytes + PAGE.records * ROW_BYTES;

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    #[error("record at {idx}: {source}")]
    Unreadable { idx: Idx, source: EnvelopeError },
}

/// A page that was read, and its parts, each with the number of its writer.
pub(crate) struct ReadPage {
    pub(crate) read_to: Idx,
    pub(crate) parts: Vec<(usize, Part)>,
}

/// What a reading task needs.
pub(crate) struct Reading {
    pub(crate) stream: Arc<dyn RecordStream>,
    pub(crate) reader: Box<dyn RecordReader>,
    /// How far the reader has read.
    pub(crate) read_to: Idx,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) budget: Budget,
    pub(crate) writers: usize,
    pub(crate) metrics: Arc<ConsumerMetrics>,
}

impl Reading {
    /// Reads for ever, and hands each page to `deliver`.
    ///
    /// What is to be tried again comes by the same way, between two pages of the stream: it was the latest version of
    /// its record when it was read, so whatever is newer comes after it.
    pub(crate) async fn run(mut self, mut deliver: impl FnMut(ReadPage)) -> Result<Infallible, ReadError> {
        let (quarantine, metrics) = (Arc::clone(&self.quarantine), Arc::clone(&self.metrics));
        let mut page_number = 0;
        let mut deliver = |read_to, mut page: Page, mut permit: Permit, writers| {
            metrics.read(page.entries().len());
            page.shrink_to_fit();
            permit.shrink_to(page.size() + page.entries().len() * ROW_BYTES);
            let rows = split(&page, writers)?;
            let page = Arc::new(PageInFlight::new(page, permit));
            let parts = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
            let parts = parts.map(|(writer, rows)| (writer, Part { page_number, page: Arc::clone(&page), rows }));
            deliver(ReadPage { read_to, parts: parts.collect() });
            page_number += 1;
            Ok::<_, ReadError>(())
        };
        loop {
            // Nothing of the budget is held while there is nothing to read.
            tokio::select! {
                biased;
                due = quarantine.due() => {
                    let mut due = due.into_iter();
                    while due.len() > 0 {
                        let permit = self.budget.take(PAGE_BYTES).await;
                        let page = read_again(&mut due, &*self.stream, &quarantine, limit(&permit)).await?;
                        deliver(self.read_to, page, permit, self.writers)?;
                    }
                }
                ready = self.reader.ready() => {
                    ready?;
                    let permit = self.budget.take(PAGE_BYTES).await;
                    let page = self.reader.read(limit(&permit)).await?;
                    self.read_to = page.read_to();
                    deliver(self.read_to, page, permit, self.writers)?;
                }
            }
        }
    }
}

/// Reads some of what is `due`, as far as it still counts.
async fn read_again(
    due: &mut impl Iterator<Item = Retry>,
    stream: &dyn RecordStream,
    quarantine: &Quarantine,
    limit: PageLimit,
) -> Result<Page, ReadError> {
    let mut page = Page::default();
    while page.size() < limit.bytes
        && let Some(Retry { sync, record, idx }) = due.next()
    {
        match stream.latest(sync, record).await? {
            Some(version) if version.idx == idx => page.push(idx, &version.envelope),
            Some(_) => quarantine.leave_to_newer(record),
            None => quarantine.forget(record).await?,
        }
    }
    Ok(page)
}

/// A page that takes no more than the permit has.
fn limit(permit: &Permit) -> PageLimit {
    let share = |of_page: usize| (of_page * permit.bytes() / PAGE_BYTES).max(1);
    PageLimit { records: share(PAGE.records), bytes: share(PAGE.bytes) }
}

fn split(page: &Page, writers: usize) -> Result<Vec<Vec<Row>>, ReadError> {
    let mut rows: Vec<Vec<Row>> = (0..writers).map(|_| Vec::new()).collect();
    for (number, entry) in (0u32..).zip(page.entries()) {
        let Routing { op, sequin_id, is_traced } =
            decode_routing(page.envelope(entry)).map_err(|source| ReadError::Unreadable { idx: entry.idx, source })?;
        rows[partition(sequin_id, writers)].push(Row { sequin_id, idx: entry.idx, op, entry: number, is_traced });
    }
    Ok(rows)
}
