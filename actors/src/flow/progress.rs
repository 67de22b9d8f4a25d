//! The progress of one consumer: what its status and its checkpoint say.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::rate::Rate;
use crate::model::{
    Applied, Astray, Backfill, Checkpoint, Consumer, ConsumerStatus, Idx, Lag, Reason, RowAhead, RunState, Severity,
    StreamId, TableId,
};

/// How far a consumer is, across all its pipelines.
#[derive(Debug)]
pub struct Progress {
    checkpoint: Checkpoint,
    saved: Checkpoint,
    lag: Lag,
    /// How fast that becomes less.
    shrinking: Shrinking,
    /// Since when more of it waits than its limit allows.
    many_since: Option<DateTime<Utc>>,
    /// When it last got on, or was not to.
    got_on_at: Option<DateTime<Utc>>,
    rate: Rate,
    /// Records brought since the rate was last observed.
    recently: u64,
    /// Why nothing is to be read from the checkpoint on.
    astray: Option<Astray>,
}

/// How much may lie beyond a checkpoint before a consumer counts as behind.
#[derive(Clone, Copy, Debug)]
pub struct LagLimit {
    /// How old the oldest record may be.
    pub age: Duration,
    /// How many records there may be, if that matters.
    pub records: Option<u64>,
}

impl LagLimit {
    /// What a consumer allows.
    pub fn of(consumer: &Consumer) -> Self {
        Self {
            age: Duration::from_secs(consumer.lag_threshold_seconds.into()),
            records: consumer.lag_threshold_records,
        }
    }
}

/// How fast records that wait become fewer, while as many come as come.
#[derive(Debug, Default)]
struct Shrinking {
    last: Option<(u64, DateTime<Utc>)>,
    /// Records a second, averaged with weights that fall off with age; negative while there are ever more.
    per_second: Option<f64>,
}

impl Shrinking {
    /// How much of what the average shows is older than this: about a third.
    const WINDOW: f64 = 20.0;

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn observe(&mut self, records: u64, now: DateTime<Utc>) {
        let Some((before, at)) = self.last.replace((records, now)) else { return };
        let seconds = (now - at).to_std().unwrap_or_default().as_secs_f64();
        if seconds > 0.0 {
            let rate = (before as f64 - records as f64) / seconds;
            let averaged = self.per_second.unwrap_or(rate);
            self.per_second = Some(averaged + (1.0 - (-seconds / Self::WINDOW).exp()) * (rate - averaged));
        }
    }

    /// In how many seconds none of `records` will be left.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, of a positive number of seconds"
    )]
    fn eta(&self, records: u64) -> Option<u64> {
        let per_second = self.per_second.filter(|rate| *rate > 0.0)?;
        (records > 0).then(|| (records as f64 / per_second).ceil() as u64)
    }
}

impl Progress {
    /// Goes on from what the store holds.
    pub fn resume(checkpoint: Checkpoint) -> Self {
        Self {
            saved: checkpoint.clone(),
            checkpoint,
            lag: Lag::default(),
            shrinking: Shrinking::default(),
            many_since: None,
            got_on_at: None,
            rate: Rate::default(),
            recently: 0,
            astray: None,
        }
    }

    /// The checkpoint does not say where to go on in the stream that is there.
    pub fn is_astray(&mut self, astray: Astray) {
        self.astray = Some(astray);
    }

    /// The table was brought from a later state of the stream, as this row shows: which is to be saved, since the stream
    /// may get past it.
    pub fn is_behind_table(&mut self, ahead: RowAhead) -> Astray {
        self.checkpoint.row_ahead = Some(ahead);
        let astray = Astray::TableAhead { ahead };
        self.is_astray(astray);
        astray
    }

    /// Why it does not, if it does not.
    pub fn astray(&self) -> Option<Astray> {
        self.astray
    }

    /// This is the stream that it reads, if none was known when it began: the provider has published since.
    pub fn reads(&mut self, stream: Option<StreamId>) {
        self.checkpoint.stream = self.checkpoint.stream.or(stream);
    }

    /// It is this table that the records go to. Returns where to begin again if it is another than so far.
    pub fn goes_to(&mut self, table: TableId) -> Option<Checkpoint> {
        let before = self.checkpoint.table;
        // What was known of the server is not forgotten because it can't be asked now.
        let system = table.system.or(before.and_then(|before| before.system));
        self.checkpoint.table = Some(TableId { system, ..table });
        let is_another = before.is_some_and(|before| !before.is(table));
        is_another.then(|| Checkpoint { idx: Idx::START, backfill: None, ..self.checkpoint.clone() })
    }

    /// A batch was committed.
    pub fn applied(&mut self, applied: Applied, records: u64) {
        self.checkpoint.applied += applied;
        self.recently += records;
    }

    /// Everything up to `idx` is in the table.
    pub fn reached(&mut self, idx: Idx, now: DateTime<Utc>) {
        if idx != self.checkpoint.idx {
            self.got_on_at = Some(now);
        }
        self.checkpoint.idx = idx;
        if let Some(backfill) = &mut self.checkpoint.backfill
            && backfill.finished_at.is_none()
            && idx >= backfill.until
        {
            backfill.done = backfill.total;
            backfill.finished_at = Some(now);
        }
    }

    /// The stream was asked what lies beyond the checkpoint, and how much of that lies beyond the backfill too.
    pub fn measured(&mut self, lag: Lag, beyond_backfill: u64, limit: LagLimit, now: DateTime<Utc>) {
        self.got_on_at.get_or_insert(now);
        if lag.records == 0 {
            self.is_excused(now);
        }
        let are_many = limit.records.is_some_and(|most| lag.records > most);
        self.many_since = are_many.then(|| self.many_since.unwrap_or(now));
        self.shrinking.observe(lag.records, now);
        self.lag = lag;
        if let Some(backfill) = &mut self.checkpoint.backfill
            && backfill.finished_at.is_none()
        {
            let remaining = lag.records.saturating_sub(beyond_backfill);
            backfill.done = backfill.done.max(backfill.total.saturating_sub(remaining));
        }
    }

    /// Time went by.
    pub fn tick(&mut self, elapsed: Duration) {
        self.rate.observe(std::mem::take(&mut self.recently), elapsed);
    }

    /// Where to read on.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The checkpoint, if it has moved since it was last saved.
    pub fn unsaved(&self) -> Option<Checkpoint> {
        (!self.is_saved()).then(|| self.checkpoint.clone())
    }

    /// Whether the store holds all of it.
    pub fn is_saved(&self) -> bool {
        self.checkpoint == self.saved
    }

    /// What lies beyond the checkpoint, as it was last measured.
    pub fn lag(&self) -> Lag {
        self.lag
    }

    /// Whether it has moved lately: there is something to save, or the rate has not come to rest.
    pub fn moves(&self) -> bool {
        !self.is_saved() || self.recently > 0 || self.rate.per_second() > 0.0
    }

    /// The store holds `checkpoint`.
    pub fn saved(&mut self, checkpoint: Checkpoint) {
        self.saved = checkpoint;
    }

    /// Whether something lay beyond the checkpoint when the stream was last asked.
    pub fn has_lag(&self) -> bool {
        self.lag.records > 0
    }

    /// Where the backfill ends, while it goes on.
    pub fn backfill_until(&self) -> Option<Idx> {
        self.unfinished_backfill().map(|backfill| backfill.until)
    }

    fn unfinished_backfill(&self) -> Option<&Backfill> {
        self.checkpoint.backfill.as_ref().filter(|backfill| backfill.finished_at.is_none())
    }

    /// What the consumer is doing while nothing hinders it.
    pub fn run_state(&self) -> RunState {
        if self.unfinished_backfill().is_some() { RunState::Backfilling } else { RunState::Live }
    }

    /// It is not its fault that it does not get on now.
    pub fn is_excused(&mut self, now: DateTime<Utc>) {
        self.got_on_at = Some(now);
    }

    /// Says that the consumer is behind, if it is: more records wait than `limit` allows, or for longer.
    ///
    /// A backfill is not behind.
    pub fn behind(&self, limit: LagLimit, now: DateTime<Utc>) -> Option<Reason> {
        let oldest = self.lag.oldest_published_at.filter(|_| self.unfinished_backfill().is_none())?;
        let age = (now - oldest).to_std().unwrap_or_default();
        let late_since = (age > limit.age).then(|| oldest + limit.age);
        let many_since = self.many_since.filter(|_| limit.records.is_some());
        late_since.or(many_since).map(|since| Reason {
            code: "behind".into(),
            severity: Severity::Error,
            summary: format!("{} records wait, the oldest for {} s", self.lag.records, age.as_secs()),
            since,
            cause: Some("records come faster than the table takes them, or something holds the table up".into()),
            target: None,
            fix: "look at the target's load and locks; raise lag_threshold_seconds or lag_threshold_records if this is as it \
                  should be"
                .into(),
        })
    }

    /// Says that the backfill, which is under way, does not get on, if it has not for longer than `limit` allows.
    pub fn stalled_backfill(&self, limit: LagLimit, now: DateTime<Utc>) -> Option<Reason> {
        let since = self.got_on_at.filter(|_| self.unfinished_backfill().is_some() && self.has_lag())?;
        let still = (now - since).to_std().unwrap_or_default();
        (still > limit.age).then(|| Reason {
            code: "backfill_stalled".into(),
            severity: Severity::Error,
            summary: format!("the backfill has made no progress for {} s", still.as_secs()),
            since: since + limit.age,
            cause: Some("the table takes nothing, though its database answers: something holds it up".into()),
            target: None,
            fix: "look for locks on the table and for what the database waits for; look at this node's log".into(),
        })
    }

    /// The status to write down.
    pub fn status(
        &self,
        state: RunState,
        reasons: Vec<Reason>,
        quarantined: u64,
        node: &str,
        now: DateTime<Utc>,
    ) -> ConsumerStatus {
        ConsumerStatus {
            state,
            reasons,
            checked_at: now,
            backfill: self.checkpoint.backfill.clone(),
            checkpoint: self.checkpoint.idx,
            lag: self.lag,
            eta_seconds: self.shrinking.eta(self.lag.records),
            records_per_second: self.rate.per_second(),
            applied: self.checkpoint.applied,
            quarantined,
            node: node.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backfilling(total: u64, until: u64) -> Progress {
        let backfill =
            Backfill { until: Idx(until), total, done: 0, started_at: DateTime::UNIX_EPOCH, finished_at: None };
        Progress::resume(Checkpoint { backfill: Some(backfill), ..Checkpoint::default() })
    }

    fn lag(records: u64) -> Lag {
        Lag { records, oldest_published_at: Some(DateTime::UNIX_EPOCH) }
    }

    fn limit(seconds: u64) -> LagLimit {
        LagLimit { age: Duration::from_secs(seconds), records: None }
    }

    #[test]
    fn a_backfill_counts_what_was_brought_and_what_moved_on_and_ends_at_its_end() {
        let mut progress = backfilling(100, 100);
        progress.measured(lag(130), 70, limit(300), Utc::now());
        let done = |progress: &Progress| progress.checkpoint.backfill.as_ref().expect("a backfill").done;
        assert_eq!((done(&progress), progress.run_state()), (40, RunState::Backfilling));
        progress.reached(Idx(99), Utc::now());
        assert_eq!(progress.run_state(), RunState::Backfilling);
        progress.reached(Idx(100), Utc::now());
        assert_eq!((done(&progress), progress.run_state()), (100, RunState::Live));
    }

    #[test]
    fn a_consumer_is_behind_when_its_oldest_record_is_old_but_not_in_a_backfill() {
        let now = DateTime::UNIX_EPOCH + Duration::from_secs(400);
        let mut progress = backfilling(100, 100);
        progress.measured(lag(5), 5, limit(300), now);
        assert_eq!(progress.behind(limit(300), now), None);
        progress.reached(Idx(100), now);
        let reason = progress.behind(limit(300), now).expect("behind");
        assert_eq!(reason.since, DateTime::UNIX_EPOCH + Duration::from_secs(300));
        assert_eq!(progress.behind(limit(500), now), None);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_late_and_one_that_jumps_ahead_only_while_something_waits() {
        let published = DateTime::UNIX_EPOCH;
        let (before, long_after) =
            (published - Duration::from_secs(1_000_000), published + Duration::from_secs(1 << 40));
        let mut progress = Progress::resume(Checkpoint::default());
        progress.measured(lag(5), 0, limit(300), before);
        assert_eq!(progress.behind(limit(0), before), None);
        assert!(progress.behind(limit(u32::MAX.into()), long_after).is_some());
        progress.measured(Lag::default(), 0, limit(300), before);
        assert_eq!(progress.behind(limit(0), long_after), None);
    }

    #[test]
    fn a_table_that_was_made_again_gets_everything_from_the_start() {
        let table = |relation| TableId { system: Some(1), database: 1, relation };
        let mut progress = backfilling(100, 100);
        progress.reached(Idx(100), Utc::now());
        assert_eq!(progress.goes_to(table(7)), None, "the first is not another");
        assert_eq!(progress.goes_to(table(7)), None);
        let again = progress.goes_to(table(8)).expect("another");
        assert_eq!((again.idx, again.backfill, again.table), (Idx::START, None, Some(table(8))));
        assert_eq!(progress.goes_to(TableId { system: None, ..table(8) }), None, "nothing speaks against it");
        assert_eq!(progress.goes_to(table(8)), None);
        assert_eq!(progress.goes_to(TableId { system: None, ..table(8) }), None);
        assert!(progress.goes_to(TableId { system: Some(2), ..table(8) }).is_some(), "it is on another server");
    }

    #[test]
    fn a_checkpoint_is_to_be_saved_once_for_each_time_that_it_moves() {
        let mut progress = Progress::resume(Checkpoint::default());
        assert_eq!(progress.unsaved(), None);
        progress.reached(Idx(5), Utc::now());
        let unsaved = progress.unsaved().expect("moved");
        progress.saved(unsaved);
        assert_eq!(progress.unsaved(), None);
    }

    #[test]
    fn so_many_records_can_be_too_many_however_young_they_are() {
        let mut progress = Progress::resume(Checkpoint::default());
        let now = DateTime::UNIX_EPOCH + Duration::from_secs(10);
        let most = |records| LagLimit { records: Some(records), ..limit(300) };
        progress.measured(lag(1001), 0, most(1001), now);
        assert_eq!(progress.behind(most(1001), now), None);
        progress.measured(lag(1001), 0, most(1000), now);
        progress.measured(lag(2000), 0, most(1000), now + Duration::from_secs(20));
        assert_eq!(progress.behind(most(1000), now).expect("behind").since, now, "not for as long as they wait");
    }

    #[test]
    fn a_backfill_that_makes_no_progress_is_told_for_that_unless_it_could_not() {
        let at = |seconds| DateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut progress = backfilling(100, 100);
        progress.measured(lag(99), 0, limit(300), at(0));
        assert_eq!(progress.stalled_backfill(limit(300), at(300)), None);
        let reason = progress.stalled_backfill(limit(300), at(301)).expect("stalled");
        assert_eq!((reason.code.as_str(), reason.since), ("backfill_stalled", at(300)));
        progress.is_excused(at(301));
        assert_eq!(progress.stalled_backfill(limit(300), at(600)), None);
        progress.reached(Idx(100), at(700));
        assert_eq!(progress.stalled_backfill(limit(300), at(5000)), None, "it is over");
    }

    #[test]
    fn it_is_estimated_when_none_will_be_left_from_how_fast_they_become_fewer() {
        let mut shrinking = Shrinking::default();
        let at = |seconds| DateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(shrinking.eta(1000), None);
        for second in 0..100 {
            shrinking.observe(10_000 - second * 50, at(second));
        }
        assert_eq!(shrinking.eta(5000), Some(100));
        assert_eq!(shrinking.eta(0), None);
        for second in 100..300 {
            shrinking.observe(5000 + second, at(second));
        }
        assert_eq!(shrinking.eta(5300), None, "there are ever more");
    }
}
