//! An incident, as it is shown.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Behind, Delivery, Destination, Incident, IncidentKind, Notice, NoticeEvent, Resolution, Subject},
    notify::{headline, incident_url},
};
use serde::{Serialize, Serializer};
use utoipa::{ToSchema, openapi::Object};
use uuid::Uuid;

use crate::api::{
    alerting::test::{channel, channel_words},
    openapi::{or_null, words},
    reasons::ReasonView,
};

/// Something that is or was wrong for long enough that somebody should know: one for each cause, however many it hinders.
#[derive(Serialize, ToSchema)]
#[schema(as = Incident)]
pub(in crate::api) struct IncidentView {
    id: Uuid,
    #[schema(schema_with = kind_words)]
    kind: IncidentKind,
    #[schema(schema_with = status_words)]
    status: &'static str,
    /// What is wrong, in one line.
    title: String,
    subject: SubjectView,
    /// The name of the target that it is about, or that the consumer writes to.
    #[schema(required)]
    target: Option<String>,
    /// How many consumers it hinders.
    consumers: u64,
    /// How many records are in quarantine, where it is about those.
    #[schema(required)]
    records: Option<u64>,
    /// How far behind the consumer is, where it is about that.
    #[schema(required)]
    behind: Option<BehindView>,
    reason: ReasonView,
    opened_at: DateTime<Utc>,
    /// Since when nothing is wrong, while it is waited whether that lasts.
    #[schema(required)]
    cleared_at: Option<DateTime<Utc>>,
    /// When that had lasted.
    #[schema(required)]
    resolved_at: Option<DateTime<Utc>>,
    /// How it came to an end.
    #[schema(schema_with = resolution_words, required)]
    resolution: Option<Resolution>,
    /// What was said of it, as far as that is kept; in a list, the last ten.
    #[schema(value_type = Vec<NoticeView>)]
    #[serde(serialize_with = "each")]
    notices: Vec<Arc<NoticeView>>,
    /// Where the console shows it, if it is known where that is.
    #[schema(required)]
    url: Option<String>,
}

/// What it is about.
#[derive(Serialize, ToSchema)]
#[schema(as = IncidentSubject)]
struct SubjectView {
    #[serde(rename = "type")]
    #[schema(schema_with = subject_words)]
    kind: &'static str,
    /// Null for a node.
    #[schema(required)]
    id: Option<Uuid>,
    name: String,
}

/// How far behind a consumer is.
#[derive(Serialize, ToSchema)]
#[schema(as = Behind)]
struct BehindView {
    records: u64,
    /// The age of the oldest of them.
    seconds: f64,
    /// In how many seconds none is left; null if that is not known.
    #[schema(required)]
    eta_seconds: Option<u64>,
}

/// What was said.
#[derive(Serialize, ToSchema)]
#[schema(as = Notice)]
pub(super) struct NoticeView {
    pub(super) id: Uuid,
    #[schema(schema_with = event_words)]
    event: &'static str,
    at: DateTime<Utc>,
    deliveries: Vec<DeliveryView>,
}

/// Whether it has arrived at one of those who were to be told.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryView {
    #[schema(schema_with = channel_words)]
    channel: &'static str,
    /// The address, or the name of the webhook.
    destination: String,
    #[schema(schema_with = delivery_words)]
    state: &'static str,
    /// Since when it is delivered or given up.
    #[schema(required)]
    at: Option<DateTime<Utc>>,
    /// When it is tried next, while it is pending.
    #[schema(required)]
    next_at: Option<DateTime<Utc>>,
    /// What went wrong the last time.
    #[schema(required)]
    error: Option<String>,
}

pub(super) fn kind_words() -> Object {
    words("What went wrong.", &IncidentKind::ALL.map(IncidentKind::as_str))
}

fn status_words() -> Object {
    words("Whether it is over.", &["open", "resolved"])
}

fn resolution_words() -> Object {
    or_null(words("How it came to an end; null while it has not.", &["recovered", "paused", "deleted"]))
}

fn subject_words() -> Object {
    words("What it is about.", &["target", "consumer", "node"])
}

fn event_words() -> Object {
    let events = [NoticeEvent::Opened, NoticeEvent::Reminded, NoticeEvent::Resolved, NoticeEvent::Test];
    words("What was said.", &events.map(NoticeEvent::as_str))
}

fn delivery_words() -> Object {
    words("Whether it has arrived.", &["pending", "delivered", "given_up"])
}

impl IncidentView {
    pub(super) fn of(
        incident: Incident,
        notices: Vec<Arc<NoticeView>>,
        console_url: Option<&str>,
        now: DateTime<Utc>,
    ) -> Self {
        let title = headline(&incident, now);
        let url = console_url.map(|console| incident_url(console, incident.id));
        let (status, seconds) = (incident.status(), incident.seconds_behind(now));
        let Incident {
            id,
            kind,
            subject,
            consumers,
            records,
            behind,
            reason,
            opened_at,
            cleared_at,
            resolved_at,
            resolution,
        } = incident;
        let (subject, target) = match subject {
            Subject::Target { id, name } => {
                (SubjectView { kind: "target", id: Some(id.0), name: name.clone() }, Some(name))
            }
            Subject::Consumer { id, name, target } => {
                (SubjectView { kind: "consumer", id: Some(id.0), name }, Some(target))
            }
            Subject::Node { name } => (SubjectView { kind: "node", id: None, name }, None),
        };
        Self {
            id: id.0,
            kind,
            status,
            title,
            subject,
            target,
            consumers,
            records,
            behind: behind.map(|Behind { records, eta_seconds, .. }| BehindView { records, seconds, eta_seconds }),
            reason: reason.into(),
            opened_at,
            cleared_at,
            resolved_at,
            resolution,
            notices,
            url,
        }
    }
}

/// One may be shown of many incidents.
fn each<S: Serializer>(notices: &[Arc<NoticeView>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(notices.iter().map(Arc::as_ref))
}

impl NoticeView {
    pub(super) fn of(notice: Notice) -> Self {
        let deliveries = notice.deliveries.into_iter().map(|(to, delivery)| DeliveryView::of(&to, delivery)).collect();
        Self { id: notice.id.0, event: notice.event.as_str(), at: notice.made_at, deliveries }
    }
}

impl DeliveryView {
    fn of(to: &Destination, delivery: Delivery) -> Self {
        let (channel, name) = channel(to);
        let (state, at, next_at, error) = match delivery {
            Delivery::Pending { next_at, error, .. } => ("pending", None, Some(next_at), error),
            Delivery::Delivered { at } => ("delivered", Some(at), None, None),
            Delivery::GivenUp { at, error } => ("given_up", Some(at), None, Some(error)),
        };
        Self { channel, destination: name.into(), state, at, next_at, error }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::TimeDelta;
    use sequin_actors::model::{IncidentId, NoticeId, Reason, Severity, TargetId};
    use serde_json::json;

    use super::*;

    pub(in super::super) fn incident(subject: Subject) -> Incident {
        Incident {
            id: IncidentId(Uuid::from_u128(7)),
            kind: IncidentKind::ConsumerBehind,
            subject,
            consumers: 1,
            records: None,
            behind: None,
            reason: Reason {
                code: "behind".into(),
                severity: Severity::Error,
                summary: "it is behind".into(),
                since: DateTime::UNIX_EPOCH,
                cause: None,
                target: None,
                fix: "wait".into(),
            },
            opened_at: DateTime::UNIX_EPOCH + TimeDelta::minutes(5),
            cleared_at: None,
            resolved_at: None,
            resolution: None,
        }
    }

    #[test]
    fn an_incident_is_shown_with_who_was_told_and_where_to_look() {
        let id = TargetId::generate();
        let behind = Behind { records: 7, oldest_published_at: Some(DateTime::UNIX_EPOCH), eta_seconds: Some(3) };
        let over = DateTime::UNIX_EPOCH + TimeDelta::minutes(10);
        let resolved = Incident {
            behind: Some(behind),
            cleared_at: Some(over),
            resolved_at: Some(over),
            resolution: Some(Resolution::Recovered),
            ..incident(Subject::Target { id, name: "app".into() })
        };
        let pending = Delivery::Pending { attempts: 1, next_at: over, error: Some("refused".into()) };
        let notice = Notice {
            id: NoticeId(Uuid::from_u128(8)),
            event: NoticeEvent::Opened,
            incidents: vec![resolved.id],
            shown: Vec::new(),
            counts: Vec::new(),
            made_at: over,
            deliveries: vec![
                (Destination::Email("a@example.com".into()), pending),
                (Destination::Webhook("ops".into()), Delivery::Delivered { at: over }),
            ],
        };
        let console = Some("https://sequin.example.com");
        let view =
            IncidentView::of(resolved, vec![Arc::new(NoticeView::of(notice))], console, over + TimeDelta::days(1));
        let view = serde_json::to_value(view).expect("JSON");
        assert_eq!((&view["kind"], &view["status"]), (&json!("consumer_behind"), &json!("resolved")));
        assert_eq!(view["subject"], json!({"type": "target", "id": id.0, "name": "app"}));
        assert_eq!((&view["target"], &view["reason"]["code"]), (&json!("app"), &json!("behind")));
        assert_eq!(view["behind"], json!({"records": 7, "seconds": 600.0, "eta_seconds": 3}));
        assert_eq!(view["url"], "https://sequin.example.com/incidents/00000000-0000-0000-0000-000000000007");
        let told = &view["notices"][0];
        assert_eq!((&told["event"], &told["at"]), (&json!("opened"), &json!(over)));
        let deliveries = json!([
            {"channel": "email", "destination": "a@example.com", "state": "pending", "at": null, "next_at": over, "error": "refused"},
            {"channel": "webhook", "destination": "ops", "state": "delivered", "at": over, "next_at": null, "error": null},
        ]);
        assert_eq!(told["deliveries"], deliveries);
    }
}
