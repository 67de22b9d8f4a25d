//! Removal: of superseded versions' space, of deleted syncs, of tombstones that everybody has passed.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    position::{block, idx, positions},
    syncs::{provider_column, sync_column},
};
use crate::model::{Filter, Idx, SyncId};

/// How many versions one transaction of a sync's removal takes: bounds how long publishers wait for it.
const SOME: usize = 2000;

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

/// The last position that the stream holds of a sync; `None` if it holds nothing.
pub(super) fn end_of_sync(connection: &Connection, sync: SyncId) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT (SELECT max(l.position) FROM log l WHERE l.sync = s.no) FROM sync s WHERE s.id = ?1")?
        .query_row([sync.0], |row| row.get(0))
        .optional()
        .map(Option::flatten)
}

/// Removes some of a sync's versions up to position `end`, and says how many.
pub(super) fn remove_some(connection: &Connection, sync: SyncId, end: i64) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(
        "SELECT l.position, l.sync, l.record FROM sync s JOIN log l ON l.sync = s.no
         WHERE s.id = ?1 AND l.position <= ?2 ORDER BY l.position LIMIT ?3",
    )?;
    let versions = select
        .query_map(params![sync.0, end, SOME], |row| {
            Ok(Version { position: row.get(0)?, sync: row.get(1)?, record: row.get(2)? })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for version in &versions {
        remove(connection, version)?;
    }
    Ok(versions.len() as u64)
}

/// Drops the tombstones published before `before` that every matching consumer has passed.
pub(super) fn drop_tombstones(
    connection: &Connection,
    before: DateTime<Utc>,
    passed: &[(Filter, Idx)],
) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(
        "SELECT l.position, l.sync, l.record, s.id, p.slug FROM tombstone t JOIN log l ON l.position = t.position
         JOIN sync s ON s.no = l.sync JOIN provider p ON p.no = s.provider
         WHERE l.published_at < ?1 ORDER BY l.position",
    )?;
    let mut rows = select.query([before.timestamp_micros()])?;
    let mut dropped = 0;
    while let Some(row) = rows.next()? {
        let version = Version { position: row.get(0)?, sync: row.get(1)?, record: row.get(2)? };
        let (provider, sync) = (Filter::Provider(provider_column(row, 4)?), Filter::Sync(sync_column(row, 3)?));
        let has_passed = |(filter, reached): &(Filter, Idx)| {
            let matches = *filter == provider || *filter == sync;
            !matches || *reached >= idx(version.position)
        };
        if passed.iter().all(has_passed) {
            remove(connection, &version)?;
            dropped += 1;
        }
    }
    Ok(dropped)
}

struct Version {
    position: i64,
    sync: i64,
    record: [u8; 16],
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
