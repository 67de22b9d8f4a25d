//! Incidents and notices as the tests tell of them: one of each kind, as the engine makes them.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::model::{
    Behind, ConsumerId, Incident, IncidentId, IncidentKind, Notice, NoticeEvent, NoticeId, Reason, Resolution,
    Severity, Subject, TargetId,
};

/// When everything here is told.
pub(super) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_388_640, 0).expect("a time")
}

pub(super) fn ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

fn reason(code: &str, summary: &str, cause: Option<&str>, fix: &str) -> Reason {
    Reason {
        code: code.into(),
        severity: Severity::Error,
        summary: summary.into(),
        since: ago(7),
        cause: cause.map(Into::into),
        target: None,
        fix: fix.into(),
    }
}

pub(super) fn consumer(name: &str) -> Subject {
    Subject::Consumer { id: ConsumerId(Uuid::from_u128(0xc0)), name: name.into(), target: "app".into() }
}

/// An incident of a kind.
pub(super) fn incident(kind: IncidentKind) -> Incident {
    let base = Incident {
        id: IncidentId(Uuid::from_u128(0x1d)),
        kind,
        subject: consumer("hubspot-to-app"),
        consumers: 1,
        records: None,
        behind: None,
        reason: reason("", "", None, ""),
        opened_at: ago(2),
        cleared_at: None,
        resolved_at: None,
        resolution: None,
    };
    let behind = Behind { records: 12_400, oldest_published_at: Some(ago(6)), eta_seconds: Some(540) };
    match kind {
        IncidentKind::TargetUnhealthy => Incident {
            subject: Subject::Target { id: TargetId(Uuid::from_u128(0x7a)), name: "app".into() },
            consumers: 500,
            reason: reason(
                "connection_refused",
                "target app is unhealthy: connecting to db.acme.example:5432 failed: connection refused (os error 111)",
                Some("no server listens at this address, or a firewall turns us away"),
                "check that the server runs, its host and port, and the firewall",
            ),
            ..base
        },
        IncidentKind::ConsumerBehind => Incident {
            behind: Some(behind),
            reason: reason(
                "behind",
                "12,400 records wait, the oldest for 6 min; the threshold is 5 min",
                Some("more is published than the table takes, or the database is slow"),
                "look at the target's load; raise its pool_size if the server has connections to spare",
            ),
            ..base
        },
        IncidentKind::ConsumerHalted => Incident {
            reason: reason(
                "column_missing",
                "table sequin.hubspot lacks the column upstream_updated_at (timestamptz)",
                Some("the table is not, or no longer, as the create-table statement makes it"),
                "alter table \"sequin\".\"hubspot\"\n  add column \"upstream_updated_at\" timestamptz not null default now();",
            ),
            ..base
        },
        IncidentKind::ConsumerStalled => Incident {
            behind: Some(Behind { eta_seconds: None, ..behind }),
            reason: reason(
                "stalled",
                "12,400 records wait, and none was brought for 2 min",
                None,
                "nothing: it was started again; if that goes on, look at this node's log",
            ),
            ..base
        },
        IncidentKind::RecordsQuarantined => Incident {
            records: Some(3),
            reason: reason(
                "records_quarantined",
                "in quarantine, since the database refused them: 3, the last with: value too long for type character varying(255)",
                Some("the table, or PostgreSQL itself, can't take them as they are"),
                "see why in the quarantine; mend the cause and retry, or discard the records",
            ),
            ..base
        },
        IncidentKind::NodeSilent => Incident {
            subject: Subject::Node { name: "sequin-2".into() },
            consumers: 180,
            reason: reason(
                "node_silent",
                "node sequin-2 has not reported on its 180 consumers for 7 min, and no other node has taken them over",
                Some("the node is gone or cut off from the control store, and the others lack room or are cut off too"),
                "look whether the node's process runs, and at its log; `sequin node list` shows who is there",
            ),
            ..base
        },
    }
}

/// The same, over for two minutes.
pub(super) fn resolved(incident: Incident) -> Incident {
    let resolution = Some(Resolution::Recovered);
    Incident { cleared_at: Some(ago(2)), resolved_at: Some(ago(1)), resolution, ..incident }
}

/// A notice of these incidents, all of which it shows.
pub(super) fn notice(event: NoticeEvent, shown: Vec<Incident>) -> Notice {
    Notice {
        id: NoticeId(Uuid::from_u128(0x40)),
        event,
        incidents: shown.iter().map(|incident| incident.id).collect(),
        shown,
        counts: Vec::new(),
        made_at: now(),
        deliveries: Vec::new(),
    }
}

/// A notice of 214 incidents, of which it shows 25.
pub(super) fn digest(event: NoticeEvent) -> Notice {
    let targets = ["app", "warehouse", "reporting"].into_iter().map(|name| {
        let subject = Subject::Target { id: TargetId(Uuid::from_u128(1)), name: name.into() };
        Incident { subject, consumers: 40, ..incident(IncidentKind::TargetUnhealthy) }
    });
    let consumers = (1..23).map(|number| {
        let subject = consumer(&format!("hubspot-to-{number}"));
        Incident { subject, ..incident(IncidentKind::ConsumerBehind) }
    });
    Notice {
        incidents: (0..214).map(|number| IncidentId(Uuid::from_u128(number))).collect(),
        counts: vec![(IncidentKind::ConsumerBehind, 211), (IncidentKind::TargetUnhealthy, 3)],
        ..notice(event, targets.chain(consumers).collect())
    }
}
