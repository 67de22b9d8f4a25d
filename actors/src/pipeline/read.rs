//! Reading: pages of the stream, split among the writers, never more bytes than the budget has.

use std::{convert::Infallible, sync::Arc};

use crate::{
    flow::{
        budget::Budget,
        coalesce::{PageInFlight, Part, Row},
        partition::partition,
    },
    model::{EnvelopeError, Idx, Page, decode_routing},
    stream::{PageLimit, RecordReader, StreamError},
};

/// One page: large enough that a page costs little, small enough that several are in flight within a budget.
const PAGE: PageLimit = PageLimit { records: 4096, bytes: 2 * 1024 * 1024 };

/// What a record in flight takes beside its envelope, in bytes.
const ROW_BYTES: usize = 128;

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Stream(#[from] StreamError),
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
    pub(crate) reader: Box<dyn RecordReader>,
    pub(crate) budget: Budget,
    pub(crate) writers: usize,
}

impl Reading {
    /// Reads for ever, and hands each page to `deliver`.
    pub(crate) async fn run(mut self, mut deliver: impl FnMut(ReadPage)) -> Result<Infallible, ReadError> {
        let mut page_number = 0;
        loop {
            // Nothing of the budget is held while there is nothing to read.
            self.reader.ready().await?;
            let mut permit = self.budget.take(PAGE.bytes + PAGE.records * ROW_BYTES).await;
            let page = self.reader.read(PAGE).await?;
            permit.shrink_to(page.size() + page.entries().len() * ROW_BYTES);
            let read_to = page.read_to();
            let rows = split(&page, self.writers)?;
            let page = Arc::new(PageInFlight::new(page, permit));
            let parts = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
            let parts = parts.map(|(writer, rows)| (writer, Part { page_number, page: Arc::clone(&page), rows }));
            deliver(ReadPage { read_to, parts: parts.collect() });
            page_number += 1;
        }
    }
}

fn split(page: &Page, writers: usize) -> Result<Vec<Vec<Row>>, ReadError> {
    let mut rows: Vec<Vec<Row>> = (0..writers).map(|_| Vec::new()).collect();
    for (number, entry) in (0u32..).zip(page.entries()) {
        let routing =
            decode_routing(page.envelope(entry)).map_err(|source| ReadError::Unreadable { idx: entry.idx, source })?;
        let (sequin_id, op) = (routing.sequin_id, routing.op());
        rows[partition(sequin_id, writers)].push(Row { sequin_id, idx: entry.idx, op, entry: number });
    }
    Ok(rows)
}
