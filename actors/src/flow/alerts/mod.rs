//! Who is told what, and when: from what statuses say, over incidents, to notices and their deliveries.
//!
//! ```text
//! World --what is wrong now--> Incidents --what is to be known--> Notices --what is to be sent--> a destination each
//! ```
//!
//! Everything is decided from what is in the store and the time, and by looking again and again: whoever takes over decides
//! the same. What he would write twice has the same id both times, so the store refuses the second.

mod incidents;
mod notices;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod world;

use chrono::TimeDelta;

use crate::model::{ConsumerId, Incident, IncidentKind, Subject, TargetId};

pub use incidents::Incidents;
pub use notices::{Due, Notices};
pub use world::World;

/// What may go wrong with what: there is one incident at a time for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// What.
    pub kind: IncidentKind,
    /// With what.
    pub about: About,
}

/// What something may go wrong with, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// A database.
    Target(TargetId),
    /// A consumer.
    Consumer(ConsumerId),
    /// A node, which has no more than its name.
    Node(String),
}

impl From<&Subject> for About {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::Target { id, .. } => Self::Target(*id),
            Subject::Consumer { id, .. } => Self::Consumer(*id),
            Subject::Node { name } => Self::Node(name.clone()),
        }
    }
}

impl Cause {
    /// That of an incident.
    pub fn of(incident: &Incident) -> Self {
        Self { kind: incident.kind, about: (&incident.subject).into() }
    }
}

/// How fast people are told.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long something must be wrong before it is an incident.
    pub settle: TimeDelta,
}

impl Pace {
    /// How long nothing must be wrong before it is over: what comes again before that has not gone.
    fn calm(self) -> TimeDelta {
        self.settle * 2
    }

    /// How long to wait for more of the same to be told together, and the first wait before a delivery is tried again.
    fn gather(self) -> TimeDelta {
        self.settle / 3
    }

    /// After several notices within this time, the next waits for as long, and tells of everything since.
    fn quiet(self) -> TimeDelta {
        self.settle * 20
    }
}
