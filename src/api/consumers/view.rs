//! A consumer, as it is shown: what it should be, and what its actor observed.

use chrono::{DateTime, Utc};
use sequin_actors::model::{
    Backfill, Consumer, ConsumerStatus, Desired, Filter, Metadata, Reason, RunState, Severity, Target, UnsupportedText,
    silence_on_consumer,
};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};
use uuid::Uuid;

use super::{
    super::{openapi::words, reasons::HealthView},
    unsupported_text_words,
};

/// A consumer, as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Consumer)]
pub(in super::super) struct ConsumerView {
    id: Uuid,
    name: String,
    target: TargetRef,
    filter: FilterView,
    schema: String,
    table: String,
    #[schema(schema_with = state_words)]
    state: &'static str,
    health: HealthView,
    #[schema(required)]
    backfill: Option<BackfillView>,
    /// Everything up to this position is in the table.
    checkpoint: u64,
    lag: LagView,
    rate: RateView,
    applied: AppliedView,
    /// Records upserted with U+FFFD in place of text that the database can't hold.
    replaced_text: u64,
    quarantined: u64,
    /// The node that runs it.
    #[schema(required)]
    node: Option<String>,
    #[schema(schema_with = unsupported_text_words)]
    unsupported_text: UnsupportedText,
    lag_threshold_seconds: u32,
    /// How many unapplied records there may be before the consumer counts as behind too; null for any number.
    #[schema(required)]
    lag_threshold_records: Option<u64>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    #[schema(value_type = Object)]
    metadata: Metadata,
}

#[derive(Serialize, ToSchema)]
struct TargetRef {
    id: Uuid,
    #[schema(required)]
    name: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Filter)]
enum FilterView {
    Provider(String),
    Sync(Uuid),
}

#[derive(Serialize, ToSchema)]
#[schema(as = Backfill)]
struct BackfillView {
    total: u64,
    done: u64,
    started_at: DateTime<Utc>,
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
    #[schema(required)]
    eta_seconds: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Lag)]
struct LagView {
    records: u64,
    seconds: f64,
    /// In how many seconds there is none, at the pace at which it becomes less; null if that is not known.
    #[schema(required)]
    eta_seconds: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Applied)]
struct AppliedView {
    upserts: u64,
    deletes: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Rate)]
struct RateView {
    records_per_second: f64,
}

pub(super) const STATES: [&str; 6] = ["draft", "waiting", "backfilling", "live", "halted", "paused"];

pub(super) fn state_words() -> Object {
    words("What it is doing.", &STATES)
}

impl ConsumerView {
    /// The consumer with what was found beside it, and why the rest of that is `unreadable`.
    pub(super) fn of(
        consumer: Consumer,
        target: Option<Target>,
        status: Option<ConsumerStatus>,
        unreadable: Vec<Reason>,
        now: DateTime<Utc>,
    ) -> Self {
        let seconds = |from: DateTime<Utc>| (now - from).to_std().unwrap_or_default().as_secs_f64();
        let rate = status.as_ref().map_or(0.0, |status| status.records_per_second);
        let applied = status.as_ref().map(|status| status.applied).unwrap_or_default();
        let lag = status.as_ref().map(|status| status.lag).unwrap_or_default();
        let backfill = status.as_ref().and_then(|status| status.backfill.as_ref());
        Self {
            id: consumer.id.0,
            state: state(consumer.desired, status.as_ref()),
            health: health(&consumer, status.as_ref(), unreadable, now),
            backfill: backfill.map(|backfill| BackfillView::of(backfill, rate)),
            checkpoint: status.as_ref().map_or(0, |status| status.checkpoint.0),
            lag: LagView {
                records: lag.records,
                seconds: lag.oldest_published_at.map_or(0.0, seconds),
                eta_seconds: status.as_ref().and_then(|status| status.eta_seconds),
            },
            rate: RateView { records_per_second: rate },
            applied: AppliedView { upserts: applied.upserts, deletes: applied.deletes },
            replaced_text: applied.replaced_text,
            quarantined: status.as_ref().map_or(0, |status| status.quarantined),
            node: status.map(|status| status.node),
            name: consumer.name,
            target: TargetRef { id: consumer.target.0, name: target.map(|target| target.name) },
            filter: match consumer.filter {
                Filter::Provider(provider) => FilterView::Provider(provider.into()),
                Filter::Sync(sync) => FilterView::Sync(sync.0),
            },
            schema: consumer.table.schema,
            table: consumer.table.table,
            unsupported_text: consumer.unsupported_text,
            lag_threshold_seconds: consumer.lag_threshold_seconds,
            lag_threshold_records: consumer.lag_threshold_records,
            created_at: consumer.created_at,
            updated_at: consumer.updated_at,
            metadata: consumer.metadata,
        }
    }

    /// Whether it writes to the target of this id or name.
    pub(super) fn is_of_target(&self, id_or_name: &str) -> bool {
        self.target.name.as_deref() == Some(id_or_name) || self.target.id.to_string() == id_or_name
    }

    pub(super) fn is_in_state(&self, state: &str) -> bool {
        self.state == state
    }
}

/// What the actor says, as far as it has heard what it should do.
fn state(desired: Desired, status: Option<&ConsumerStatus>) -> &'static str {
    match (desired, status.map(|status| status.state)) {
        (Desired::Draft, _) => "draft",
        (Desired::Paused, _) => "paused",
        (Desired::Running, None | Some(RunState::Paused | RunState::Waiting)) => "waiting",
        (Desired::Running, Some(RunState::Backfilling)) => "backfilling",
        (Desired::Running, Some(RunState::Live)) => "live",
        (Desired::Running, Some(RunState::Halted)) => "halted",
    }
}

fn health(
    consumer: &Consumer,
    status: Option<&ConsumerStatus>,
    unreadable: Vec<Reason>,
    now: DateTime<Utc>,
) -> HealthView {
    if consumer.desired == Desired::Draft {
        let health = if unreadable.is_empty() { "initializing" } else { "unhealthy" };
        let reasons = unreadable.into_iter().map(Into::into).collect();
        return HealthView { status: health, reasons, checked_at: None };
    }
    let mut reasons = match status {
        Some(status) if consumer.desired == Desired::Running => status.reasons.clone(),
        _ => Vec::new(),
    };
    let checked_at = status.map(|status| status.checked_at);
    // A report that can't be read is no silence.
    if status.is_some() || unreadable.is_empty() {
        reasons.extend(silence_on_consumer(consumer, status, now));
    }
    reasons.extend(unreadable);
    let is_starting = match status.map(|status| status.state) {
        None => true,
        Some(RunState::Paused | RunState::Waiting) => consumer.desired == Desired::Running,
        Some(_) => false,
    };
    let health = match reasons.as_slice() {
        [] if is_starting => "initializing",
        [] => "healthy",
        [only] if only.code == "target_connecting" => "initializing",
        reasons if reasons.iter().all(|reason| reason.severity == Severity::Warning) => "healthy",
        _ => "unhealthy",
    };
    HealthView { status: health, reasons: reasons.into_iter().map(Into::into).collect(), checked_at }
}

impl BackfillView {
    fn of(backfill: &Backfill, records_per_second: f64) -> Self {
        let &Backfill { total, done, started_at, finished_at, .. } = backfill;
        let remaining = total.saturating_sub(done);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, of a positive number of seconds"
        )]
        let eta = (records_per_second >= 1.0).then(|| (remaining as f64 / records_per_second).ceil() as u64);
        let eta_seconds = if finished_at.is_some() { Some(0) } else { eta };
        Self { total, done, started_at, finished_at, eta_seconds }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use sequin_actors::model::{Applied, CONSUMER_SILENT, ConsumerId, Idx, Lag, Rewind, SyncId, TableName, TargetId};

    use super::*;

    fn consumer(desired: Desired, updated_at: DateTime<Utc>) -> Consumer {
        Consumer {
            id: ConsumerId::generate(),
            name: "forward".into(),
            target: TargetId::generate(),
            filter: Filter::Sync(SyncId(Uuid::nil())),
            table: TableName { schema: "sequin".into(), table: "forward".into() },
            unsupported_text: UnsupportedText::default(),
            lag_threshold_seconds: 300,
            lag_threshold_records: None,
            metadata: Metadata::new(),
            desired,
            attempt: 1,
            rewind: Rewind::default(),
            created_at: updated_at,
            updated_at,
        }
    }

    fn status(state: RunState, severities: &[Severity], checked_at: DateTime<Utc>) -> ConsumerStatus {
        let reason = |&severity: &Severity| Reason {
            code: "some_word".into(),
            severity,
            summary: String::new(),
            since: checked_at,
            cause: None,
            target: None,
            fix: String::new(),
        };
        ConsumerStatus {
            state,
            reasons: severities.iter().map(reason).collect(),
            checked_at,
            backfill: None,
            checkpoint: Idx::START,
            lag: Lag::default(),
            eta_seconds: None,
            records_per_second: 0.0,
            applied: Applied::default(),
            quarantined: 0,
            node: "n1".into(),
        }
    }

    #[test]
    fn a_consumer_is_unhealthy_if_one_of_the_reasons_is_an_error() {
        let now = Utc::now();
        let running = consumer(Desired::Running, now);
        let health =
            |severities: &[Severity]| health(&running, Some(&status(RunState::Live, severities, now)), Vec::new(), now);
        assert_eq!(health(&[]).status, "healthy");
        assert_eq!(health(&[Severity::Warning]).status, "healthy");
        assert_eq!(health(&[Severity::Warning, Severity::Error]).status, "unhealthy");
    }

    #[test]
    fn a_consumer_that_nobody_reports_on_is_unhealthy_unless_it_is_a_draft() {
        let now = Utc::now();
        let long_ago = now - CONSUMER_SILENT - TimeDelta::seconds(1);
        for (desired, expected) in
            [(Desired::Running, "unhealthy"), (Desired::Paused, "unhealthy"), (Desired::Draft, "initializing")]
        {
            let consumer = consumer(desired, long_ago);
            let last = status(RunState::Live, &[], long_ago);
            assert_eq!(health(&consumer, Some(&last), Vec::new(), now).status, expected, "{desired:?}");
            assert_eq!(health(&consumer, None, Vec::new(), now).status, expected, "{desired:?}");
        }
        let started = consumer(Desired::Running, now);
        assert_eq!(health(&started, None, Vec::new(), now).status, "initializing");
    }

    #[test]
    fn a_report_is_stale_when_it_is_old_and_when_the_clock_was_set_back_behind_it() {
        let checked_at = DateTime::UNIX_EPOCH + TimeDelta::days(365);
        let (running, status) = (consumer(Desired::Running, checked_at), status(RunState::Live, &[], checked_at));
        let codes = |seconds| {
            let health = health(&running, Some(&status), Vec::new(), checked_at + TimeDelta::seconds(seconds));
            health.reasons.into_iter().map(|reason| reason.code).collect::<Vec<_>>()
        };
        for seconds in [0, 59, -59] {
            assert_eq!(codes(seconds), [""; 0], "{seconds} s later");
        }
        for seconds in [61, 365 * 86_400, -61, -365 * 86_400] {
            assert_eq!(codes(seconds), ["status_stale"], "{seconds} s later");
        }
    }
}
