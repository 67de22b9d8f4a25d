//! Cards: what is shown of an incident, whatever it is shown in.

use chrono::{DateTime, Utc};

use super::{
    figures::{counted, lines, moment, span},
    wording::{headline_as, is_of_backfill, lasted, listed},
};
use crate::model::{Behind, Incident, IncidentId, NoticeEvent, Subject};

/// How much of a text that others wrote is shown, in characters.
const LONGEST: usize = 2000;

/// An incident as it is shown.
pub(super) struct Card {
    /// What it is, in a line among others.
    pub(super) listed: String,
    /// What was observed, if the title does not say that.
    pub(super) summary: String,
    /// Its facts: what each is called, and what it is.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Why such a thing happens.
    pub(super) cause: Option<String>,
    /// What to do.
    pub(super) fix: Option<Fix>,
    /// Where the console shows it.
    pub(super) url: Option<String>,
}

/// What to do.
pub(super) struct Fix {
    pub(super) text: String,
    /// Whether it is SQL, to be copied as it stands.
    pub(super) is_sql: bool,
}

impl Card {
    /// As it is at `now`, in a notice of this event.
    pub(super) fn new(event: NoticeEvent, incident: &Incident, now: DateTime<Utc>, console: Option<&str>) -> Self {
        let reason = &incident.reason;
        let is_over = event == NoticeEvent::Resolved;
        let text = |text: &str| Some(lines(text.trim(), LONGEST)).filter(|text| !text.is_empty());
        let fix = text(&reason.fix).map(|text| Fix { is_sql: is_sql(&text), text });
        let summary = lines(reason.summary.trim(), LONGEST);
        let is_said = headline_as(event, incident, now).contains(&summary);
        Self {
            listed: listed(event, incident, now),
            summary: match summary {
                _ if is_said => String::new(),
                summary if is_over => format!("What was wrong: {summary}"),
                summary => summary,
            },
            facts: facts(is_over, incident, now),
            cause: reason.cause.as_deref().and_then(text).filter(|_| !is_over),
            fix: fix.filter(|_| !is_over),
            url: console.map(|console| incident_url(console, incident.id)),
        }
    }
}

/// Where the console shows an incident.
pub fn incident_url(console: &str, id: IncidentId) -> String {
    format!("{}/incidents/{id}", console.trim_end_matches('/'))
}

/// What others write as prose does not end like a statement.
fn is_sql(text: &str) -> bool {
    text.trim_end().ends_with(';')
}

fn facts(is_over: bool, incident: &Incident, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let mut facts = of_subject(&incident.subject);
    let (since, long) = (moment(incident.reason.since), span(lasted(incident, now)));
    if is_over {
        let until = incident.cleared_at.or(incident.resolved_at).unwrap_or(now);
        facts.extend([("Began", since), ("Ended", moment(until)), ("Lasted", long)]);
        return facts;
    }
    facts.push(("Since", format!("{since} ({long})")));
    match incident.subject {
        Subject::Consumer { .. } => {}
        Subject::Target { .. } | Subject::Node { .. } => {
            facts.push(("Waiting", counted(incident.consumers, "consumer")));
        }
    }
    if let Some(behind) = &incident.behind {
        facts.push(("Not yet brought", counted(behind.records, "record")));
        if let Some(oldest) = behind.oldest_published_at {
            facts.push(("The oldest of them", format!("{} ago, {}", span(now - oldest), moment(oldest))));
        }
        if !is_of_backfill(incident) {
            facts.push(("Caught up", caught_up(behind)));
        }
    }
    if let Some(records) = incident.records {
        facts.push(("In quarantine", counted(records, "record")));
    }
    facts
}

fn of_subject(subject: &Subject) -> Vec<(&'static str, String)> {
    match subject {
        Subject::Target { name, .. } => vec![("Target", name.clone())],
        Subject::Consumer { name, target, .. } => vec![("Consumer", name.clone()), ("Target", target.clone())],
        Subject::Node { name } => vec![("Node", name.clone())],
    }
}

fn caught_up(behind: &Behind) -> String {
    let seconds = behind.eta_seconds.and_then(|seconds| i64::try_from(seconds).ok());
    match seconds.and_then(chrono::TimeDelta::try_seconds) {
        Some(eta) => format!("in {}, at the pace of the last minutes", span(eta)),
        None => "not at the pace of the last minutes".into(),
    }
}
