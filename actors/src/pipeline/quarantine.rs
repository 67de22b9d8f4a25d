//! The quarantine of one consumer: the records that its database refused.
//!
//! What is in it lies in the store, and is kept in memory for as long as a pipeline runs. A refused version is written
//! to the store before its page counts as brought, so the checkpoint never passes one that nobody remembers. A version
//! that replaces it takes its entry away once it is in the table, likewise before its page counts. So after a crash
//! each record that lies before the checkpoint is in the table or in quarantine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::reason;
use crate::{
    flow::{
        backoff::Backoff,
        coalesce::{Batch, Row},
        refusals::{RefusalLimit, Refusals, TooManyRefusals},
    },
    model::{ConsumerId, Idx, QuarantineKey, Quarantined, Reason, Record, SequinId, SyncId},
    postgres::Fault,
    store::{Documents, DocumentsError, Revision, StoreError, Versioned},
};

/// How long to wait at most before a record that may heal is tried a second time.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// And each further time.
const LAST_RETRY: Duration = Duration::from_mins(10);

/// How many records are tried again at once: few enough that what is new does not wait for long.
const RETRIES: usize = 256;

/// A version to try again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub(crate) sync: SyncId,
    pub(crate) record: SequinId,
    pub(crate) idx: Idx,
}

/// Why a refused version was not set aside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefuseError {
    #[error(transparent)]
    TooMany(#[from] TooManyRefusals),
    #[error(transparent)]
    Documents(#[from] DocumentsError),
}

/// The quarantine of one consumer.
pub(crate) struct Quarantine {
    consumer: ConsumerId,
    documents: Documents,
    inner: Mutex<Inner>,
    refused: Notify,
}

struct Inner {
    held: HashMap<SequinId, Held>,
    refusals: Refusals,
}

struct Held {
    entry: Quarantined,
    revision: Revision,
    retry: Next,
}

/// When a version is tried again.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Never,
    At(Instant),
    /// It is on its way to its writer.
    UnderWay,
}

impl Quarantine {
    /// Reads what the store holds.
    pub(crate) async fn load(
        consumer: ConsumerId,
        documents: &Documents,
        limit: RefusalLimit,
    ) -> Result<Arc<Self>, DocumentsError> {
        let now = Instant::now();
        let hold = |found: Versioned<Quarantined>| {
            let retry = next(found.value.retry_at, now);
            (found.value.key.record, Held { entry: found.value, revision: found.revision, retry })
        };
        let held = documents.all_of::<Quarantined>(consumer).await?.into_iter().map(hold).collect();
        let inner = Mutex::new(Inner { held, refusals: Refusals::new(limit) });
        Ok(Arc::new(Self { consumer, documents: documents.clone(), inner, refused: Notify::new() }))
    }

    /// Tries everything again that is in it, now.
    pub(crate) fn retry_all(&self) {
        let now = Instant::now();
        for held in self.lock().held.values_mut() {
            held.retry = Next::At(now);
        }
    }

    /// How many records are in it.
    pub(crate) fn len(&self) -> usize {
        self.lock().held.len()
    }

    /// What a status says of it.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let inner = self.lock();
        let entries = || inner.held.values().map(|held| &held.entry);
        let last = entries().max_by_key(|entry| entry.last_failed_at)?;
        let since = entries().map(|entry| entry.first_failed_at).min()?;
        Some(reason::quarantined(inner.held.len(), since, &last.message))
    }

    /// A batch is about to be brought: leaves out the versions that are in quarantine already.
    pub(crate) fn begin(&self, batch: &mut Batch) {
        let mut inner = self.lock();
        inner.refusals.batch(batch.len() as u64);
        if !inner.held.is_empty() {
            batch.retain(|row| !inner.holds(row));
        }
    }

    /// Sets a version aside, unless that makes too many.
    pub(crate) async fn refuse(&self, record: &Record<'_>, idx: Idx, fault: &Fault) -> Result<(), RefuseError> {
        let (mut entry, revision) = {
            let mut inner = self.lock();
            let before = inner.held.get(&record.sequin_id);
            let revision = before.map(|held| held.revision);
            match before.filter(|held| held.entry.idx == idx) {
                Some(again) => (again.entry.clone(), revision),
                None => {
                    let others = inner.held.len() - usize::from(before.is_some());
                    inner.refusals.refused(others)?;
                    (first_refusal(self.consumer, record, idx), revision)
                }
            }
        };
        entry.attempts += 1;
        entry.sqlstate.clone_from(&fault.sqlstate);
        entry.message.clone_from(&fault.summary);
        entry.fix = fault.fix.into();
        entry.last_failed_at = Utc::now();
        let wait = fault.may_heal().then(|| retry_in(entry.attempts));
        entry.retry_at = wait.map(|wait| entry.last_failed_at + wait);
        let retry = wait.map_or(Next::Never, |wait| Next::At(Instant::now() + wait));
        let saved = self.save(&entry, revision).await?;
        let mut inner = self.lock();
        match saved {
            Some(revision) => drop(inner.held.insert(record.sequin_id, Held { entry, revision, retry })),
            None => drop(inner.held.remove(&record.sequin_id)),
        }
        self.refused.notify_one();
        Ok(())
    }

    /// `None` if somebody has discarded the entry meanwhile.
    async fn save(&self, entry: &Quarantined, revision: Option<Revision>) -> Result<Option<Revision>, DocumentsError> {
        let saved = match revision {
            None => self.documents.put(entry.key, entry).await,
            Some(revision) => self.documents.update(entry.key, entry, revision).await,
        };
        match saved {
            Err(DocumentsError::Store(StoreError::Conflict { .. })) => Ok(None),
            saved => saved.map(Some),
        }
    }

    /// A batch was brought, but for what was refused of it.
    pub(crate) async fn brought(&self, batch: &Batch) -> Result<(), DocumentsError> {
        if self.len() == 0 {
            return Ok(());
        }
        for (row, _) in batch.rows() {
            let is_done = {
                let inner = self.lock();
                inner.held.contains_key(&row.sequin_id) && !inner.holds(row)
            };
            if is_done {
                self.forget(row.sequin_id).await?;
            }
        }
        Ok(())
    }

    /// Waits until there is something to try again, and hands it out.
    pub(crate) async fn due(&self) -> Vec<Retry> {
        loop {
            let (due, next) = self.lock().take_due(Instant::now());
            if !due.is_empty() {
                return due;
            }
            match next {
                Some(next) => drop(timeout_at(next, self.refused.notified()).await),
                None => self.refused.notified().await,
            }
        }
    }

    /// A newer version is on its way, which will say what becomes of the record.
    pub(crate) fn leave_to_newer(&self, record: SequinId) {
        if let Some(held) = self.lock().held.get_mut(&record) {
            held.retry = Next::Never;
        }
    }

    /// Removes a record: it is in the table as it should be, or nowhere any more.
    pub(crate) async fn forget(&self, record: SequinId) -> Result<(), DocumentsError> {
        let Some(revision) = self.lock().held.get(&record).map(|held| held.revision) else { return Ok(()) };
        let key = QuarantineKey { consumer: self.consumer, record };
        match self.documents.delete::<Quarantined>(key, Some(revision)).await {
            // Somebody has discarded it meanwhile.
            Ok(()) | Err(DocumentsError::Store(StoreError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
        self.lock().held.remove(&record);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether this version is set aside, and not being tried again: it is passed over, or was just refused.
    fn holds(&self, row: &Row) -> bool {
        self.held.get(&row.sequin_id).is_some_and(|held| held.entry.idx == row.idx && held.retry != Next::UnderWay)
    }

    /// What is due, and when something will be.
    fn take_due(&mut self, now: Instant) -> (Vec<Retry>, Option<Instant>) {
        let time = |held: &Held| if let Next::At(time) = held.retry { Some(time) } else { None };
        let due = self.held.values_mut().filter(|held| time(held).is_some_and(|time| time <= now)).take(RETRIES);
        let take = |held: &mut Held| {
            held.retry = Next::UnderWay;
            Retry { sync: held.entry.sync_id, record: held.entry.key.record, idx: held.entry.idx }
        };
        (due.map(take).collect(), self.held.values().filter_map(time).min())
    }
}

/// When to try again what the store says is due at `retry_at`: soon, whatever became of the clock since.
fn next(retry_at: Option<DateTime<Utc>>, now: Instant) -> Next {
    let wait = |retry_at: DateTime<Utc>| (retry_at - Utc::now()).clamp(TimeDelta::zero(), TimeDelta::MAX).to_std();
    let bounded = |retry_at| wait(retry_at).unwrap_or_default().min(LAST_RETRY);
    retry_at.map_or(Next::Never, |retry_at| Next::At(now + bounded(retry_at)))
}

/// As if it had been refused no time yet.
fn first_refusal(consumer: ConsumerId, record: &Record<'_>, idx: Idx) -> Quarantined {
    let now = Utc::now();
    Quarantined {
        key: QuarantineKey { consumer, record: record.sequin_id },
        sync_id: record.sync_id,
        collection_id: record.collection_id.into(),
        upstream_id: record.upstream_id.into(),
        idx,
        sqlstate: None,
        message: String::new(),
        fix: String::new(),
        first_failed_at: now,
        last_failed_at: now,
        attempts: 0,
        retry_at: None,
    }
}

fn retry_in(attempts: u32) -> Duration {
    Backoff::after(FIRST_RETRY, LAST_RETRY, attempts - 1).next(fastrand::f64())
}
