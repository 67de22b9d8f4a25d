//! Applying: a coalesced batch, whole in one transaction if it can be, otherwise in parts.
//!
//! A record that the database refuses is found by halving: the good part of a half is committed on the way, and what
//! is left is one record, which goes to quarantine. While others are in the way, or a statement takes longer than the
//! server allows, the same is tried again in smaller parts, which hold fewer locks for a shorter time; the batches that
//! follow begin as small, and grow again as they succeed. Each part is guarded by `updated_idx`, and a batch names no record
//! twice, so parts may come in any order and more than once.

use std::{
    collections::HashMap,
    ops::Range,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{prepare::verify_again, quarantine::Quarantine};
use crate::{
    flow::{backoff::Backoff, coalesce::Batch, pace::Pace, refusals::TooManyRefusals, unsupported_text::ReplacedText},
    model::{
        Applied, Idx, Op, Record, RowAhead, SequinId, Severity, TableName, UnsupportedText, decode, decode_routing,
        decode_trace, encode,
    },
    postgres::{ApplyError, Change, Fault, Finding, Pool, RowBeyond, Tombstone, Verdict, apply, row_beyond},
    spans::{self, Applying, ErrorType},
    store::DocumentsError,
    stream::{RecordStream, StreamError},
    telemetry::ConsumerMetrics,
};

/// How long others may be in the way, without anything going through, before the consumer gives its place up.
const CONTENTION_LIMIT: Duration = Duration::from_secs(30);

/// How many refused records the store is told of at once: what a crash then makes one look for again.
const SAVED_AT_ONCE: usize = 64;

/// For how long a table that was verified counts as verified while it refuses records.
const VERIFIED_FOR: Duration = Duration::from_secs(1);

/// Who has waited for the pace for so long says that it is not stuck.
const PACED: Duration = Duration::from_secs(10);

/// Why a batch was not brought, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BringError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("{error}, the last with: {fault}")]
    TooManyRefusals { error: TooManyRefusals, fault: Box<Fault> },
    #[error("the table is not as it should be")]
    WrongTable(Vec<Finding>),
    #[error("the quarantine can't be kept: {0}")]
    Quarantine(#[from] DocumentsError),
    #[error("the table has rows that are newer than the stream")]
    TableAhead(RowAhead),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl ErrorType for BringError {
    /// Of a database's error, whose fault it is.
    fn error_type(&self) -> &'static str {
        match self {
            Self::Apply(ApplyError::Database(fault)) => fault.verdict.as_str(),
            Self::Apply(error) => error.error_type(),
            Self::TooManyRefusals { .. } => "too_many_refusals",
            Self::WrongTable(_) => "table",
            Self::Quarantine(error) => error.error_type(),
            Self::TableAhead(_) => "table_ahead",
            Self::Stream(_) => "stream",
        }
    }
}

/// How a writer brings its batches.
pub(crate) struct Bringing {
    pub(crate) pool: Pool,
    /// How fast all that write to the target together may be.
    pub(crate) pace: Arc<Pace>,
    pub(crate) stream: Arc<dyn RecordStream>,
    pub(crate) table: TableName,
    pub(crate) unsupported_text: UnsupportedText,
    pub(crate) quarantine: Arc<Quarantine>,
    /// Hears of an attempt that takes suspiciously long.
    pub(crate) is_slow: Box<dyn Fn() + Send + Sync>,
    /// Counts the attempts that have ended, and goes on while one has to wait for the pace: while it goes up, nothing is stuck.
    pub(crate) attempts: AtomicU64,
    /// How many rows are tried at once: fewer while that takes too long.
    pub(crate) largest_part: AtomicUsize,
    /// Those of its writers that wait for others.
    pub(crate) queue: Mutex<()>,
    /// When the table was last found to be as it should be, since it refuses records.
    pub(crate) verified_at: Mutex<Option<Instant>>,
    /// How its batches are shown in traces.
    pub(crate) shown: Applying,
    pub(crate) metrics: Arc<ConsumerMetrics>,
}

impl Bringing {
    /// Brings a batch to the table, and what the table refuses of it to quarantine.
    pub(crate) async fn bring(&self, batch: &mut Batch) -> Result<Applied, BringError> {
        let span = self.shown.begin(batch.len(), batch.traced().filter_map(decode_trace));
        let applied = span.run(self.bring_all(batch)).await?;
        span.applied(&applied);
        Ok(applied)
    }

    async fn bring_all(&self, batch: &mut Batch) -> Result<Applied, BringError> {
        self.quarantine.begin(batch);
        let envelopes = Envelopes::of(batch, self.unsupported_text)?;
        let mut refused = Vec::new();
        let applied = self.bring_in_parts(&envelopes, &mut refused).await;
        // Also what was refused before something else went wrong.
        self.set_aside(refused.chunks(SAVED_AT_ONCE).last().unwrap_or_default()).await?;
        let applied = applied?;
        self.quarantine.brought(batch, &refused).await?;
        Ok(applied)
    }

    async fn set_aside(&self, refused: &[SequinId]) -> Result<(), BringError> {
        if refused.is_empty() {
            return Ok(());
        }
        Ok(spans::step(spans::named("quarantine"), self.quarantine.save(refused)).await?)
    }

    async fn bring_in_parts(
        &self,
        envelopes: &Envelopes<'_>,
        refused: &mut Vec<SequinId>,
    ) -> Result<Applied, BringError> {
        let mut applied = Applied { replaced_text: envelopes.replaced.len() as u64, ..Applied::default() };
        let mut patience = Patience::new();
        let mut parts = self.parts(envelopes.batch.len());
        while let Some(part) = parts.pop() {
            // Another pace may have been set since the batch was divided.
            let [rest, part] = divided(part, self.pace.at_once());
            parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
            self.keep_pace(part.len()).await;
            // Who waits for others holds one session, and leaves the rest to those who need not wait.
            let alone = if patience.has_waited { Some(self.queue.lock().await) } else { None };
            let outcome = self.attempt(envelopes, part.clone()).await;
            drop(alone);
            self.attempts.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok((more, beyond)) => {
                    applied += more;
                    if let Some(row) = beyond {
                        self.compare_with_stream(row).await?;
                    }
                    patience = Patience::new();
                    self.largest_part.fetch_max(part.len().saturating_mul(2), Ordering::Relaxed);
                }
                Err(ApplyError::Database(fault)) => match fault.verdict {
                    Verdict::Record if part.len() == 1 => {
                        self.verify_table().await?;
                        refused.push(self.refuse(envelopes, part.start, fault)?);
                        if refused.len().is_multiple_of(SAVED_AT_ONCE) {
                            self.set_aside(&refused[refused.len() - SAVED_AT_ONCE..]).await?;
                        }
                    }
                    Verdict::Record => parts.extend(halves(part)),
                    Verdict::Contention if patience.lasts() || (fault.is_too_slow() && part.len() > 1) => {
                        tracing::debug!(%fault, table = %self.table, rows = part.len(), "trying less at a time");
                        self.largest_part.store((part.len() / 2).max(1), Ordering::Relaxed);
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

    /// A batch of so many rows, in parts that are not too large; the first comes last.
    fn parts(&self, rows: usize) -> Vec<Range<usize>> {
        let largest = self.largest_part.load(Ordering::Relaxed).min(self.pace.at_once());
        let part = |start| start..rows.min(start + largest);
        (0..rows).step_by(largest).map(part).rev().collect()
    }

    /// Waits until so many rows may be written. Who waits holds no session.
    async fn keep_pace(&self, rows: usize) {
        let mut turn = pin!(self.pace.take(rows));
        while timeout(PACED, &mut turn).await.is_err() {
            self.attempts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Brings one part in one transaction. A row that it left alone since it is newer is returned.
    async fn attempt(
        &self,
        envelopes: &Envelopes<'_>,
        part: Range<usize>,
    ) -> Result<(Applied, Option<RowBeyond>), ApplyError> {
        let (changes, tombstones) = envelopes.changes(part);
        let backend = OnceLock::new();
        let attempt = async {
            let mut session = spans::step(spans::named("get session"), self.pool.get()).await?;
            let _ = backend.set(session.backend());
            let applied = apply(&mut session, &self.table, &changes, &tombstones).await?;
            let beyond = row_beyond(&session, &self.table, &changes, &tombstones, applied).await?;
            Ok((applied, beyond))
        };
        self.pool.outlast(&backend, &self.is_slow, attempt).await
    }

    /// A newer row is as it should be if the stream has that version too, or a newer one, which is then still to come: another
    /// consumer of the same table is ahead of this one, or what was read was superseded on its way. A stream that has neither
    /// was restored from a time before the row was written. One that has nothing of the record, as after a purge, says nothing.
    async fn compare_with_stream(&self, row: RowBeyond) -> Result<(), BringError> {
        let Some(last) = self.stream.latest(row.sync, row.record).await? else { return Ok(()) };
        // No row is of the version by which it is deleted.
        let is_delete = decode_routing(&last.envelope).is_ok_and(|routing| routing.op == Op::Delete);
        if last.idx < row.idx || (last.idx == row.idx && is_delete) {
            return Err(BringError::TableAhead(RowAhead { record: row.record, row: row.idx, last: last.idx }));
        }
        Ok(())
    }

    /// No record is to blame for a table that is not as it should be.
    async fn verify_table(&self) -> Result<(), BringError> {
        let mut verified_at = self.verified_at.lock().await;
        if verified_at.is_some_and(|verified_at| verified_at.elapsed() < VERIFIED_FOR) {
            return Ok(());
        }
        let findings = verify_again(&self.pool, &self.table).await.map_err(ApplyError::from)?;
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(BringError::WrongTable(findings));
        }
        *verified_at = Some(Instant::now());
        Ok(())
    }

    fn refuse(&self, envelopes: &Envelopes<'_>, number: usize, fault: Fault) -> Result<SequinId, BringError> {
        let (idx, record) = envelopes.record(number)?;
        tracing::debug!(%fault, table = %self.table, record = %record.sequin_id, "refused");
        match self.quarantine.refuse(&record, idx, &fault) {
            Ok(()) => Ok(record.sequin_id),
            Err(error) => Err(BringError::TooManyRefusals { error, fault: Box::new(fault) }),
        }
    }
}

/// The two halves of a part, the first to come last; a part of one record stays whole.
fn halves(part: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let middle = part.start + part.len() / 2;
    [middle..part.end, part.start..middle].into_iter().filter(|half| !half.is_empty())
}

/// The first so many rows of a part, after the rest of it.
fn divided(part: Range<usize>, most: usize) -> [Range<usize>; 2] {
    let middle = part.end.min(part.start.saturating_add(most));
    [middle..part.end, part.start..middle]
}

/// How much longer to wait for others.
struct Patience {
    since: Instant,
    backoff: Backoff,
    has_waited: bool,
}

impl Patience {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        Self { since: Instant::now(), backoff, has_waited: false }
    }

    fn lasts(&self) -> bool {
        self.since.elapsed() < CONTENTION_LIMIT
    }

    async fn wait(&mut self) {
        self.has_waited = true;
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
                    encode(&replaced.record(), None, &mut envelope);
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
                Op::Upsert => {
                    changes.push(Change { sequin_id: row.sequin_id, idx: row.idx, envelope: self.envelope(number) });
                }
                Op::Delete => tombstones.push(Tombstone { sequin_id: row.sequin_id, idx: row.idx }),
            }
        }
        (changes, tombstones)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_part_as_much_is_taken_at_once_as_the_pace_of_now_allows() {
        assert_eq!(divided(10..5010, 5), [15..5010, 10..15]);
        assert_eq!(divided(10..5010, 5000), [5010..5010, 10..5010]);
        assert_eq!(divided(10..5010, usize::MAX), [5010..5010, 10..5010]);
    }
}
