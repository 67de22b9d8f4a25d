//! Rows that a batch did not touch since they are newer than what it brought.
//!
//! That is rare. What is brought twice finds the rows as it left them, neither older nor newer; and a version that was
//! superseded is not read from the stream any more. So this is asked for a batch that touched fewer rows than it named,
//! and never for one that touched them all.

use tokio_postgres::types::Type;

use super::{
    apply::{Change, Tombstone},
    catalog::newest_beyond,
    error::Fault,
    session::Session,
};
use crate::model::{Applied, Idx, SequinId, SyncId, TableName};

/// A row that is newer than the version that was brought of its record.
#[derive(Clone, Copy, Debug)]
pub struct RowBeyond {
    /// The row's sync.
    pub sync: SyncId,
    /// Its record.
    pub record: SequinId,
    /// The version that it holds.
    pub idx: Idx,
}

/// Looks up the rows of what was brought and not `applied`, and returns the newest of those that should be older.
pub async fn row_beyond(
    session: &Session,
    table: &TableName,
    changes: &[Change<'_>],
    tombstones: &[Tombstone],
    applied: Applied,
) -> Result<Option<RowBeyond>, Fault> {
    let changes = if applied.upserts < changes.len() as u64 { changes } else { &[] };
    let tombstones = if applied.deletes < tombstones.len() as u64 { tombstones } else { &[] };
    if changes.is_empty() && tombstones.is_empty() {
        return Ok(None);
    }
    // A change leaves its own version behind, and a tombstone an older one at most: none, as a rule.
    let changed = changes.iter().map(|change| (change.sequin_id.0, change.idx.as_bigint()));
    let deleted = tombstones.iter().map(|tombstone| (tombstone.sequin_id.0, tombstone.idx.as_bigint() - 1));
    let (ids, idxs): (Vec<_>, Vec<_>) = changed.chain(deleted).unzip();
    // Not prepared: sessions would hold a statement that most of them never need.
    let question = newest_beyond(table);
    let found =
        session.client.query_typed_opt(&question, &[(&ids, Type::UUID_ARRAY), (&idxs, Type::INT8_ARRAY)]).await?;
    let Some(row) = found else { return Ok(None) };
    let idx: i64 = row.try_get(2)?;
    Ok(Some(RowBeyond {
        sync: SyncId(row.try_get(0)?),
        record: SequinId(row.try_get(1)?),
        idx: Idx(idx.unsigned_abs()),
    }))
}
