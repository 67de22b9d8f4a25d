//! What webhooks are sent: an event of CloudEvents 1.0 in its structured mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>), or a text for Slack
//! (<https://docs.slack.dev/messaging/formatting-message-text>).

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    card::{Card, Fix, incident_url},
    wording::{headline_as, listed, tag, title, total},
};
use crate::model::{Incident, IncidentKind, Notice, NoticeEvent, Resolution, Severity, Subject};

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    title: &'a str,
    text: String,
    /// How many incidents there are, of which the first follow.
    total: u64,
    incidents: Vec<IncidentView<'a>>,
    url: Option<String>,
}

/// As `GET /v1/incidents/ID` shows it, but for whom else it was told to.
#[derive(Serialize)]
struct IncidentView<'a> {
    id: String,
    kind: IncidentKind,
    status: &'static str,
    title: String,
    subject: SubjectView<'a>,
    target: Option<&'a str>,
    consumers: u64,
    records: Option<u64>,
    behind: Option<BehindView>,
    reason: ReasonView<'a>,
    opened_at: DateTime<Utc>,
    cleared_at: Option<DateTime<Utc>>,
    resolved_at: Option<DateTime<Utc>>,
    resolution: Option<Resolution>,
    url: Option<String>,
}

#[derive(Serialize)]
struct SubjectView<'a> {
    r#type: &'static str,
    id: Option<Uuid>,
    name: &'a str,
}

#[derive(Serialize)]
struct BehindView {
    records: u64,
    seconds: f64,
    eta_seconds: Option<u64>,
}

#[derive(Serialize)]
struct ReasonView<'a> {
    code: &'a str,
    severity: Severity,
    summary: &'a str,
    since: DateTime<Utc>,
    cause: Option<&'a str>,
    target: Option<&'a str>,
    fix: &'a str,
}

/// A notice as an event.
pub(super) fn cloud_event(notice: &Notice, cluster: &str, console: Option<&str>) -> Vec<u8> {
    let title = title(notice);
    let only = notice.shown.first().filter(|_| total(notice) == 1);
    let event = CloudEvent {
        specversion: "1.0",
        id: notice.id.to_string(),
        source: format!("/sequin/{cluster}"),
        r#type: format!("dev.sequin.incident.{}", notice.event.as_str()),
        subject: only.map(|incident| path(&incident.subject)),
        time: notice.made_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        datacontenttype: "application/json",
        data: Data {
            title: &title,
            text: text(notice, &title, console),
            total: notice.incidents.len() as u64,
            incidents: notice.shown.iter().map(|incident| view(notice, incident, console)).collect(),
            url: match only {
                Some(incident) => console.map(|console| incident_url(console, incident.id)),
                None => console.map(Into::into),
            },
        },
    };
    serde_json::to_vec(&event).expect("an event can be written as JSON")
}

fn view<'a>(notice: &Notice, incident: &'a Incident, console: Option<&str>) -> IncidentView<'a> {
    let reason = &incident.reason;
    let (r#type, id, name, target) = match &incident.subject {
        Subject::Target { id, name } => ("target", Some(id.0), name, Some(name.as_str())),
        Subject::Consumer { id, name, target } => ("consumer", Some(id.0), name, Some(target.as_str())),
        Subject::Node { name } => ("node", None, name, None),
    };
    IncidentView {
        id: incident.id.to_string(),
        kind: incident.kind,
        status: incident.status(),
        title: headline_as(notice.event, incident, notice.made_at),
        subject: SubjectView { r#type, id, name },
        target,
        consumers: incident.consumers,
        records: incident.records,
        behind: incident.behind.map(|behind| BehindView {
            records: behind.records,
            seconds: incident.seconds_behind(notice.made_at),
            eta_seconds: behind.eta_seconds,
        }),
        reason: ReasonView {
            code: &reason.code,
            severity: reason.severity,
            summary: &reason.summary,
            since: reason.since,
            cause: reason.cause.as_deref(),
            target: reason.target.as_deref(),
            fix: &reason.fix,
        },
        opened_at: incident.opened_at,
        cleared_at: incident.cleared_at,
        resolved_at: incident.resolved_at,
        resolution: incident.resolution,
        url: console.map(|console| incident_url(console, incident.id)),
    }
}

fn path(subject: &Subject) -> String {
    match subject {
        Subject::Target { id, .. } => format!("targets/{id}"),
        Subject::Consumer { id, .. } => format!("consumers/{id}"),
        Subject::Node { name } => format!("nodes/{name}"),
    }
}

/// A notice in a few lines, for programs that show a text.
fn text(notice: &Notice, title: &str, console: Option<&str>) -> String {
    let mut lines = vec![title.to_owned()];
    match &notice.shown[..] {
        [incident] if total(notice) == 1 => {
            let card = Card::new(notice.event, incident, notice.made_at, console);
            lines.push(card.summary);
            lines.extend(card.facts.into_iter().map(|(name, value)| format!("{name}: {value}")));
            lines.extend(card.cause.map(|cause| format!("Why: {cause}")));
            lines.extend(card.fix.map(|fix| format!("What to do: {}", fix.text)));
        }
        shown => lines.extend(shown.iter().map(|incident| listed(notice.event, incident, notice.made_at))),
    }
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

#[derive(Serialize)]
struct SlackMessage {
    text: String,
}

/// A notice as a text that Slack shows.
pub(super) fn slack(notice: &Notice, cluster: &str, console: Option<&str>) -> Vec<u8> {
    let mut lines = vec![format!("*{} {}*", escaped(&tag(cluster)), escaped(&title(notice)))];
    match &notice.shown[..] {
        [incident] if total(notice) == 1 => {
            let card = Card::new(notice.event, incident, notice.made_at, console);
            lines.push(escaped(&card.summary));
            lines.extend(card.facts.iter().map(|(name, value)| format!("{name}: {}", escaped(value))));
            lines.extend(card.cause.map(|cause| format!("*Why*\n{}", escaped(&cause))));
            lines.extend(card.fix.map(|fix| format!("*What to do*\n{}", as_slack_shows(&fix))));
            lines.extend(card.url.map(|url| format!("<{}|Open in the console>", escaped(&url))));
        }
        shown => {
            let said = |incident| escaped(&listed(notice.event, incident, notice.made_at));
            lines.extend(shown.iter().map(|incident| format!("• {}", said(incident))));
            let more = total(notice) - shown.len() as u64;
            if more > 0 {
                lines.push(format!("• and {more} more"));
            }
            if notice.event == NoticeEvent::Test {
                lines.push("Nothing is wrong, and there is nothing to do.".into());
            }
            lines.extend(console.map(|url| format!("<{}|Open the console>", escaped(url))));
        }
    }
    lines.retain(|line| !line.is_empty());
    serde_json::to_vec(&SlackMessage { text: lines.join("\n") }).expect("a text can be written as JSON")
}

fn as_slack_shows(fix: &Fix) -> String {
    let text = escaped(&fix.text);
    if fix.is_sql { format!("```\n{}\n```", text.replace("```", "'''")) } else { text }
}

/// What Slack takes for its own: so nobody's text links, mentions or calls a channel.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
