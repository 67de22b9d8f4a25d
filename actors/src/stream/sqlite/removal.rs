//! Removal: of superseded versions' space, of deleted syncs, of tombstones that everybody has passed.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::passed::Passed,
    position::{block, idx, positions},
    syncs::{provider_column, sync_column},
};
use crate::model::{Provider, SyncId, decode};

/// How many versions one transaction of a sync's removal takes: bounds how long publishers wait for it.
pub(super) const SOME: usize = 2000;

/// Removes what no longer counts from one block in which that is at least half, and says whether there was one.
///
/// So the file is at most about twice what counts, and each row is moved out of the way at most about once.
/// The last block of a stream waits until it holds more than a handful, since it changes with each publication.
pub(super) fn reclaim_a_block(connection: &Connection) -> rusqlite::Result<bool> {
    let found = connection
        .prepare_cached(
            "SELECT no FROM block WHERE dead > 0 AND dead >= live
             AND (dead >= 512 OR no NOT IN (SELECT ((no << 44) | last_idx) >> 12 FROM provider)) LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    let Some(block): Option<i64> = found else {
        return Ok(false);
    };
    let range = [*positions(block).start(), *positions(block).end()];
    connection
        .prepare_cached(
            "DELETE FROM log WHERE position IN (SELECT position FROM superseded WHERE position BETWEEN ?1 AND ?2)",
        )?
        .execute(range)?;
    connection.prepare_cached("DELETE FROM superseded WHERE position BETWEEN ?1 AND ?2")?.execute(range)?;
    connection.prepare_cached("UPDATE block SET dead = 0 WHERE no = ?1")?.execute([block])?;
    connection.prepare_cached("DELETE FROM block WHERE no = ?1 AND live = 0")?.execute([block])?;
    Ok(true)
}

/// The positions from the first to the last that the stream holds of a sync; `None` if it holds nothing.
pub(super) fn extent_of_sync(connection: &Connection, sync: SyncId) -> rusqlite::Result<Option<[i64; 2]>> {
    connection
        .prepare_cached(
            "SELECT min(l.position), max(l.position) FROM sync s JOIN log l ON l.sync = s.no WHERE s.id = ?1",
        )?
        .query_row([sync.0], |row| {
            let (first, last): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(first.zip(last).map(|(first, last)| [first, last]))
        })
}

/// What one step of a removal came to.
pub(super) struct Removed {
    pub(super) removed: u64,
    /// The positions that are still to be looked through.
    pub(super) rest: Option<[i64; 2]>,
}

/// Looks through some of a sync's versions, and removes them, or those of a collection.
pub(super) fn remove_some(
    connection: &Connection,
    sync: SyncId,
    collection: Option<&str>,
    [first, last]: [i64; 2],
) -> rusqlite::Result<Removed> {
    let mut select = connection.prepare_cached(
        "SELECT l.position, l.sync, l.record, l.envelope FROM sync s JOIN log l ON l.sync = s.no
         WHERE s.id = ?1 AND l.position BETWEEN ?2 AND ?3 ORDER BY l.position LIMIT ?4",
    )?;
    let mut rows = select.query(params![sync.0, first, last, SOME])?;
    let (mut versions, mut seen) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let found = version(row)?;
        seen = Some(found.position);
        if is_of(row.get_ref(3)?.as_blob()?, collection) {
            versions.push(found);
        }
    }
    for version in &versions {
        remove(connection, version)?;
    }
    let rest = seen.filter(|&seen| seen < last).map(|seen| [seen + 1, last]);
    Ok(Removed { removed: versions.len() as u64, rest })
}

/// Whether a version is of the collection, if one is named.
fn is_of(envelope: &[u8], collection: Option<&str>) -> bool {
    collection.is_none_or(|collection| decode(envelope).is_ok_and(|record| record.collection_id == collection))
}

impl Tombstone {
    /// Whether every consumer that matches has passed it.
    pub(super) fn is_passed(&self, passed: &Passed) -> bool {
        passed.is_beyond(&self.provider, self.sync, idx(self.version.position))
    }
}

/// The last version of a record that is gone.
#[derive(Clone)]
pub(super) struct Tombstone {
    version: Version,
    provider: Provider,
    sync: SyncId,
}

/// The tombstones published before `before`.
pub(super) fn old_tombstones(connection: &Connection, before: DateTime<Utc>) -> rusqlite::Result<Vec<Tombstone>> {
    // CROSS JOIN keeps SQLite from walking through the whole log to look for them.
    let mut select = connection.prepare_cached(
        "SELECT l.position, l.sync, l.record, s.id, p.slug FROM tombstone t CROSS JOIN log l ON l.position = t.position
         JOIN sync s ON s.no = l.sync JOIN provider p ON p.no = s.provider
         WHERE l.published_at < ?1 ORDER BY t.position",
    )?;
    let tombstones = select.query_map([before.timestamp_micros()], |row| {
        Ok(Tombstone { version: version(row)?, sync: sync_column(row, 3)?, provider: provider_column(row, 4)? })
    })?;
    tombstones.collect()
}

/// Drops the tombstones that are still the last versions of their records.
pub(super) fn drop_tombstones(connection: &Connection, tombstones: &[Tombstone]) -> rusqlite::Result<()> {
    let mut is_last = connection.prepare_cached("SELECT 1 FROM tombstone WHERE position = ?1")?;
    for Tombstone { version, .. } in tombstones {
        if is_last.exists([version.position])? {
            remove(connection, version)?;
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Version {
    position: i64,
    sync: i64,
    record: [u8; 16],
}

fn version(row: &Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version { position: row.get(0)?, sync: row.get(1)?, record: row.get(2)? })
}

/// Removes one version, whether it counts or not, and all that points at it.
fn remove(connection: &Connection, version: &Version) -> rusqlite::Result<()> {
    let &Version { position, sync, record } = version;
    let was_superseded =
        connection.prepare_cached("DELETE FROM superseded WHERE position = ?1")?.execute([position])? > 0;
    let counted_as = if was_superseded { "dead" } else { "live" };
    connection
        .prepare_cached(&format!("UPDATE block SET {counted_as} = {counted_as} - 1 WHERE no = ?1"))?
        .execute([block(position)])?;
    connection
        .prepare_cached("DELETE FROM latest WHERE sync = ?1 AND record = ?2 AND position = ?3")?
        .execute(params![sync, record, position])?;
    connection.prepare_cached("DELETE FROM tombstone WHERE position = ?1")?.execute([position])?;
    connection.prepare_cached("DELETE FROM log WHERE position = ?1")?.execute([position])?;
    Ok(())
}
