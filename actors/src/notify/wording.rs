//! The words in which people are told.

use chrono::{DateTime, Utc};

use crate::model::{Incident, Subject};

/// An incident in one line: what it is about, and what is wrong.
pub fn headline(incident: &Incident, _now: DateTime<Utc>) -> String {
    let (kind, name) = match &incident.subject {
        Subject::Target { name, .. } => ("Target", name),
        Subject::Consumer { name, .. } => ("Consumer", name),
        Subject::Node { name } => ("Node", name),
    };
    format!("{kind} {name}: {}", incident.reason.summary)
}
