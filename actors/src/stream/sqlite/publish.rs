//! Publishing: all records of a publication in one transaction, last versions only.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{Published, StreamError},
    position::{block, position},
};
use crate::model::{Idx, Op, Outgoing, Provider, Publication, SyncDescription, SyncId, SyncSeen};

/// What was published.
pub(super) struct Done {
    pub(super) published: Published,
    /// Whether older versions were superseded.
    pub(super) superseded: bool,
}

/// What `latest` was moved to.
struct Moved {
    /// Which records of the publication count now.
    count: Vec<bool>,
    /// Whether older versions were superseded.
    superseded: bool,
    /// How many records were left out.
    left_out: usize,
}

/// What the file holds of providers and syncs, remembered between publications.
#[derive(Default)]
pub(super) struct Known {
    providers: HashMap<Provider, KnownProvider>,
    syncs: HashMap<SyncId, KnownSync>,
}

#[derive(Clone, Copy)]
struct KnownProvider {
    no: i64,
    last_idx: Idx,
}

struct KnownSync {
    no: i64,
    provider: Provider,
    description: SyncDescription,
}

/// How many versions of a block began to count, and how many ceased to.
#[derive(Default)]
struct BlockChange {
    live: i64,
    dead: i64,
}

/// Accepts the publication, or names the record that it can't take, having written nothing.
pub(super) fn publish(
    connection: &Connection,
    known: &mut Known,
    publication: &Publication,
    now: DateTime<Utc>,
) -> rusqlite::Result<Result<Done, StreamError>> {
    let outcome = try_to_publish(connection, known, publication, now);
    if outcome.is_err() {
        // What was remembered on the way is rolled back.
        *known = Known::default();
    }
    outcome
}

fn try_to_publish(
    connection: &Connection,
    known: &mut Known,
    publication: &Publication,
    now: DateTime<Utc>,
) -> rusqlite::Result<Result<Done, StreamError>> {
    let providers: HashSet<&Provider> = publication.syncs().iter().map(|seen| &seen.provider).collect();
    known.check(connection, &providers)?;
    if let Some(refusal) = known.refusal(connection, publication)? {
        return Ok(Err(refusal));
    }
    for provider in providers {
        known.write_provider(connection, provider)?;
    }
    for seen in publication.syncs() {
        known.write_sync(connection, seen)?;
    }
    let positions = known.give_positions(publication);
    let mut blocks = HashMap::new();
    let Moved { count, superseded, left_out } = move_latest(connection, known, publication, &positions, &mut blocks)?;
    append(connection, known, publication, &positions, &count, now, &mut blocks)?;
    write_blocks(connection, blocks)?;
    known.write_last_idx(connection, publication)?;
    let last = positions.last().map_or(Idx::START, |&position| super::position::idx(position));
    Ok(Ok(Done { published: Published { last, left_out }, superseded }))
}

impl Known {
    /// Forgets everything unless the file says the same of these providers.
    ///
    /// Every publication moves `last_idx`. So if the file does not say what is remembered, a publication was rolled
    /// back after it had been remembered, and nothing can be believed.
    fn check(&mut self, connection: &Connection, providers: &HashSet<&Provider>) -> rusqlite::Result<()> {
        let mut select = connection.prepare_cached("SELECT no, last_idx FROM provider WHERE slug = ?1")?;
        let mut found = HashMap::new();
        for provider in providers {
            let row = select
                .query_row([provider.as_str()], |row| Ok(KnownProvider { no: row.get(0)?, last_idx: Idx(row.get(1)?) }))
                .optional()?;
            found.extend(row.map(|row| ((*provider).clone(), row)));
        }
        let is_as_remembered = |provider: &&Provider| {
            let remembered = self.providers.get(*provider).map(|known| known.last_idx);
            remembered.is_none() || remembered == found.get(*provider).map(|found| found.last_idx)
        };
        if !providers.iter().all(is_as_remembered) {
            *self = Self::default();
        }
        self.providers.extend(found);
        Ok(())
    }

    fn write_provider(&mut self, connection: &Connection, provider: &Provider) -> rusqlite::Result<()> {
        if !self.providers.contains_key(provider) {
            connection.execute("INSERT INTO provider(slug, last_idx) VALUES (?1, 0)", [provider.as_str()])?;
            let no = connection.last_insert_rowid();
            self.providers.insert(provider.clone(), KnownProvider { no, last_idx: Idx::START });
        }
        Ok(())
    }

    fn refusal(&mut self, connection: &Connection, publication: &Publication) -> rusqlite::Result<Option<StreamError>> {
        let mut select = connection.prepare_cached(
            "SELECT s.no, p.slug, s.external_id, s.metadata FROM sync s JOIN provider p ON p.no = s.provider WHERE s.id = ?1",
        )?;
        for (number, seen) in publication.syncs().iter().enumerate() {
            if !self.syncs.contains_key(&seen.id) {
                let found = select.query_row([seen.id.0], known_sync).optional()?;
                self.syncs.extend(found.map(|found| (seen.id, found)));
            }
            if let Some(known) = self.syncs.get(&seen.id)
                && known.provider != seen.provider
            {
                let record = publication.records().iter().position(|record| record.sync == number);
                return Ok(Some(StreamError::SyncOfAnotherProvider {
                    record: record.unwrap_or_default(),
                    sync: seen.id,
                    provider: known.provider.clone(),
                }));
            }
        }
        Ok(None)
    }

    fn write_sync(&mut self, connection: &Connection, seen: &SyncSeen) -> rusqlite::Result<()> {
        match (self.syncs.get_mut(&seen.id), &seen.description) {
            (Some(known), Some(description)) if known.description != *description => {
                connection
                    .prepare_cached("UPDATE sync SET external_id = ?2, metadata = ?3 WHERE no = ?1")?
                    .execute(params![known.no, description.external_id, description.metadata])?;
                known.description = description.clone();
            }
            (Some(_), _) => {}
            (None, description) => {
                let undescribed = || SyncDescription { external_id: None, metadata: "{}".into() };
                let description = description.clone().unwrap_or_else(undescribed);
                connection
                    .prepare_cached("INSERT INTO sync(id, provider, external_id, metadata) VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![
                        seen.id.0,
                        self.providers[&seen.provider].no,
                        description.external_id,
                        description.metadata
                    ])?;
                let (no, provider) = (connection.last_insert_rowid(), seen.provider.clone());
                self.syncs.insert(seen.id, KnownSync { no, provider, description });
            }
        }
        Ok(())
    }

    /// Gives each record the next index of its provider's stream.
    fn give_positions(&mut self, publication: &Publication) -> Vec<i64> {
        let syncs = publication.syncs();
        let give = |record: &Outgoing| {
            let provider = &syncs[record.sync].provider;
            let known = self.providers.get_mut(provider).expect("written above");
            known.last_idx = Idx(known.last_idx.0 + 1);
            position(known.no, known.last_idx)
        };
        publication.records().iter().map(give).collect()
    }

    fn write_last_idx(&self, connection: &Connection, publication: &Publication) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached("UPDATE provider SET last_idx = ?2 WHERE no = ?1")?;
        let mut written = Vec::new();
        for seen in publication.syncs() {
            let known = self.providers[&seen.provider];
            if !written.contains(&known.no) {
                update.execute(params![known.no, known.last_idx.as_bigint()])?;
                written.push(known.no);
            }
        }
        Ok(())
    }

    fn sync_no(&self, publication: &Publication, record: &Outgoing) -> i64 {
        self.syncs[&publication.syncs()[record.sync].id].no
    }
}

fn known_sync(row: &rusqlite::Row<'_>) -> rusqlite::Result<KnownSync> {
    let description = SyncDescription { external_id: row.get(2)?, metadata: row.get(3)? };
    Ok(KnownSync { no: row.get(0)?, provider: super::syncs::provider_column(row, 1)?, description })
}

/// Points `latest` at the last version of each record, in the order of its key, and lists what that supersedes.
///
fn move_latest(
    connection: &Connection,
    known: &Known,
    publication: &Publication,
    positions: &[i64],
    blocks: &mut HashMap<i64, BlockChange>,
) -> rusqlite::Result<Moved> {
    let records = publication.records();
    let key = |&number: &usize| (known.sync_no(publication, &records[number]), records[number].sequin_id);
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_cached_key(key);
    let mut select =
        connection.prepare_cached("SELECT position, tombstone FROM latest WHERE sync = ?1 AND record = ?2")?;
    let mut insert =
        connection.prepare_cached("INSERT INTO latest(sync, record, position, tombstone) VALUES (?1, ?2, ?3, ?4)")?;
    let mut update =
        connection.prepare_cached("UPDATE latest SET position = ?3, tombstone = ?4 WHERE sync = ?1 AND record = ?2")?;
    let mut supersede = connection.prepare_cached("INSERT INTO superseded(position) VALUES (?1)")?;
    let mut forget_tombstone = connection.prepare_cached("DELETE FROM tombstone WHERE position = ?1")?;
    let mut moved = Moved { count: vec![false; records.len()], superseded: false, left_out: 0 };
    for versions in order.chunk_by(|a, b| key(a) == key(b)) {
        let &last = versions.last().expect("a chunk is not empty");
        let (sync, sequin_id) = key(&last);
        let is_tombstone = records[last].op == Op::Delete;
        // As bytes: a uuid is copied to the heap when it is bound.
        let record = sequin_id.0.as_bytes().as_slice();
        let values = params![sync, record, positions[last], is_tombstone];
        let older = select.query_row(params![sync, record], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let older: Option<(i64, bool)> = older;
        let counts = older.map(|(position, _)| super::position::idx(position));
        if records[last].replaces.is_some_and(|replaced| counts != Some(replaced)) {
            moved.left_out += 1;
            continue;
        }
        moved.count[last] = true;
        let Some((older, was_tombstone)) = older else {
            insert.execute(values)?;
            continue;
        };
        update.execute(values)?;
        supersede.execute([older])?;
        if was_tombstone {
            forget_tombstone.execute([older])?;
        }
        let change = blocks.entry(block(older)).or_default();
        change.live -= 1;
        change.dead += 1;
        moved.superseded = true;
    }
    Ok(moved)
}

/// Appends the versions that count to the log, in the order in which they came.
fn append(
    connection: &Connection,
    known: &Known,
    publication: &Publication,
    positions: &[i64],
    count: &[bool],
    now: DateTime<Utc>,
    blocks: &mut HashMap<i64, BlockChange>,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO log(position, sync, record, published_at, envelope) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut insert_tombstone = connection.prepare_cached("INSERT INTO tombstone(position, sync) VALUES (?1, ?2)")?;
    let now = now.timestamp_micros();
    let numbered = publication.records().iter().zip(positions).zip(count);
    for ((record, &position), _) in numbered.filter(|(_, counts)| **counts) {
        let sync = known.sync_no(publication, record);
        let sequin_id = record.sequin_id.0.as_bytes().as_slice();
        insert.execute(params![position, sync, sequin_id, now, publication.envelope(record)])?;
        if record.op == Op::Delete {
            insert_tombstone.execute(params![position, sync])?;
        }
        blocks.entry(block(position)).or_default().live += 1;
    }
    Ok(())
}

fn write_blocks(connection: &Connection, blocks: HashMap<i64, BlockChange>) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO block(no, live, dead) VALUES (?1, ?2, ?3)
         ON CONFLICT(no) DO UPDATE SET live = live + excluded.live, dead = dead + excluded.dead",
    )?;
    for (no, change) in blocks {
        upsert.execute(params![no, change.live, change.dead])?;
    }
    Ok(())
}
