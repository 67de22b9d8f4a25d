//! A consumer, as it is shown: what it should be, and what its actor observed.

use chrono::{DateTime, TimeDelta, Utc};
use sequin_actors::model::{
    Applied, Backfill, Consumer, ConsumerStatus, Desired, Filter, Metadata, Reason, RunState, Severity, Target,
    UnsupportedText,
};
use serde::Serialize;
use uuid::Uuid;

use super::super::targets::HealthView;

/// A status that is older than this has nobody who writes it any more.
const STALE: TimeDelta = TimeDelta::seconds(60);

/// A consumer, as it is shown.
#[derive(Serialize)]
pub(in super::super) struct ConsumerView {
    id: Uuid,
    name: String,
    target: TargetRef,
    filter: FilterView,
    schema: String,
    table: String,
    state: &'static str,
    health: HealthView,
    backfill: Option<BackfillView>,
    checkpoint: u64,
    lag: LagView,
    rate: RateView,
    applied: Applied,
    quarantined: u64,
    node: Option<String>,
    unsupported_text: UnsupportedText,
    lag_threshold_seconds: u32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    metadata: Metadata,
}

#[derive(Serialize)]
struct TargetRef {
    id: Uuid,
    name: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum FilterView {
    Provider(String),
    Sync(Uuid),
}

#[derive(Serialize)]
struct BackfillView {
    total: u64,
    done: u64,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    eta_seconds: Option<u64>,
}

#[derive(Serialize)]
struct LagView {
    records: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct RateView {
    records_per_second: f64,
}

impl ConsumerView {
    pub(super) fn of(
        consumer: Consumer,
        target: Option<Target>,
        status: Option<ConsumerStatus>,
        now: DateTime<Utc>,
    ) -> Self {
        let seconds = |from: DateTime<Utc>| (now - from).to_std().unwrap_or_default().as_secs_f64();
        let rate = status.as_ref().map_or(0.0, |status| status.records_per_second);
        let lag = status.as_ref().map(|status| status.lag).unwrap_or_default();
        let backfill = status.as_ref().and_then(|status| status.backfill.as_ref());
        Self {
            id: consumer.id.0,
            state: state(consumer.desired, status.as_ref()),
            health: health(&consumer, status.as_ref(), now),
            backfill: backfill.map(|backfill| BackfillView::of(backfill, rate)),
            checkpoint: status.as_ref().map_or(0, |status| status.checkpoint.0),
            lag: LagView { records: lag.records, seconds: lag.oldest_published_at.map_or(0.0, seconds) },
            rate: RateView { records_per_second: rate },
            applied: status.as_ref().map(|status| status.applied).unwrap_or_default(),
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

fn health(consumer: &Consumer, status: Option<&ConsumerStatus>, now: DateTime<Utc>) -> HealthView {
    let Some(status) = status.filter(|_| consumer.desired != Desired::Draft) else {
        return HealthView { status: "initializing", reasons: Vec::new(), checked_at: None };
    };
    let mut reasons = if consumer.desired == Desired::Paused { Vec::new() } else { status.reasons.clone() };
    if now - status.checked_at > STALE {
        reasons.push(Reason {
            code: "status_stale".into(),
            severity: Severity::Error,
            summary: format!("nobody has reported on it since {}", status.checked_at),
            since: status.checked_at + STALE,
            cause: Some("its node is down, or can't write to the control store".into()),
            target: None,
            fix: format!("look whether node {} is alive", status.node),
        });
    }
    let is_starting =
        consumer.desired == Desired::Running && matches!(status.state, RunState::Paused | RunState::Waiting);
    let health = match reasons.as_slice() {
        [] if is_starting => "initializing",
        [] => "healthy",
        [only] if only.code == "target_connecting" => "initializing",
        reasons if reasons.iter().all(|reason| reason.severity == Severity::Warning) => "healthy",
        _ => "unhealthy",
    };
    HealthView { status: health, reasons, checked_at: Some(status.checked_at) }
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
