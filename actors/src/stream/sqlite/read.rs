//! Reading: pages of what counts, and how much of it there is.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params, params_from_iter};
use tokio::sync::watch;

use super::{
    super::{PageLimit, RecordReader, StreamError, Version},
    position::{block, end, idx, position, positions},
};
use crate::{
    embedded::SqliteFile,
    model::{Filter, Idx, Lag, Page, SequinId, StreamId, SyncId},
};

/// A cursor over the stream.
pub(super) struct SqliteReader {
    file: Arc<SqliteFile>,
    changes: watch::Receiver<()>,
    filter: Filter,
    after: Idx,
    /// Whether the last page was full, as the next then is likely to be.
    was_full: bool,
    /// Whether the last read found everything there was.
    exhausted: bool,
}

impl SqliteReader {
    pub(super) fn new(file: Arc<SqliteFile>, changes: watch::Receiver<()>, filter: Filter, after: Idx) -> Self {
        Self { file, changes, filter, after, was_full: false, exhausted: false }
    }
}

#[async_trait]
impl RecordReader for SqliteReader {
    async fn ready(&mut self) -> Result<(), StreamError> {
        if self.exhausted {
            let closed = |_| StreamError::Unavailable("the stream was closed".into());
            self.changes.changed().await.map_err(closed)?;
            self.exhausted = false;
        }
        Ok(())
    }

    async fn read(&mut self, limit: PageLimit) -> Result<Page, StreamError> {
        // Before the read: a publication that the read does not see is still to come.
        self.changes.mark_unchanged();
        let filter = self.filter.clone();
        // A page that grows by the way is copied a dozen times.
        let empty = Page::with_capacity(self.after, if self.was_full { limit.bytes } else { 0 });
        let read = self.file.read(move |connection| fill(empty, connection, &filter, limit));
        let (page, exhausted) = read.await?;
        self.after = page.read_to();
        self.was_full = !exhausted;
        self.exhausted = exhausted;
        Ok(page)
    }
}

/// Where a filter's records lie: their provider's number, and the sync's, if the filter is one sync.
struct Place {
    provider: i64,
    last_idx: Idx,
    sync: Option<i64>,
}

/// `None` if the provider or sync was never seen.
fn place(connection: &Connection, filter: &Filter) -> rusqlite::Result<Option<Place>> {
    match filter {
        Filter::Provider(provider) => connection
            .prepare_cached("SELECT no, last_idx FROM provider WHERE slug = ?1")?
            .query_row([provider.as_str()], |row| {
                Ok(Place { provider: row.get(0)?, last_idx: Idx(row.get(1)?), sync: None })
            })
            .optional(),
        Filter::Sync(sync) => connection
            .prepare_cached(
                "SELECT p.no, p.last_idx, s.no FROM sync s JOIN provider p ON p.no = s.provider WHERE s.id = ?1",
            )?
            .query_row([sync.0], |row| {
                Ok(Place { provider: row.get(0)?, last_idx: Idx(row.get(1)?), sync: row.get(2)? })
            })
            .optional(),
    }
}

/// Returns the page with what comes after it, and whether it reaches the end of the stream.
fn fill(mut page: Page, connection: &Connection, filter: &Filter, limit: PageLimit) -> rusqlite::Result<(Page, bool)> {
    let after = page.read_to();
    let Some(place) = place(connection, filter)?.filter(|place| place.last_idx > after) else {
        return Ok((page, true));
    };
    let mut select = select_from(connection, &place, "position, published_at, envelope", IN_ORDER)?;
    let mut rows = select.query(params_from_iter(bounds(&place, after)))?;
    while let Some(row) = rows.next()? {
        let envelope = row.get_ref(2)?.as_blob()?;
        let is_full = page.entries().len() >= limit.records || page.size() + envelope.len() > limit.bytes;
        if is_full && !page.entries().is_empty() {
            return Ok((page, false));
        }
        if page.entries().is_empty() {
            page.was_published(time(row.get(1)?));
        }
        page.push(idx(row.get(0)?), envelope);
    }
    page.extend_to(place.last_idx);
    Ok((page, true))
}

const IN_ORDER: &str = "ORDER BY position";

/// Selects `columns` of the versions that count; [`bounds`] are its parameters.
fn select_from<'c>(
    connection: &'c Connection,
    place: &Place,
    columns: &str,
    order: &str,
) -> rusqlite::Result<CachedStatement<'c>> {
    let of_the_sync = if place.sync.is_some() { "sync = ?3 AND" } else { "" };
    connection.prepare_cached(&format!(
        "SELECT {columns} FROM log WHERE {of_the_sync} position > ?1 AND position <= ?2
         AND NOT EXISTS (SELECT 1 FROM superseded s WHERE s.position = log.position) {order}"
    ))
}

/// The parameters of [`select_from`].
fn bounds(place: &Place, after: Idx) -> Vec<i64> {
    let range = [position(place.provider, after), end(place.provider)];
    range.into_iter().chain(place.sync).collect()
}

pub(super) fn latest(connection: &Connection, sync: SyncId, record: SequinId) -> rusqlite::Result<Option<Version>> {
    connection
        .prepare_cached(
            "SELECT log.position, log.envelope
             FROM sync s JOIN latest ON latest.sync = s.no JOIN log ON log.position = latest.position
             WHERE s.id = ?1 AND latest.record = ?2",
        )?
        .query_row(params![sync.0, record.0], |row| Ok(Version { idx: idx(row.get(0)?), envelope: row.get(1)? }))
        .optional()
}

pub(super) fn head(connection: &Connection, filter: &Filter) -> rusqlite::Result<Idx> {
    Ok(place(connection, filter)?.map_or(Idx::START, |place| place.last_idx))
}

/// All providers' records lie in one file, which is replaced as a whole.
pub(super) fn identity(connection: &Connection, filter: &Filter) -> rusqlite::Result<Option<StreamId>> {
    if place(connection, filter)?.is_none() {
        return Ok(None);
    }
    connection.prepare_cached("SELECT id FROM identity")?.query_row([], |row| row.get(0).map(StreamId)).map(Some)
}

pub(super) fn lag(connection: &Connection, filter: &Filter, after: Idx) -> rusqlite::Result<Lag> {
    let Some(place) = place(connection, filter)? else {
        return Ok(Lag::default());
    };
    let oldest = select_from(connection, &place, "published_at", IN_ORDER)?
        .query_row(params_from_iter(bounds(&place, after)), |row| row.get(0))
        .optional()?;
    let records = match place.sync {
        _ if oldest.is_none() => 0,
        None => count_of_provider(connection, position(place.provider, after), end(place.provider))?,
        Some(_) => count_of_sync(connection, &place, after)?,
    };
    Ok(Lag { records, oldest_published_at: oldest.map(time) })
}

/// Sums up the blocks beyond the position's own, and counts in that one.
fn count_of_provider(connection: &Connection, after: i64, end: i64) -> rusqlite::Result<u64> {
    let own = block(after);
    let beyond: i64 = connection
        .prepare_cached("SELECT coalesce(sum(live), 0) FROM block WHERE no > ?1 AND no <= ?2")?
        .query_row([own, block(end)], |row| row.get(0))?;
    let within: i64 = connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM log WHERE position > ?1 AND position <= ?2)
                  - (SELECT count(*) FROM superseded WHERE position > ?1 AND position <= ?2)",
        )?
        .query_row([after, *positions(own).end()], |row| row.get(0))?;
    Ok(u64::try_from(beyond + within).unwrap_or_default())
}

/// Counts in the index by sync, without touching the log.
fn count_of_sync(connection: &Connection, place: &Place, after: Idx) -> rusqlite::Result<u64> {
    let count: i64 = select_from(connection, place, "count(*)", "")?
        .query_row(params_from_iter(bounds(place, after)), |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

pub(super) fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}
