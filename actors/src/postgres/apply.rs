//! Applying a batch: the last version of each record, in one transaction.
//!
//! Whatever is written is guarded by `updated_idx`, so a batch can come again, late or twice, and changes nothing that
//! is newer. There are three ways, and a batch goes the one that costs the server least:
//!
//! - **Rows that are new**, as in a backfill, are copied in binary into the table itself. A COPY knows no guard, and
//!   needs none: it fails as a whole if one of its keys is there. So a sample of them is looked up first, and what fails
//!   all the same goes the second way.
//! - **Many rows** are copied in binary into the session's stage, and upserted from there in one statement.
//! - **A few rows** go as arrays in one statement, which is one round trip.

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::{SinkExt, TryFutureExt};
use tokio_postgres::{GenericClient, Statement, Transaction, types::ToSql};
use uuid::Uuid;

use super::{
    encode::{Jsonb, copy_header, copy_row, copy_trailer},
    error::{Fault, Verdict},
    session::{Direct, PreparedTable, Session, Staged},
};
use crate::{
    model::{Applied, EnvelopeError, Idx, Record, SequinId, TableName, decode},
    spans::{Database, ErrorType},
};

/// From this many rows on, a COPY is faster than arrays.
const COPY_FROM: usize = 200;

/// How many of a batch's keys are looked up to tell whether they are new.
const SAMPLE: usize = 32;

/// How many bytes of a COPY are sent at once, about.
const COPY_CHUNK: usize = 64 * 1024;

/// A chunk, and most of the rows by which it may exceed that: one that outgrows its memory is copied.
const COPY_BUFFER: usize = COPY_CHUNK + 8 * 1024;

/// A version that a batch writes: its place in the stream, and its envelope.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The record.
    pub sequin_id: SequinId,
    /// The version.
    pub idx: Idx,
    /// The record, as it lies in the stream.
    pub envelope: &'a [u8],
}

/// A version that a batch deletes by.
#[derive(Clone, Copy, Debug)]
pub struct Tombstone {
    /// The record.
    pub sequin_id: SequinId,
    /// The version.
    pub idx: Idx,
}

/// Why a batch was not applied. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The database refused, or could not be reached.
    #[error(transparent)]
    Database(#[from] Fault),
    /// The stream holds what this node can't read.
    #[error("record at {idx}: {source}")]
    Unreadable {
        /// Where.
        idx: Idx,
        /// What it is.
        source: EnvelopeError,
    },
}

impl From<tokio_postgres::Error> for ApplyError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl ErrorType for ApplyError {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Database(fault) => fault.error_type(),
            Self::Unreadable { .. } => "unreadable_record",
        }
    }

    fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Database(fault) => fault.sqlstate(),
            Self::Unreadable { .. } => None,
        }
    }
}

/// Writes `changes` and `tombstones`, which name no record twice and come in the order of the primary key.
///
/// Returns how many rows were written: fewer than were given where the table holds newer versions.
pub async fn apply(
    session: &mut Session,
    table: &TableName,
    changes: &[Change<'_>],
    tombstones: &[Tombstone],
) -> Result<Applied, ApplyError> {
    session.is_busy = true;
    let outcome = write(session, table, changes, tombstones).await;
    session.is_busy = false;
    outcome
}

async fn write(
    session: &mut Session,
    table: &TableName,
    changes: &[Change<'_>],
    tombstones: &[Tombstone],
) -> Result<Applied, ApplyError> {
    let is_large = changes.len() >= COPY_FROM;
    if is_large && let Some(applied) = insert(session, table, changes, tombstones).await? {
        return Ok(applied);
    }
    let prepared = session.prepared(table).await?;
    let staged = if is_large { session.staged(table).await? } else { None };
    let is_one_statement = staged.is_none() && (changes.is_empty() || tombstones.is_empty());
    if is_one_statement {
        let (client, to) = (&session.client, Shown { table, database: &session.database });
        return Ok(Applied {
            upserts: upsert_arrays(client, to, &prepared, changes).await?,
            deletes: delete(client, to, &prepared, tombstones).await?,
            ..Applied::default()
        });
    }
    let transaction = session.client.transaction().await?;
    let to = Shown { table, database: &session.database };
    let upserts = match staged {
        Some(staged) => upsert_staged(&transaction, to, &staged, changes).await?,
        None => upsert_arrays(&transaction, to, &prepared, changes).await?,
    };
    let deletes = delete(&transaction, to, &prepared, tombstones).await?;
    commit(transaction, to).await?;
    Ok(Applied { upserts, deletes, ..Applied::default() })
}

/// Brings the batch as if none of its rows were there; `None` if some are, or the table can't be copied into, and
/// nothing was written.
async fn insert(
    session: &mut Session,
    table: &TableName,
    changes: &[Change<'_>],
    tombstones: &[Tombstone],
) -> Result<Option<Applied>, ApplyError> {
    let prepared = session.prepared(table).await?;
    let Some(direct) = session.direct(table).await? else { return Ok(None) };
    if !direct.novelty.is_worth_a_try() {
        return Ok(None);
    }
    let transaction = session.client.transaction().await?;
    let to = Shown { table, database: &session.database };
    let copied = match to.database.statement("COPY", table, copy_new(&transaction, &direct, changes)).await {
        Err(ApplyError::Database(fault)) if matches!(fault.verdict, Verdict::Record | Verdict::Table) => None,
        copied => copied?,
    };
    let Some(upserts) = copied else {
        direct.novelty.refuted();
        return Ok(None);
    };
    direct.novelty.confirmed();
    let deletes = delete(&transaction, to, &prepared, tombstones).await?;
    commit(transaction, to).await?;
    Ok(Some(Applied { upserts, deletes, ..Applied::default() }))
}

/// Copies rows into the table itself, unless a sample of them shows that some are there. Having looked at the table, the
/// transaction keeps it from being altered, which a binary COPY might not notice.
async fn copy_new(
    transaction: &Transaction<'_>,
    direct: &Direct,
    changes: &[Change<'_>],
) -> Result<Option<u64>, ApplyError> {
    let sample: Vec<_> = changes.iter().step_by(changes.len().div_ceil(SAMPLE)).map(|c| c.sequin_id.0).collect();
    let seen = transaction.query_one(&direct.sample, &[&sample]).await?;
    let (now, known): (DateTime<Utc>, Option<Uuid>) = (seen.try_get(0)?, seen.try_get(1)?);
    match known {
        Some(_) => Ok(None),
        None => copy(transaction, &direct.copy, changes, Some(now)).await.map(Some),
    }
}

/// Where something is written, as spans name it.
#[derive(Clone, Copy)]
struct Shown<'a> {
    table: &'a TableName,
    database: &'a Database,
}

async fn commit(transaction: Transaction<'_>, to: Shown<'_>) -> Result<(), ApplyError> {
    to.database.command("COMMIT", transaction.commit().map_err(ApplyError::from)).await
}

async fn upsert_staged(
    transaction: &Transaction<'_>,
    to: Shown<'_>,
    staged: &Staged,
    changes: &[Change<'_>],
) -> Result<u64, ApplyError> {
    to.database.command("COPY", copy(transaction, &staged.copy, changes, None)).await?;
    let upsert = transaction.execute(&staged.upsert, &[]).map_err(ApplyError::from);
    to.database.statement("INSERT", to.table, upsert).await
}

async fn copy(
    transaction: &Transaction<'_>,
    statement: &Statement,
    changes: &[Change<'_>],
    written_at: Option<DateTime<Utc>>,
) -> Result<u64, ApplyError> {
    let sink = transaction.copy_in::<_, Bytes>(statement).await?;
    let mut sink = std::pin::pin!(sink);
    let mut chunk = BytesMut::with_capacity(COPY_BUFFER);
    copy_header(&mut chunk);
    for change in changes {
        copy_row(&record(change)?, change.idx, written_at, &mut chunk);
        if chunk.len() >= COPY_CHUNK {
            sink.feed(chunk.split().freeze()).await?;
            chunk.reserve(COPY_BUFFER);
        }
    }
    copy_trailer(&mut chunk);
    sink.send(chunk.freeze()).await?;
    Ok(sink.finish().await?)
}

async fn upsert_arrays(
    client: &impl GenericClient,
    to: Shown<'_>,
    prepared: &PreparedTable,
    changes: &[Change<'_>],
) -> Result<u64, ApplyError> {
    if changes.is_empty() {
        return Ok(0);
    }
    let records = changes.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let sequin_id = column(&records, |record| record.sequin_id.0);
    let sync_id = column(&records, |record| record.sync_id.0);
    let sync_external_id = column(&records, |record| record.sync_external_id);
    let sync_metadata = column(&records, |record| Jsonb(record.sync_metadata));
    let collection_id = column(&records, |record| record.collection_id);
    let upstream_id = column(&records, |record| record.upstream_id);
    let payload = column(&records, |record| Jsonb(record.payload));
    let updated_idx: Vec<i64> = changes.iter().map(|change| change.idx.as_bigint()).collect();
    let upstream_updated_at = column(&records, |record| record.upstream_updated_at);
    let upstream_created_at = column(&records, |record| record.upstream_created_at);
    let columns: [&(dyn ToSql + Sync); 10] = [
        &sequin_id,
        &sync_id,
        &sync_external_id,
        &sync_metadata,
        &collection_id,
        &upstream_id,
        &payload,
        &updated_idx,
        &upstream_updated_at,
        &upstream_created_at,
    ];
    let upsert = client.execute(&prepared.upsert_arrays, &columns).map_err(ApplyError::from);
    to.database.statement("INSERT", to.table, upsert).await
}

async fn delete(
    client: &impl GenericClient,
    to: Shown<'_>,
    prepared: &PreparedTable,
    tombstones: &[Tombstone],
) -> Result<u64, ApplyError> {
    if tombstones.is_empty() {
        return Ok(0);
    }
    let ids: Vec<_> = tombstones.iter().map(|tombstone| tombstone.sequin_id.0).collect();
    let idxs: Vec<_> = tombstones.iter().map(|tombstone| tombstone.idx.as_bigint()).collect();
    let columns: [&(dyn ToSql + Sync); 2] = [&ids, &idxs];
    let delete = client.execute(&prepared.delete, &columns).map_err(ApplyError::from);
    to.database.statement("DELETE", to.table, delete).await
}

fn record<'a>(change: &Change<'a>) -> Result<Record<'a>, ApplyError> {
    decode(change.envelope).map_err(|source| ApplyError::Unreadable { idx: change.idx, source })
}

fn column<'r, 'a, T>(records: &'r [Record<'a>], value: impl Fn(&'r Record<'a>) -> T) -> Vec<T> {
    records.iter().map(value).collect()
}
