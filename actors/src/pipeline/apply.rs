//! Applying: a coalesced batch, in one transaction, again and again while others are in the way.

use std::time::Duration;

use crate::{
    flow::{backoff::Backoff, coalesce::Batch},
    model::{Applied, Op, TableName},
    postgres::{ApplyError, Change, Fault, Pool, Tombstone, Verdict, apply},
};

/// Brings a batch to the table. Contention is waited out; everything else is the caller's to judge.
pub(crate) async fn apply_batch(pool: &Pool, table: &TableName, batch: &Batch) -> Result<Applied, ApplyError> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    loop {
        match try_to_apply(pool, table, batch).await {
            Err(ApplyError::Database(fault)) if fault.verdict == Verdict::Contention => {
                tracing::debug!(%fault, %table, "waiting for others");
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
            outcome => return outcome,
        }
    }
}

async fn try_to_apply(pool: &Pool, table: &TableName, batch: &Batch) -> Result<Applied, ApplyError> {
    let mut changes = Vec::with_capacity(batch.len());
    let mut tombstones = Vec::new();
    for (row, envelope) in batch.rows() {
        match row.op {
            Op::Upsert => changes.push(Change { idx: row.idx, envelope }),
            Op::Delete => tombstones.push(Tombstone { sequin_id: row.sequin_id, idx: row.idx }),
        }
    }
    let mut session = pool.get().await.map_err(Fault::from)?;
    apply(&mut session, table, &changes, &tombstones).await
}
