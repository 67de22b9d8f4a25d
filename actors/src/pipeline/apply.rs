//! Applying: a coalesced batch, in one transaction, again for a while when others are in the way.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{
    flow::{backoff::Backoff, coalesce::Batch},
    model::{Applied, Op, TableName},
    postgres::{ApplyError, Change, Fault, Pool, Tombstone, Verdict, apply},
};

/// How long others may be in the way before the consumer gives its place up, and says so.
const CONTENTION_LIMIT: Duration = Duration::from_secs(30);

/// How long one attempt may take: longer than the server's own `statement_timeout` allows each of its statements. What
/// takes longer has lost its server.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(150);

/// Brings a batch to the table, or says why it can't be brought now.
pub(crate) async fn apply_batch(pool: &Pool, table: &TableName, batch: &Batch) -> Result<Applied, ApplyError> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    let begun = Instant::now();
    loop {
        let attempt = timeout(ATTEMPT_TIMEOUT, try_to_apply(pool, table, batch)).await;
        match attempt.unwrap_or_else(|_| Err(Fault::timed_out("a transaction").into())) {
            Err(ApplyError::Database(fault))
                if fault.verdict == Verdict::Contention && begun.elapsed() < CONTENTION_LIMIT =>
            {
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
    let mut session = pool.get().await?;
    apply(&mut session, table, &changes, &tombstones).await
}
