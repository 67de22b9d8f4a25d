//! Applying: a coalesced batch, whole in one transaction if it can be, otherwise in parts.
//!
//! A record that the database refuses is found by halving: the good part of a half is committed on the way, and what
//! is left is one record, which goes to quarantine. While others are in the way the same is tried again, in smaller
//! parts, which hold fewer locks for a shorter time. Each part is guarded by `updated_idx`, and a batch names no record
//! twice, so parts may come in any order and more than once.

use std::{
    collections::HashMap,
    ops::Range,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::quarantine::{Quarantine, RefuseError};
use crate::{
    flow::{backoff::Backoff, coalesce::Batch, refusals::TooManyRefusals, unsupported_text::ReplacedText},
    model::{Applied, Idx, Op, Record, TableName, UnsupportedText, decode, encode},
    postgres::{ApplyError, Change, Fault, Pool, Tombstone, Verdict, apply},
    store::DocumentsError,
};

/// How long others may be in the way, without anything going through, before the consumer gives its place up.
const CONTENTION_LIMIT: Duration = Duration::from_secs(30);

/// How long one attempt may take: longer than the server's own `statement_timeout` allows each of its statements. What
/// takes longer has lost its server.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(150);

/// An attempt that takes longer makes one ask whether the server is there at all.
const SLOW: Duration = Duration::from_secs(3);

/// Why a batch was not brought, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BringError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("{error}, the last with: {fault}")]
    TooManyRefusals { error: TooManyRefusals, fault: Fault },
    #[error("the quarantine can't be kept: {0}")]
    Quarantine(#[from] DocumentsError),
}

/// How a writer brings its batches.
pub(crate) struct Bringing {
    pub(crate) pool: Pool,
    pub(crate) table: TableName,
    pub(crate) unsupported_text: UnsupportedText,
    pub(crate) quarantine: Arc<Quarantine>,
    /// Hears of an attempt that takes suspiciously long.
    pub(crate) is_slow: Box<dyn Fn() + Send + Sync>,
    /// Counts the attempts that have ended: while it goes up, something happens.
    pub(crate) attempts: AtomicU64,
}

impl Bringing {
    /// Brings a batch to the table, and what the table refuses of it to quarantine.
    pub(crate) async fn bring(&self, batch: &mut Batch) -> Result<Applied, BringError> {
        self.quarantine.begin(batch);
        let envelopes = Envelopes::of(batch, self.unsupported_text)?;
        let applied = self.bring_in_parts(&envelopes).await?;
        self.quarantine.brought(batch).await?;
        Ok(applied)
    }

    async fn bring_in_parts(&self, envelopes: &Envelopes<'_>) -> Result<Applied, BringError> {
        let mut applied = Applied { replaced_text: envelopes.replaced.len() as u64, ..Applied::default() };
        let mut patience = Patience::new();
        let whole = 0..envelopes.batch.len();
        let mut parts = vec![whole];
        while let Some(part) = parts.pop() {
            let outcome = self.attempt(envelopes, part.clone()).await;
            self.attempts.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(more) => {
                    applied += more;
                    patience = Patience::new();
                }
                Err(ApplyError::Database(fault)) => match fault.verdict {
                    Verdict::Record if part.len() == 1 => self.refuse(envelopes, part.start, fault).await?,
                    Verdict::Record => parts.extend(halves(part)),
                    Verdict::Contention if patience.lasts() => {
                        tracing::debug!(%fault, table = %self.table, "waiting for others");
                        patience.wait().await;
                        parts.extend(halves(part));
                    }
                    _ => return Err(ApplyError::Database(fault).into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(applied)
    }

    /// Brings one part in one transaction.
    async fn attempt(&self, envelopes: &Envelopes<'_>, part: Range<usize>) -> Result<Applied, ApplyError> {
        let (changes, tombstones) = envelopes.changes(part);
        let attempt = async {
            let mut session = self.pool.get().await?;
            apply(&mut session, &self.table, &changes, &tombstones).await
        };
        let mut attempt = pin!(attempt);
        if let Ok(outcome) = timeout(SLOW, &mut attempt).await {
            return outcome;
        }
        (self.is_slow)();
        let outcome = timeout(ATTEMPT_TIMEOUT, attempt).await;
        outcome.unwrap_or_else(|_| Err(Fault::timed_out("a transaction").into()))
    }

    async fn refuse(&self, envelopes: &Envelopes<'_>, number: usize, fault: Fault) -> Result<(), BringError> {
        let (idx, record) = envelopes.record(number)?;
        tracing::debug!(%fault, table = %self.table, record = %record.sequin_id, "refused");
        self.quarantine.refuse(&record, idx, &fault).await.map_err(|error| match error {
            RefuseError::TooMany(error) => BringError::TooManyRefusals { error, fault },
            RefuseError::Documents(error) => BringError::Quarantine(error),
        })
    }
}

/// The two halves of a part, the first to come last; a part of one record stays whole.
fn halves(part: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let middle = part.start + part.len() / 2;
    [middle..part.end, part.start..middle].into_iter().filter(|half| !half.is_empty())
}

/// How much longer to wait for others.
struct Patience {
    since: Instant,
    backoff: Backoff,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now(), backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(5)) }
    }

    fn lasts(&self) -> bool {
        self.since.elapsed() < CONTENTION_LIMIT
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.backoff.next(fastrand::f64())).await;
    }
}

/// The envelopes of a batch, as they are written.
struct Envelopes<'a> {
    batch: &'a Batch,
    /// Those in which text was replaced, by the number of their row.
    replaced: HashMap<usize, Vec<u8>>,
}

impl<'a> Envelopes<'a> {
    fn of(batch: &'a Batch, unsupported_text: UnsupportedText) -> Result<Self, ApplyError> {
        let mut envelopes = Self { batch, replaced: HashMap::new() };
        if unsupported_text == UnsupportedText::Replace {
            for number in 0..batch.len() {
                let (_, record) = envelopes.record(number)?;
                if let Some(replaced) = ReplacedText::of(&record) {
                    let mut envelope = Vec::new();
                    encode(&replaced.record(), &mut envelope);
                    envelopes.replaced.insert(number, envelope);
                }
            }
        }
        Ok(envelopes)
    }

    fn envelope(&self, number: usize) -> &[u8] {
        self.replaced.get(&number).map_or_else(|| self.batch.row(number).1, Vec::as_slice)
    }

    fn record(&self, number: usize) -> Result<(Idx, Record<'_>), ApplyError> {
        let idx = self.batch.row(number).0.idx;
        let record = decode(self.envelope(number)).map_err(|source| ApplyError::Unreadable { idx, source })?;
        Ok((idx, record))
    }

    fn changes(&self, part: Range<usize>) -> (Vec<Change<'_>>, Vec<Tombstone>) {
        let mut changes = Vec::with_capacity(part.len());
        let mut tombstones = Vec::new();
        for number in part {
            let (row, _) = self.batch.row(number);
            match row.op {
                Op::Upsert => changes.push(Change { idx: row.idx, envelope: self.envelope(number) }),
                Op::Delete => tombstones.push(Tombstone { sequin_id: row.sequin_id, idx: row.idx }),
            }
        }
        (changes, tombstones)
    }
}
