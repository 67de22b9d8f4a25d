//! The quarantine of one consumer: the records that its database refused.
//!
//! What is in it lies in the store, and is kept in memory for as long as a pipeline runs. A refused version is written
//! to the store before its page counts as brought, so the checkpoint never passes one that nobody remembers. A version
//! that replaces it takes its entry away once it is in the table, likewise before its page counts. So after a crash
//! each record that lies before the checkpoint is in the table or in quarantine.
//!
//! An entry that can't be read counts as well, and is left as it is. It can't be tried again, since its version is not
//! known. Whatever the stream brings of the record is no older: that takes its place, or takes it away.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::try_join_all;
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
    store::{Documents, DocumentsError, Revision, StoreError},
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

/// The quarantine of one consumer.
pub(crate) struct Quarantine {
    consumer: ConsumerId,
    documents: Documents,
    inner: Mutex<Inner>,
    refused: Notify,
}

struct Inner {
    held: HashMap<SequinId, Held>,
    /// The entries that can't be read, by what their keys end with: the record, unless the key is damaged too.
    unreadable: HashSet<String>,
    loaded_at: DateTime<Utc>,
    refusals: Refusals,
}

struct Held {
    entry: Quarantined,
    /// Where the store has it, or an earlier form of it.
    revision: Option<Revision>,
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
        let (mut held, mut unreadable) = (HashMap::new(), HashSet::new());
        for found in documents.all_of::<Quarantined>(consumer).await? {
            match found {
                Ok(found) => {
                    let retry = next(found.value.retry_at, now);
                    let (record, revision) = (found.value.key.record, Some(found.revision));
                    held.insert(record, Held { entry: found.value, revision, retry });
                }
                Err(entry) => {
                    tracing::error!(unreadable = %entry, "left in quarantine as it is");
                    unreadable.insert(entry.id().to_owned());
                }
            }
        }
        let inner = Mutex::new(Inner { held, unreadable, loaded_at: Utc::now(), refusals: Refusals::new(limit) });
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
        self.lock().len()
    }

    /// What a status says of it.
    pub(crate) fn reasons(&self) -> Vec<Reason> {
        let inner = self.lock();
        let entries = || inner.held.values().map(|held| &held.entry);
        let last = entries().max_by_key(|entry| entry.last_failed_at);
        let since = entries().map(|entry| entry.first_failed_at).min();
        let refused = last.zip(since).map(|(last, since)| reason::quarantined(inner.held.len(), since, &last.message));
        let unreadable = Some(inner.unreadable.len()).filter(|&entries| entries > 0);
        let unreadable = unreadable.map(|entries| reason::quarantine_unreadable(entries, inner.loaded_at));
        refused.into_iter().chain(unreadable).collect()
    }

    /// A batch is about to be brought: leaves out the versions that are in quarantine already.
    pub(crate) fn begin(&self, batch: &mut Batch) {
        let mut inner = self.lock();
        inner.refusals.batch(batch.len() as u64);
        if !inner.held.is_empty() {
            batch.retain(|row| !inner.holds(row));
        }
    }

    /// Sets a version aside, unless that makes too many. The store hears of it by [`Quarantine::save`].
    pub(crate) fn refuse(&self, record: &Record<'_>, idx: Idx, fault: &Fault) -> Result<(), TooManyRefusals> {
        let mut inner = self.lock();
        let before = inner.held.get(&record.sequin_id);
        let revision = before.and_then(|held| held.revision);
        let mut entry = match before.filter(|held| held.entry.idx == idx) {
            Some(again) => again.entry.clone(),
            None => {
                let others = inner.len() - usize::from(inner.has(record.sequin_id));
                inner.refusals.refused(others)?;
                first_refusal(self.consumer, record, idx)
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
        inner.remove(record.sequin_id);
        inner.held.insert(record.sequin_id, Held { entry, revision, retry });
        drop(inner);
        self.refused.notify_one();
        Ok(())
    }

    /// Tells the store of records that were refused, all at once: they share its commit.
    pub(crate) async fn save(&self, refused: &[SequinId]) -> Result<(), DocumentsError> {
        try_join_all(refused.iter().map(|&record| self.save_one(record))).await?;
        Ok(())
    }

    async fn save_one(&self, record: SequinId) -> Result<(), DocumentsError> {
        let unsaved = self.lock().held.get(&record).map(|held| (held.entry.clone(), held.revision));
        let Some((entry, revision)) = unsaved else { return Ok(()) };
        let saved = match revision {
            None => self.documents.put(entry.key, &entry).await,
            Some(revision) => self.documents.update(entry.key, &entry, revision).await,
        };
        match saved {
            Ok(revision) => {
                if let Some(held) = self.lock().held.get_mut(&record) {
                    held.revision = Some(revision);
                }
                Ok(())
            }
            // Somebody has discarded the entry meanwhile.
            Err(DocumentsError::Store(StoreError::Conflict { .. })) => {
                self.lock().remove(record);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A batch was brought, but for what was `refused` of it.
    pub(crate) async fn brought(&self, batch: &Batch, refused: &[SequinId]) -> Result<(), DocumentsError> {
        let refused: HashSet<_> = refused.iter().collect();
        let done: Vec<_> = {
            let inner = self.lock();
            let records = batch.rows().map(|(row, _)| row.sequin_id).filter(|_| inner.len() > 0);
            records.filter(|record| inner.has(*record) && !refused.contains(record)).collect()
        };
        try_join_all(done.into_iter().map(|record| self.forget(record))).await?;
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
        let revision = {
            let inner = self.lock();
            match inner.held.get(&record).map(|held| held.revision) {
                // That of an entry that can't be read does not matter: whatever it says is superseded.
                None if !inner.has(record) => return Ok(()),
                revision => revision.flatten(),
            }
        };
        let key = QuarantineKey { consumer: self.consumer, record };
        match self.documents.delete::<Quarantined>(key, revision).await {
            // Somebody has discarded it meanwhile.
            Ok(()) | Err(DocumentsError::Store(StoreError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
        self.lock().remove(record);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn len(&self) -> usize {
        self.held.len() + self.unreadable.len()
    }

    /// Whether some version of the record is in it, perhaps one that can't be read.
    fn has(&self, record: SequinId) -> bool {
        let is_unreadable = || !self.unreadable.is_empty() && self.unreadable.contains(&record.to_string());
        self.held.contains_key(&record) || is_unreadable()
    }

    fn remove(&mut self, record: SequinId) {
        self.held.remove(&record);
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&record.to_string());
        }
    }

    /// Whether this version is set aside, and not being tried again.
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
