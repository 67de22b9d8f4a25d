//! The store of the simulation: keys with revisions, and a log of what was written to them.

use std::collections::BTreeMap;

use chrono::DateTime;

use super::{
    super::{Event, Outcome, Write},
    Rule,
};
use crate::model::{Ownership, Phase, Revision, Session, SessionId, TargetId};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Session(SessionId),
    Ownership(TargetId),
}

pub(super) struct Change {
    key: Key,
    pub(super) event: Event,
}

pub(super) struct Store {
    sessions: BTreeMap<SessionId, (Session, Revision)>,
    ownerships: BTreeMap<TargetId, (Ownership, Revision)>,
    pub(super) log: Vec<Change>,
    /// The last change of each key.
    last: BTreeMap<Key, usize>,
    broken: Option<Rule>,
}

impl Store {
    pub(super) fn new(broken: Option<Rule>) -> Self {
        Self { sessions: BTreeMap::new(), ownerships: BTreeMap::new(), log: Vec::new(), last: BTreeMap::new(), broken }
    }

    /// Does what a node writes, or does not, at one moment.
    pub(super) fn write(&mut self, write: Write, node: &str) -> Outcome {
        let at = |id: SessionId| self.sessions.get(&id).map(|(_, revision)| *revision);
        let is_over = |id: SessionId| self.sessions.get(&id).is_some_and(|(session, _)| session.phase == Phase::Ended);
        match write {
            Write::Begin(id) if at(id).is_none() => self.put_session(id, node, Phase::Serving),
            Write::Renew(id, revision, phase) if at(id) == Some(revision) || self.broken == Some(Rule::RenewBySwap) => {
                self.put_session(id, node, phase)
            }
            Write::Recover(id) if !is_over(id) => at(id).map_or(Outcome::Refused, Outcome::Done),
            Write::End(id, _) if self.broken == Some(Rule::EndInTheStore) => {
                Outcome::Done(at(id).unwrap_or(Revision(0)))
            }
            Write::End(id, revision) if at(id) == Some(revision) => self.put_session(id, node, Phase::Ended),
            Write::Bury(id) if at(id).is_none() => self.put_session(id, node, Phase::Ended),
            Write::Clear(id, revision) if at(id) == Some(revision) => {
                self.sessions.remove(&id);
                self.wrote(Key::Session(id), |_| Event::SessionGone(id))
            }
            Write::Own(ownership, expected) => self.own(ownership, expected),
            // No target of the simulation is ever deleted.
            _ => Outcome::Refused,
        }
    }

    fn put_session(&mut self, id: SessionId, node: &str, phase: Phase) -> Outcome {
        let node = self.sessions.get(&id).map_or_else(|| node.to_owned(), |(session, _)| session.node.clone());
        let time = DateTime::UNIX_EPOCH;
        let session = Session { id, node, version: "1".into(), started_at: time, renewed_at: time, phase };
        self.sessions.insert(id, (session.clone(), self.next()));
        self.wrote(Key::Session(id), |revision| Event::SessionSeen(session, revision))
    }

    fn own(&mut self, mut ownership: Ownership, expected: Option<Revision>) -> Outcome {
        let target = ownership.target;
        let there = self.ownerships.get(&target).copied();
        if there.map(|(_, revision)| revision) != expected && self.broken != Some(Rule::TakeBySwap) {
            return Outcome::Refused;
        }
        if let Some((before, _)) = there
            && self.broken == Some(Rule::RaiseTheEpoch)
        {
            ownership.epoch = before.epoch;
        }
        self.ownerships.insert(target, (ownership, self.next()));
        self.wrote(Key::Ownership(target), |revision| Event::OwnershipSeen(ownership, revision))
    }

    fn next(&self) -> Revision {
        Revision(self.log.len() as u64 + 1)
    }

    fn wrote(&mut self, key: Key, event: impl FnOnce(Revision) -> Event) -> Outcome {
        let revision = self.next();
        self.last.insert(key, self.log.len());
        self.log.push(Change { key, event: event(revision) });
        Outcome::Done(revision)
    }

    /// Whether a later change is to the same key.
    pub(super) fn is_superseded(&self, number: usize) -> bool {
        self.last[&self.log[number].key] > number
    }

    /// What whoever begins to watch is told, if he is told the first `heard` changes.
    pub(super) fn snapshot(&self, heard: usize) -> Vec<Event> {
        let last: BTreeMap<Key, &Event> = self.log[..heard].iter().map(|change| (change.key, &change.event)).collect();
        let there = last.into_values().filter(|event| !matches!(event, Event::SessionGone(_)));
        there.cloned().collect()
    }
}
