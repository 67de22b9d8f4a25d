//! The words: what is said of an incident in one line, and of many at once. Pure, and the time is given.

use chrono::{DateTime, TimeDelta, Utc};

use super::figures::{counted, line, number, span};
use crate::model::{Incident, IncidentKind, Notice, NoticeEvent, Resolution, Subject};

/// How much of what a database said goes into a headline, in characters.
const SUMMARY: usize = 120;

/// The longest title, in characters: what fits into the list of a mail program, and more than it shows.
const TITLE: usize = 240;

/// What an incident is, in a line: `Consumer hubspot-to-app is behind: 12,400 records, 6 min`; or, if it is over, that it is.
pub fn headline(incident: &Incident, now: DateTime<Utc>) -> String {
    let said = if incident.resolved_at.is_some() { resolved(incident, now) } else { opened(incident, now) };
    line(&said, TITLE)
}

/// What a notice says, in a line.
pub(super) fn title(notice: &Notice) -> String {
    let now = notice.made_at;
    let said = match (notice.event, &notice.shown[..]) {
        (NoticeEvent::Test, _) => "Test: notices of incidents arrive here".into(),
        (event, [incident]) if total(notice) == 1 => headline_as(event, incident, now),
        (event, _) => digest(event, notice),
    };
    line(&said, TITLE)
}

/// What stands before the subject of every mail of a cluster.
pub(super) fn tag(cluster: &str) -> String {
    match cluster {
        "" | "sequin" => "[Sequin]".into(),
        cluster => format!("[Sequin {}]", line(cluster, 60)),
    }
}

/// Of how many incidents a notice is.
pub(super) fn total(notice: &Notice) -> u64 {
    notice.incidents.len().max(notice.shown.len()) as u64
}

/// What a notice says of one of its incidents, in a line.
pub(super) fn headline_as(event: NoticeEvent, incident: &Incident, now: DateTime<Utc>) -> String {
    let said = match event {
        NoticeEvent::Opened | NoticeEvent::Test => opened(incident, now),
        NoticeEvent::Reminded => reminded(incident, now),
        NoticeEvent::Resolved => resolved(incident, now),
    };
    line(&said, TITLE)
}

/// The same in a list, above which it says what has happened to all of them.
pub(super) fn listed(event: NoticeEvent, incident: &Incident, now: DateTime<Utc>) -> String {
    let said = match event {
        NoticeEvent::Opened | NoticeEvent::Reminded | NoticeEvent::Test => opened(incident, now),
        NoticeEvent::Resolved => over(&who(&incident.subject), incident, now),
    };
    line(&said, TITLE)
}

/// For how long it has lasted, or did.
pub(super) fn lasted(incident: &Incident, now: DateTime<Utc>) -> TimeDelta {
    let until = match incident.resolved_at {
        Some(resolved_at) => incident.cleared_at.unwrap_or(resolved_at),
        None => now,
    };
    until - incident.reason.since
}

/// Whether it is a backfill that does not get on.
pub(super) fn is_of_backfill(incident: &Incident) -> bool {
    incident.reason.code == "backfill_stalled"
}

/// Whether it is a target whose server works, and has more to bear than it may.
fn is_spared(incident: &Incident) -> bool {
    incident.reason.code == "server_strained"
}

fn opened(incident: &Incident, now: DateTime<Utc>) -> String {
    let who = who(&incident.subject);
    let said = match incident.kind {
        IncidentKind::ConsumerStalled if is_of_backfill(incident) => {
            format!("{who} makes no progress with its backfill")
        }
        IncidentKind::TargetUnhealthy if is_spared(incident) => format!("{who} gets a rest"),
        IncidentKind::TargetUnhealthy => format!("{who} is unhealthy"),
        IncidentKind::ConsumerBehind => format!("{who} is behind"),
        IncidentKind::ConsumerHalted => format!("{who} has halted"),
        IncidentKind::ConsumerStalled => format!("{who} makes no progress"),
        IncidentKind::RecordsQuarantined => format!("{who} has {}", quarantine(incident)),
        IncidentKind::NodeSilent => format!("{who} is silent"),
    };
    with_figures(&said, incident, Some(now))
}

fn reminded(incident: &Incident, now: DateTime<Utc>) -> String {
    let (who, long) = (who_within(&incident.subject), span(lasted(incident, now)));
    let said = match incident.kind {
        IncidentKind::ConsumerStalled if is_of_backfill(incident) => {
            format!("Still: {who} has made no progress with its backfill for {long}")
        }
        IncidentKind::TargetUnhealthy if is_spared(incident) => {
            format!("Still: {who} has been given a rest for {long}")
        }
        IncidentKind::TargetUnhealthy => format!("Still: {who} has been unhealthy for {long}"),
        IncidentKind::ConsumerBehind => format!("Still: {who} has been behind for {long}"),
        IncidentKind::ConsumerHalted => format!("Still: {who} has been halted for {long}"),
        IncidentKind::ConsumerStalled => format!("Still: {who} has made no progress for {long}"),
        IncidentKind::RecordsQuarantined => format!("Still: {who} has had {} for {long}", quarantine(incident)),
        IncidentKind::NodeSilent => format!("Still: {who} has been silent for {long}"),
    };
    with_figures(&said, incident, None)
}

fn resolved(incident: &Incident, now: DateTime<Utc>) -> String {
    format!("Resolved: {}", over(&who_within(&incident.subject), incident, now))
}

fn over(who: &str, incident: &Incident, now: DateTime<Utc>) -> String {
    let long = span(lasted(incident, now));
    let said = match incident.kind {
        _ if incident.resolution == Some(Resolution::Paused) => "was paused",
        _ if incident.resolution == Some(Resolution::Deleted) => "was deleted",
        IncidentKind::ConsumerStalled if is_of_backfill(incident) => "makes progress with its backfill again",
        IncidentKind::TargetUnhealthy if is_spared(incident) => "is used again",
        IncidentKind::TargetUnhealthy => "is healthy again",
        IncidentKind::ConsumerBehind => "has caught up",
        IncidentKind::ConsumerHalted => "is no longer halted",
        IncidentKind::ConsumerStalled => "makes progress again",
        IncidentKind::RecordsQuarantined => "has no more records in quarantine",
        IncidentKind::NodeSilent => "is back, or others have taken over",
    };
    format!("{who} {said}, after {long}")
}

/// What follows the colon: how much waits, and for how long unless that was said; or what a halted consumer met.
fn with_figures(said: &str, incident: &Incident, now: Option<DateTime<Utc>>) -> String {
    let detail = match incident.kind {
        IncidentKind::TargetUnhealthy | IncidentKind::NodeSilent => match incident.consumers {
            0 => None,
            1 => Some("1 consumer waits".into()),
            many => Some(format!("{} wait", counted(many, "consumer"))),
        },
        IncidentKind::ConsumerBehind | IncidentKind::ConsumerStalled => incident.behind.map(|behind| {
            let age = now.and_then(|now| behind.oldest_published_at.map(|oldest| span(now - oldest)));
            let waits = counted(behind.records, "record");
            age.map_or_else(|| waits.clone(), |age| format!("{waits}, {age}"))
        }),
        IncidentKind::ConsumerHalted => Some(line(&incident.reason.summary, SUMMARY)).filter(|text| !text.is_empty()),
        IncidentKind::RecordsQuarantined => None,
    };
    detail.map_or_else(|| said.into(), |detail| format!("{said}: {detail}"))
}

fn quarantine(incident: &Incident) -> String {
    match incident.records {
        Some(records) => format!("{} in quarantine", counted(records, "record")),
        None => "records in quarantine".into(),
    }
}

fn who(subject: &Subject) -> String {
    match subject {
        Subject::Target { name, .. } => format!("Target {name}"),
        Subject::Consumer { name, .. } => format!("Consumer {name}"),
        Subject::Node { name } => format!("Node {name}"),
    }
}

/// The same, not at the beginning of a sentence.
fn who_within(subject: &Subject) -> String {
    match subject {
        Subject::Target { name, .. } => format!("target {name}"),
        Subject::Consumer { name, .. } => format!("consumer {name}"),
        Subject::Node { name } => format!("node {name}"),
    }
}

/// `214 incidents: 3 targets unhealthy, 211 consumers behind`.
fn digest(event: NoticeEvent, notice: &Notice) -> String {
    let total = total(notice);
    let counts = counts(notice);
    let known: u64 = counts.iter().map(|(_, many)| many).sum();
    let mut parts: Vec<String> = counts.into_iter().map(|(kind, many)| of_kind(kind, many)).collect();
    if known < total {
        parts.push(format!("{} more", number(total - known)));
    }
    let incidents = counted(total, "incident");
    let parts = parts.join(", ");
    match event {
        NoticeEvent::Opened | NoticeEvent::Test => format!("{incidents}: {parts}"),
        NoticeEvent::Reminded => format!("Still: {incidents} ({parts})"),
        NoticeEvent::Resolved => format!("Resolved: {incidents} ({parts})"),
    }
}

/// How many of each kind: as the notice says, or as far as its incidents are shown.
fn counts(notice: &Notice) -> Vec<(IncidentKind, u64)> {
    let shown = |kind| notice.shown.iter().filter(|incident| incident.kind == kind).count() as u64;
    let counted = |kind| match &notice.counts[..] {
        [] => shown(kind),
        counts => counts.iter().filter(|(of, _)| *of == kind).map(|(_, many)| many).sum(),
    };
    IncidentKind::ALL.map(|kind| (kind, counted(kind))).into_iter().filter(|(_, many)| *many > 0).collect()
}

fn of_kind(kind: IncidentKind, many: u64) -> String {
    match kind {
        IncidentKind::TargetUnhealthy => format!("{} unhealthy", counted(many, "target")),
        IncidentKind::ConsumerBehind => format!("{} behind", counted(many, "consumer")),
        IncidentKind::ConsumerHalted => format!("{} halted", counted(many, "consumer")),
        IncidentKind::ConsumerStalled => format!("{} without progress", counted(many, "consumer")),
        IncidentKind::RecordsQuarantined => format!("{} with records in quarantine", counted(many, "consumer")),
        IncidentKind::NodeSilent => format!("{} silent", counted(many, "node")),
    }
}

#[cfg(test)]
mod tests;
