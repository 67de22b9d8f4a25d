//! A CRM that does not exist: thousands of accounts with contacts, companies and deals, shaped like those of `hubspot`,
//! and the changes that their users go on making.
//!
//! A seed determines everything, times included. Nothing is kept of a record but its number, its version and when it
//! was created (16 bytes): the rest follows from these whenever it is needed.

use chrono::{DateTime, TimeDelta, Utc};

use self::{
    random::{Random, Thing},
    shapes::Snapshot,
};

mod random;
mod shapes;
mod words;

/// The provider whose records these are.
pub const PROVIDER: &str = "hubspot";

/// When the live traffic begins, in seconds since 1970: 2025-01-01T00:00:00Z.
const LIVE_SINCE: i64 = 1_735_689_600;

/// How far back the records reach that exist before it.
const PAST: TimeDelta = TimeDelta::days(3 * 365);

/// How much time passes in the CRM from one change to the next.
const BETWEEN_CHANGES: TimeDelta = TimeDelta::milliseconds(250);

/// How many of a hundred changes create a record.
const CREATES: u64 = 25;

/// How many of a hundred changes delete a record; the rest are updates.
const DELETES: u64 = 10;

/// How many of a hundred creations restore a record that was deleted.
const RESTORATIONS: u64 = 10;

/// What a change does to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The record is new, or restored after a delete.
    Create,
    /// The record is there and changes.
    Update,
    /// The record goes.
    Delete,
}

/// A change of the live traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it does.
    pub kind: ChangeKind,
    /// The record to publish: one line of JSON, without the line's end.
    pub line: String,
}

/// The CRM, which knows the records that it has handed out.
pub struct Crm {
    seed: u64,
    syncs: u32,
    traffic: Random,
    /// How many records were ever created; the next one's number.
    created: u32,
    /// How many changes the live traffic had.
    changes: u64,
    live: Vec<Record>,
    /// The numbers of the deleted ones.
    deleted: Vec<u32>,
}

/// What is kept of a record.
#[derive(Clone, Copy)]
struct Record {
    number: u32,
    version: u32,
    /// The change of the live traffic that created it; 0 for one that was there before.
    created_by: u64,
}

impl Crm {
    /// A CRM without records yet, whose later ones belong to `syncs` accounts, at least one.
    pub fn new(seed: u64, syncs: u32) -> Self {
        let traffic = Random::about(seed, Thing::Traffic, 0);
        Self { seed, syncs: syncs.max(1), traffic, created: 0, changes: 0, live: Vec::new(), deleted: Vec::new() }
    }

    /// How many records there are.
    pub fn live_records(&self) -> usize {
        self.live.len()
    }

    /// Records that were there before the live traffic: `records` lines of JSON, each of a record of its own. The first
    /// are of one sync each, so that all syncs have one. A record exists from when its line is taken.
    ///
    /// # Panics
    ///
    /// With the 4,294,967,296th record.
    pub fn backfill(&mut self, records: u64) -> impl Iterator<Item = String> {
        (0..records).map(|_| {
            let record = self.add(0);
            self.snapshot(record).upsert()
        })
    }

    /// The next change: a quarter creates, one in ten deletes, the rest updates. Updates and deletes are of records
    /// that exist, so that the first change of an empty CRM creates one.
    pub fn next_change(&mut self) -> Change {
        self.changes += 1;
        let draw = self.traffic.below(100);
        if self.live.is_empty() || draw < CREATES {
            self.create()
        } else if draw < CREATES + DELETES {
            self.delete()
        } else {
            self.update()
        }
    }

    fn create(&mut self) -> Change {
        let record = if !self.deleted.is_empty() && self.traffic.chance(RESTORATIONS) {
            let number = self.deleted.swap_remove(self.traffic.index(self.deleted.len()));
            self.keep(number, self.changes)
        } else {
            self.add(self.changes)
        };
        Change { kind: ChangeKind::Create, line: self.snapshot(record).upsert() }
    }

    fn update(&mut self) -> Change {
        let index = self.traffic.index(self.live.len());
        let record = &mut self.live[index];
        record.version = record.version.saturating_add(1);
        let record = *record;
        Change { kind: ChangeKind::Update, line: self.snapshot(record).upsert() }
    }

    fn delete(&mut self) -> Change {
        let record = self.live.swap_remove(self.traffic.index(self.live.len()));
        self.deleted.push(record.number);
        Change { kind: ChangeKind::Delete, line: self.snapshot(record).delete() }
    }

    /// A record that never was.
    fn add(&mut self, created_by: u64) -> Record {
        let number = self.created;
        self.created = number.checked_add(1).expect("a CRM has fewer than 2^32 records");
        self.keep(number, created_by)
    }

    fn keep(&mut self, number: u32, created_by: u64) -> Record {
        let record = Record { number, version: 0, created_by };
        self.live.push(record);
        record
    }

    /// All of a record as it is now.
    fn snapshot(&self, record: Record) -> Snapshot {
        let (created_at, updated_at) = self.times(record);
        let Record { number, version, created_by } = record;
        Snapshot { seed: self.seed, syncs: self.syncs, number, version, grown: created_by == 0, created_at, updated_at }
    }

    /// When a record was created and last changed.
    fn times(&self, record: Record) -> (DateTime<Utc>, DateTime<Utc>) {
        let created_at = match record.created_by {
            0 => {
                let mut past = Random::about(self.seed, Thing::Past, record.number.into());
                let age = past.span(PAST);
                let created_at = time_of(0) - age;
                if record.version == 0 {
                    return (created_at, created_at + past.span(age));
                }
                created_at
            }
            change => time_of(change),
        };
        (created_at, if record.version == 0 { created_at } else { time_of(self.changes) })
    }
}

/// When a change of the live traffic happens.
fn time_of(change: u64) -> DateTime<Utc> {
    let since = BETWEEN_CHANGES.num_milliseconds().saturating_mul(change.cast_signed());
    DateTime::from_timestamp(LIVE_SINCE, 0).expect("a time of our century") + TimeDelta::milliseconds(since)
}

#[cfg(test)]
mod tests;
