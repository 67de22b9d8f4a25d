//! What the stream knows of providers and syncs.

use rusqlite::{Connection, OptionalExtension, Row, named_params, types::Type};
use uuid::Uuid;

use super::{super::SyncQuery, position::idx, read::time};
use crate::model::{Idx, Provider, Sync, SyncId};

pub(super) fn providers(connection: &Connection) -> rusqlite::Result<Vec<Provider>> {
    let mut select = connection.prepare_cached("SELECT slug FROM provider ORDER BY slug")?;
    let providers = select.query_map([], |row| provider_column(row, 0))?;
    providers.collect()
}

pub(super) fn syncs(connection: &Connection, query: &SyncQuery) -> rusqlite::Result<Vec<Sync>> {
    let mut select = connection.prepare_cached(&select_syncs(
        "(:provider IS NULL OR p.slug = :provider) AND (:after IS NULL OR s.id > :after) ORDER BY s.id LIMIT :limit",
    ))?;
    let syncs = select.query_map(
        named_params! {
            ":provider": query.provider.as_ref().map(Provider::as_str),
            ":after": query.after.map(|sync| sync.0),
            ":limit": query.limit,
        },
        sync_row,
    )?;
    syncs.collect()
}

pub(super) fn sync(connection: &Connection, sync: SyncId) -> rusqlite::Result<Option<Sync>> {
    connection.prepare_cached(&select_syncs("s.id = ?1"))?.query_row([sync.0], sync_row).optional()
}

fn select_syncs(condition: &str) -> String {
    format!(
        "WITH s AS (SELECT *, (SELECT max(position) FROM log WHERE log.sync = sync.no) AS last FROM sync)
         SELECT s.id, p.slug, s.external_id, s.metadata, s.last,
                (SELECT published_at FROM log WHERE position = s.last),
                (SELECT count(*) FROM latest l WHERE l.sync = s.no AND NOT l.tombstone)
         FROM s JOIN provider p ON p.no = s.provider WHERE s.last IS NOT NULL AND {condition}"
    )
}

fn sync_row(row: &Row<'_>) -> rusqlite::Result<Sync> {
    let last: Option<i64> = row.get(4)?;
    let published_at: Option<i64> = row.get(5)?;
    let records: i64 = row.get(6)?;
    Ok(Sync {
        id: sync_column(row, 0)?,
        provider: provider_column(row, 1)?,
        external_id: row.get(2)?,
        metadata: row.get(3)?,
        records: u64::try_from(records).unwrap_or_default(),
        last_updated_idx: last.map_or(Idx::START, idx),
        last_published_at: published_at.map(time),
    })
}

pub(super) fn provider_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Provider> {
    let slug: String = row.get(column)?;
    Provider::parse(&slug).map_err(|error| unreadable(column, error))
}

pub(super) fn sync_column(row: &Row<'_>, column: usize) -> rusqlite::Result<SyncId> {
    row.get::<_, Uuid>(column).map(SyncId)
}

fn unreadable(column: usize, error: impl std::error::Error + Send + std::marker::Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
