//! A checkpoint: where a consumer's pipeline goes on.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Applied, Consumer, Filter, Idx, SequinId, StreamId};

/// How far a backfill is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// It ends here: where the stream ended when the consumer was started.
    pub until: Idx,
    /// How many records matched then.
    pub total: u64,
    /// How many of them were brought, or have been replaced by newer versions since.
    pub done: u64,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a pipeline needs to go on where the last one ended. Written after the commit, never before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Everything up to here is in the table.
    pub idx: Idx,
    /// What was applied since the first start.
    pub applied: Applied,
    /// How far the backfill is; `None` before the first start.
    pub backfill: Option<Backfill>,
    /// The table that it was brought to; `None` before the first start.
    #[serde(default)]
    pub table: Option<TableId>,
    /// Which records were brought; `None` before the first start.
    #[serde(default)]
    pub filter: Option<Filter>,
    /// What is in quarantine is of records that were forwarded before, and is still to be cleared.
    #[serde(default)]
    pub clears_quarantine: bool,
    /// How many of the consumer's rewinds were obeyed.
    #[serde(default)]
    pub rewinds: u64,
    /// The stream that `idx` is a position of; `None` before there was one, and in what earlier versions of this program
    /// wrote.
    #[serde(default)]
    pub stream: Option<StreamId>,
    /// Where that stream was once found to end, short of `idx`. What is published then takes positions that were read
    /// already, so it is remembered, however far the stream gets.
    #[serde(default)]
    pub went_back_to: Option<Idx>,
    /// What once showed that the table was brought from a later state of that stream. Remembered likewise: the stream gets
    /// past that row, too.
    #[serde(default)]
    pub row_ahead: Option<RowAhead>,
}

/// A row of the table that is newer than the last version of its record in the stream. Each version was in the stream
/// before it was in a table, and only newer ones take its place there: so the stream has gone back since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowAhead {
    /// The record.
    pub record: SequinId,
    /// The version that the row holds.
    pub row: Idx,
    /// The last version that the stream holds.
    pub last: Idx,
}

/// Why a checkpoint does not say where to go on in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Astray {
    /// It is a position of another stream than the one that is there, if any is.
    #[error("the record stream is not the one that was read up to {checkpoint}: that one was deleted or replaced")]
    Replaced {
        /// Where the consumer was in that one.
        checkpoint: Idx,
    },
    /// The stream is an earlier state of itself.
    #[error("the record stream ended at {head}, but was read up to {checkpoint}: it went back")]
    WentBack {
        /// Where the consumer was.
        checkpoint: Idx,
        /// The last position that the stream had given when that was found.
        head: Idx,
    },
    /// Checkpoint and stream are both earlier states of themselves, and the table is not.
    #[error(
        "the table has rows that are newer than the record stream: that of record {} is of {}, and the last version in the \
         stream of {}; the stream went back", ahead.record, ahead.row, ahead.last
    )]
    TableAhead {
        /// Such a row.
        ahead: RowAhead,
    },
}

impl Checkpoint {
    /// Where the consumer goes on from here: further back if it should forward other records than so far, or was told to
    /// read again. What the table holds already stays as it is.
    #[must_use]
    pub fn going_on_for(self, consumer: &Consumer) -> Self {
        let brings_others = self.filter.as_ref().is_some_and(|filter| *filter != consumer.filter);
        let is_rewound = self.rewinds < consumer.rewind.number;
        let (filter, rewinds) = (Some(consumer.filter.clone()), consumer.rewind.number);
        let from = if brings_others {
            let anywhere = Self { stream: None, went_back_to: None, row_ahead: None, ..self };
            Self { idx: Idx::START, backfill: None, clears_quarantine: true, ..anywhere }
        } else if is_rewound {
            let idx = consumer.rewind.to.min(self.idx);
            Self { idx, backfill: None, went_back_to: None, row_ahead: None, ..self }
        } else {
            self
        };
        Self { filter, rewinds, ..from }
    }

    /// Where to go on in the stream that is there now and has given positions up to `head`; `is_rewound` if somebody who
    /// knows how things are has said where to begin since.
    ///
    /// What says so of another stream begins at the start of this one: its positions are nowhere there.
    #[must_use]
    pub fn going_on_in(self, present: Option<StreamId>, head: Idx, is_rewound: bool) -> Self {
        let is_replaced = self.stream.is_some() && self.stream != present;
        let from = match is_replaced {
            true if is_rewound => Self { idx: Idx::START, backfill: None, stream: present, ..self },
            true => return self,
            false => Self { stream: present, ..self },
        };
        let went_back_to = from.went_back_to.or((from.idx > head).then_some(head));
        Self { went_back_to, ..from }
    }

    /// Why it does not say where to go on in the stream that is there now, if it does not.
    pub fn astray_in(&self, present: Option<StreamId>) -> Option<Astray> {
        let checkpoint = self.idx;
        let is_replaced = self.stream.is_some() && self.stream != present;
        let went_back = self.went_back_to.map(|head| Astray::WentBack { checkpoint, head });
        let table_ahead = self.row_ahead.map(|ahead| Astray::TableAhead { ahead });
        if is_replaced { Some(Astray::Replaced { checkpoint }) } else { went_back.or(table_ahead) }
    }
}

/// A table as the server knows it: one that is dropped and made again is another, which holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableId {
    /// The server's system identifier, where we may see it: restored from a dump, another server may have the same numbers.
    #[serde(default)]
    pub system: Option<i64>,
    /// The database's object identifier.
    pub database: u32,
    /// The table's.
    pub relation: u32,
}

impl TableId {
    /// Whether it is the same table, as far as is known.
    pub fn is(self, other: Self) -> bool {
        let is_same_system = self.system.zip(other.system).is_none_or(|(one, another)| one == another);
        is_same_system && (self.database, self.relation) == (other.database, other.relation)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{ConsumerId, Desired, Metadata, Rewind, SyncId, TableName, TargetId, UnsupportedText};

    fn consumer(filter: Filter) -> Consumer {
        Consumer {
            id: ConsumerId::generate(),
            name: "c".into(),
            target: TargetId::generate(),
            filter,
            table: TableName { schema: "s".into(), table: "t".into() },
            unsupported_text: UnsupportedText::default(),
            lag_threshold_seconds: 300,
            lag_threshold_records: None,
            metadata: Metadata::new(),
            desired: Desired::Running,
            attempt: 0,
            rewind: Rewind::default(),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn who_should_forward_others_begins_at_the_start_and_who_is_rewound_goes_back_once() {
        let of_sync = |number| Filter::Sync(SyncId(Uuid::from_u128(number)));
        let mut consumer = consumer(of_sync(1));
        let backfill =
            Backfill { until: Idx(9), total: 9, done: 9, started_at: DateTime::UNIX_EPOCH, finished_at: None };
        let saved = Checkpoint { idx: Idx(100), backfill: Some(backfill), ..Checkpoint::default() };
        let goes_on = |checkpoint: Checkpoint, consumer: &Consumer| checkpoint.going_on_for(consumer);
        let first = goes_on(saved, &consumer);
        assert_eq!((first.idx, first.backfill.is_some(), &first.filter), (Idx(100), true, &Some(of_sync(1))));
        assert_eq!(goes_on(first.clone(), &consumer), first);

        consumer.rewind = Rewind { number: 1, to: Idx(40) };
        let rewound = goes_on(first.clone(), &consumer);
        assert_eq!((rewound.idx, rewound.backfill.is_some(), rewound.rewinds), (Idx(40), false, 1));
        assert_eq!(goes_on(Checkpoint { idx: Idx(70), ..rewound }, &consumer).idx, Idx(70), "it was rewound once");
        consumer.rewind = Rewind { number: 2, to: Idx(400) };
        assert_eq!(goes_on(first.clone(), &consumer).idx, Idx(100), "nothing is passed over");

        consumer.filter = of_sync(2);
        let of_stream = Checkpoint { stream: Some(stream(1)), went_back_to: Some(Idx(7)), ..first };
        let others = goes_on(of_stream, &consumer);
        assert!(others.clears_quarantine);
        assert_eq!((others.idx, others.backfill, others.filter), (Idx::START, None, Some(of_sync(2))));
        assert_eq!((others.stream, others.went_back_to), (None, None));
    }

    fn stream(number: u128) -> StreamId {
        StreamId(Uuid::from_u128(number))
    }

    #[test]
    fn what_does_not_know_its_stream_takes_the_one_that_is_there_and_what_does_goes_on_in_no_other() {
        let here = Some(stream(1));
        let saved = Checkpoint { idx: Idx(40), ..Checkpoint::default() };
        let known = saved.going_on_in(here, Idx(50), false);
        assert_eq!((known.idx, known.stream, known.astray_in(here)), (Idx(40), here, None));
        for present in [Some(stream(2)), None] {
            let astray = known.clone().going_on_in(present, Idx(50), false);
            assert_eq!(astray.astray_in(present), Some(Astray::Replaced { checkpoint: Idx(40) }));
            assert_eq!(astray, known, "and stays as it was");
            let rewound = known.clone().going_on_in(present, Idx(50), true);
            assert_eq!((rewound.idx, rewound.stream, rewound.astray_in(present)), (Idx::START, present, None));
        }
    }

    #[test]
    fn a_stream_that_went_back_is_not_read_however_far_it_gets_until_somebody_says_from_where() {
        let here = Some(stream(1));
        let saved = Checkpoint { idx: Idx(40), stream: here, ..Checkpoint::default() };
        let found = saved.going_on_in(here, Idx(30), false);
        let went_back = Some(Astray::WentBack { checkpoint: Idx(40), head: Idx(30) });
        assert_eq!(found.astray_in(here), went_back);
        let later = found.going_on_in(here, Idx(90), false);
        assert_eq!(later.astray_in(here), went_back);
        let told = Checkpoint { idx: Idx(35), went_back_to: None, ..later };
        let still = told.clone().going_on_in(here, Idx(30), true);
        assert_eq!(still.astray_in(here), Some(Astray::WentBack { checkpoint: Idx(35), head: Idx(30) }));
        assert_eq!(told.going_on_in(here, Idx(90), true).astray_in(here), None);
    }

    #[test]
    fn a_table_that_is_ahead_of_its_stream_is_remembered_until_somebody_says_from_where_to_read() {
        let here = Some(stream(1));
        let ahead = RowAhead { record: SequinId(Uuid::from_u128(1)), row: Idx(60), last: Idx(41) };
        let found = Checkpoint { idx: Idx(40), stream: here, row_ahead: Some(ahead), ..Checkpoint::default() };
        let later = found.clone().going_on_in(here, Idx(90), false);
        assert_eq!(later.astray_in(here), Some(Astray::TableAhead { ahead }));
        let mut consumer = consumer(Filter::Sync(SyncId(Uuid::from_u128(1))));
        assert_eq!(later.clone().going_on_for(&consumer).astray_in(here), Some(Astray::TableAhead { ahead }));
        consumer.rewind = Rewind { number: 1, to: Idx::START };
        assert_eq!(later.going_on_for(&consumer).astray_in(here), None);
    }
}
