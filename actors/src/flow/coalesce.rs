//! Coalescing: of many versions of one record, only the last matters.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::budget::Permit;
use crate::model::{Idx, Op, Page, SequinId};

/// A page in flight, and the bytes of the budget that it holds until the last of its parts is dropped.
#[derive(Debug)]
pub struct PageInFlight {
    page: Page,
    _permit: Permit,
}

/// One version on its way to the table: where its envelope lies, and what a writer needs to sort it in.
#[derive(Clone, Debug)]
pub struct Row {
    /// The record.
    pub sequin_id: SequinId,
    /// The version.
    pub idx: Idx,
    /// What the version does.
    pub op: Op,
    /// Which entry of its page it is.
    pub entry: u32,
    /// Whether its envelope says which span published it.
    pub is_traced: bool,
}

/// The rows of one page that go to one writer.
#[derive(Debug)]
pub struct Part {
    /// The page's number in its pipeline.
    pub page_number: u64,
    /// The page.
    pub page: Arc<PageInFlight>,
    /// The rows, in the order of the stream.
    pub rows: Vec<Row>,
}

/// Which page a part was of.
#[derive(Clone, Copy, Debug)]
pub struct PageOfPart {
    /// Its number in its pipeline.
    pub number: u64,
    /// When its oldest version was published, if that is known.
    pub published_at: Option<DateTime<Utc>>,
}

/// What one transaction brings: the last version of each record of some parts, in the order of the primary key.
#[derive(Debug, Default)]
pub struct Batch {
    parts: Vec<Part>,
    rows: Vec<Chosen>,
}

/// A row of a batch, by itself rather than by its place in its part: sorting looks at each a dozen times.
#[derive(Debug)]
struct Chosen {
    row: Row,
    /// The number of its part.
    part: u32,
}

impl PageInFlight {
    /// Binds the page to its bytes of the budget.
    pub fn new(page: Page, permit: Permit) -> Self {
        Self { page, _permit: permit }
    }
}

impl Part {
    fn envelope(&self, row: &Row) -> &[u8] {
        let page = &self.page.page;
        page.envelope(&page.entries()[row.entry as usize])
    }
}

impl Batch {
    /// Coalesces `parts`, which come from one writer's queue.
    pub fn coalesce(parts: Vec<Part>) -> Self {
        let mut rows = Vec::with_capacity(parts.iter().map(|part| part.rows.len()).sum());
        for (number, part) in (0u32..).zip(&parts) {
            rows.extend(part.rows.iter().map(|row| Chosen { row: row.clone(), part: number }));
        }
        rows.sort_unstable_by(|Chosen { row: a, .. }, Chosen { row: b, .. }| {
            a.sequin_id.cmp(&b.sequin_id).then(b.idx.cmp(&a.idx))
        });
        rows.dedup_by_key(|chosen| chosen.row.sequin_id);
        Self { parts, rows }
    }

    /// The rows, by primary key, each with its envelope.
    pub fn rows(&self) -> impl Iterator<Item = (&Row, &[u8])> {
        (0..self.len()).map(|number| self.row(number))
    }

    /// One of the rows, with its envelope.
    pub fn row(&self, number: usize) -> (&Row, &[u8]) {
        let Chosen { row, part } = &self.rows[number];
        (row, self.parts[*part as usize].envelope(row))
    }

    /// The envelopes of those versions of its parts that are traced, also of those that a later one supersedes.
    pub fn traced(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().flat_map(|part| part.rows.iter().filter(|row| row.is_traced).map(|row| part.envelope(row)))
    }

    /// Leaves out the rows that `keep` does not keep.
    pub fn retain(&mut self, mut keep: impl FnMut(&Row) -> bool) {
        self.rows.retain(|chosen| keep(&chosen.row));
    }

    /// How many records the batch changes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The pages whose parts these were.
    pub fn pages(&self) -> impl Iterator<Item = PageOfPart> {
        self.parts.iter().map(|part| {
            let published_at = part.page.page.published_at();
            PageOfPart { number: part.page_number, published_at }
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        flow::budget::{Budget, NodeBudget},
        model::{ConsumerId, TargetId},
    };

    async fn part(page_number: u64, versions: &[(u128, u64)]) -> Part {
        let (target, consumer) = (TargetId::generate(), ConsumerId::generate());
        let permit = Budget::new(NodeBudget::new(1024), target, consumer, 1024).take(1).await;
        let mut page = Page::default();
        let mut rows = Vec::new();
        for (entry, &(record, idx)) in (0u32..).zip(versions) {
            page.push(Idx(idx), format!("{record}@{idx}").as_bytes());
            rows.push(Row {
                sequin_id: SequinId(Uuid::from_u128(record)),
                idx: Idx(idx),
                op: Op::Upsert,
                entry,
                is_traced: false,
            });
        }
        Part { page_number, page: Arc::new(PageInFlight::new(page, permit)), rows }
    }

    #[tokio::test]
    async fn the_last_version_of_each_record_is_kept_in_the_order_of_the_primary_key() {
        let parts = vec![part(3, &[(9, 1), (2, 2), (9, 3)]).await, part(4, &[(2, 4), (1, 5)]).await];
        let batch = Batch::coalesce(parts);
        let kept: Vec<_> = batch.rows().map(|(_, envelope)| String::from_utf8_lossy(envelope).into_owned()).collect();
        assert_eq!(kept, ["1@5", "2@4", "9@3"]);
        assert_eq!(batch.pages().map(|page| page.number).collect::<Vec<_>>(), [3, 4]);
    }
}
