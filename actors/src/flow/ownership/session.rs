//! Sessions: the node's own, which it keeps alive, and those of others, which it watches.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Action, Other, Outcome, Ownerships, Ticket, Write};
use crate::{
    flow::placement::{Candidate, place},
    model::{Epoch, Ownership, Phase, Revision, Session, SessionId, TargetId},
};

/// A session is renewed this often within the time after which its silence counts as its end.
const BEATS: u32 = 4;

/// What says that a session has ended is cleared away after so many times that time.
const CLEARED_AFTER: u32 = 3;

/// The node's own session.
#[derive(Debug, Default)]
pub(super) struct Mine {
    /// `None` before it begins.
    id: Option<SessionId>,
    /// `None` while it is not known.
    revision: Option<Revision>,
    /// When the last renewal was begun that has succeeded.
    renewed_at: Option<Instant>,
    /// Since when renewals have succeeded without a break.
    in_touch_since: Option<Instant>,
    /// When the write was begun that is under way.
    writing_since: Option<Instant>,
    tried_at: Option<Instant>,
    /// The questions that the write under way answers, and those that came since.
    asked: Vec<Question>,
    asked_since: Vec<Question>,
    /// Whether others know that the node leaves.
    is_said_to_leave: bool,
    has_left: bool,
}

type Question = (Ticket, TargetId, Epoch);

impl Mine {
    pub(super) fn id(&self) -> Option<SessionId> {
        self.id
    }

    pub(super) fn is(&self, id: SessionId) -> bool {
        self.id == Some(id)
    }

    /// It has said so, or tried to: then others will.
    pub(super) fn left(&mut self) {
        self.writing_since = None;
        self.has_left = true;
    }

    /// Whether others can't have taken it for dead yet, with time to spare.
    pub(super) fn is_fresh(&self, ttl: Duration, now: Instant) -> bool {
        self.renewed_at.is_some_and(|renewed| now < renewed + ttl * 2 / 3)
    }
}

impl Ownerships {
    // The node's own session.

    /// Renews it in time. A node that could not runs nothing until it has.
    pub(super) fn keep_session(&mut self, now: Instant) {
        if self.mine.id.is_some() && !self.mine.is_fresh(self.ttl, now) {
            self.stop_all();
        }
        let beat = self.ttl / BEATS;
        if self.mine.tried_at.is_none_or(|tried| now >= tried + beat) {
            self.renew(now);
        }
    }

    fn renew(&mut self, now: Instant) {
        if self.mine.writing_since.is_some() || self.mine.has_left {
            return;
        }
        let phase = if self.is_leaving { Phase::Leaving } else { Phase::Serving };
        let write = match (self.mine.id, self.mine.revision) {
            (Some(id), Some(revision)) => Write::Renew(id, revision, phase),
            (Some(id), None) => Write::Recover(id),
            (None, _) if self.is_leaving => return,
            (None, _) => Write::Begin(*self.mine.id.insert((self.new_id)())),
        };
        if matches!(write, Write::Renew(..)) {
            let asked_since = std::mem::take(&mut self.mine.asked_since);
            self.mine.asked.extend(asked_since);
        }
        self.mine.writing_since = Some(now);
        self.mine.tried_at = Some(now);
        self.write(write);
    }

    pub(super) fn session_written(&mut self, id: SessionId, write: Write, outcome: Outcome, now: Instant) {
        if !self.mine.is(id) {
            return;
        }
        let begun_at = self.mine.writing_since.take().unwrap_or(now);
        match (write, outcome) {
            (Write::Recover(_), Outcome::Done(revision)) => {
                self.mine.revision = Some(revision);
                self.renew(now);
            }
            (_, Outcome::Done(revision)) => self.renewed(write, revision, begun_at, now),
            // One that has not begun is forgotten: should its key be there after all, others end it.
            (Write::Begin(_) | Write::Recover(_), Outcome::Refused) | (Write::Begin(_), Outcome::Unknown) => {
                self.lost();
            }
            // Perhaps by a write of its own of which nobody heard.
            (_, Outcome::Refused) => {
                self.mine.revision = None;
                self.renew(now);
            }
            (_, Outcome::Unknown) => {
                self.mine.revision = None;
                let unanswered = std::mem::take(&mut self.mine.asked);
                self.mine.asked_since.extend(unanswered);
            }
        }
    }

    fn renewed(&mut self, write: Write, revision: Revision, begun_at: Instant, now: Instant) {
        let was_fresh = self.mine.is_fresh(self.ttl, now);
        self.mine.revision = Some(revision);
        self.mine.renewed_at = Some(begun_at);
        self.mine.is_said_to_leave |= matches!(write, Write::Renew(_, _, Phase::Leaving));
        for (ticket, target, epoch) in std::mem::take(&mut self.mine.asked) {
            let is_held = self.held.get(&target).is_some_and(|held| held.epoch == epoch);
            self.actions.push(Action::Answer(ticket, is_held));
        }
        self.changed.append(&mut self.unwritten);
        if !was_fresh {
            // Whoever hears nothing hears no others either: they have their time from now on.
            self.mine.in_touch_since = Some(now);
            self.is_misplaced = true;
            self.changed.extend(self.owners.keys());
        }
        if !self.mine.asked_since.is_empty() || (self.is_leaving && !self.mine.is_said_to_leave) {
            self.renew(now);
        }
    }

    /// The session is over: somebody has ended it.
    fn lost(&mut self) {
        self.stop_all();
        // One of which it is not known whether it has begun, others end, or this node.
        if let Some(id) = self.mine.id.filter(|_| self.mine.renewed_at.is_some()) {
            self.ended.insert(id);
        }
        let has_left = self.is_leaving;
        self.mine = Mine { tried_at: self.mine.tried_at, has_left, ..Mine::default() };
    }

    /// Ends whatever runs: it may be another node's by now, or soon.
    fn stop_all(&mut self) {
        for (ticket, ..) in self.mine.asked.drain(..).chain(self.mine.asked_since.drain(..)) {
            self.actions.push(Action::Answer(ticket, false));
        }
        self.mine.in_touch_since = None;
        if !self.held.is_empty() {
            self.held.clear();
            self.actions.push(Action::StopAll);
        }
    }

    /// A database session was connected: may it be used?
    pub(super) fn confirm(&mut self, ticket: Ticket, target: TargetId, epoch: Epoch, now: Instant) {
        if self.held.get(&target).is_none_or(|held| held.epoch != epoch) {
            return self.actions.push(Action::Answer(ticket, false));
        }
        self.mine.asked_since.push((ticket, target, epoch));
        self.renew(now);
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.is_leaving = true;
        self.is_misplaced = true;
        self.renew(now);
        self.place(now);
    }

    /// Says that it has ended, once it holds nothing any more.
    pub(super) fn end_if_left(&mut self, now: Instant) {
        if !self.is_leaving || !self.held.is_empty() {
            return;
        }
        match (self.mine.id, self.mine.revision) {
            // What can't be said, others find out.
            _ if self.mine.has_left || !self.mine.is_fresh(self.ttl, now) => self.actions.push(Action::Left),
            _ if self.mine.writing_since.is_some() || !self.owning.is_empty() => {}
            (Some(id), Some(revision)) if self.owns_nothing(id) => {
                self.mine.writing_since = Some(now);
                self.write(Write::End(id, revision));
            }
            _ => {}
        }
    }

    fn owns_nothing(&self, id: SessionId) -> bool {
        targets_of(&self.owners, id).next().is_none()
    }

    // Those of others.

    pub(super) fn session_seen(&mut self, session: Session, revision: Revision, now: Instant) {
        let id = session.id;
        let is_over = session.phase == Phase::Ended;
        if self.mine.is(id) {
            if is_over && !self.mine.has_left && self.mine.writing_since.is_none() {
                self.lost();
            }
            return;
        }
        let known = self.others.get(&id);
        if known.is_some_and(|known| revision <= known.revision) {
            return;
        }
        self.is_misplaced |=
            known.is_none_or(|known| known.session.phase != session.phase || !self.is_heard(known, now));
        if is_over {
            self.has_ended(id);
        }
        self.others.insert(id, Other { session, revision, changed_at: now });
    }

    pub(super) fn session_gone(&mut self, id: SessionId) {
        self.is_misplaced |= self.others.remove(&id).is_some();
        if self.owns_nothing(id) {
            self.ended.remove(&id);
        }
        // Whoever has not heard that it had ended finds out now.
        self.changed.extend(targets_of(&self.owners, id));
    }

    /// It is certain that it has ended: what it owned can be taken.
    fn has_ended(&mut self, id: SessionId) {
        if self.ended.insert(id) {
            self.is_misplaced = true;
            self.changed.extend(targets_of(&self.owners, id));
        }
    }

    pub(super) fn session_ended(&mut self, id: SessionId, outcome: Outcome, now: Instant) {
        self.ending.remove(&id);
        match outcome {
            Outcome::Done(_) => self.has_ended(id),
            // Its key is there, or has changed: the store will tell.
            Outcome::Refused => {
                if let Some(other) = self.others.get_mut(&id) {
                    other.changed_at = now;
                }
            }
            Outcome::Unknown => self.unwritten.extend(targets_of(&self.owners, id)),
        }
    }

    /// Ends those that have been silent for too long, and clears away what says so of others.
    pub(super) fn end_silent(&mut self, now: Instant) {
        if !self.mine.is_fresh(self.ttl, now) {
            return;
        }
        let silent = |other: &Other| !self.is_heard(other, now);
        let writes = self.others.iter().filter_map(|(&id, other)| match other.session.phase {
            Phase::Ended if now >= other.changed_at + self.ttl * CLEARED_AFTER => {
                Some(Write::Clear(id, other.revision))
            }
            Phase::Serving | Phase::Leaving if silent(other) && !self.ended.contains(&id) => {
                Some(Write::End(id, other.revision))
            }
            _ => None,
        });
        for write in writes.collect::<Vec<_>>() {
            match write {
                Write::Clear(id, _) => {
                    // Another may do it; if nobody does, it is tried again.
                    if let Some(other) = self.others.get_mut(&id) {
                        other.changed_at = now;
                    }
                }
                Write::End(id, _) if !self.ending.insert(id) => continue,
                _ => self.is_misplaced = true,
            }
            self.write(write);
        }
    }

    /// Says of a session that nobody knows that it has ended; it has, unless that is refused.
    pub(super) fn bury(&mut self, id: SessionId) {
        if !self.others.contains_key(&id) && self.ending.insert(id) {
            self.write(Write::Bury(id));
        }
    }

    fn is_heard(&self, other: &Other, now: Instant) -> bool {
        let since = self.mine.in_touch_since.map_or(now, |since| since.max(other.changed_at));
        now < since + self.ttl
    }

    // What follows for the targets.

    /// Finds out where the targets belong, if that may have changed.
    pub(super) fn place(&mut self, now: Instant) {
        let is_ready = self.told.is_everything() && self.mine.is_fresh(self.ttl, now);
        if !is_ready || !std::mem::take(&mut self.is_misplaced) {
            return;
        }
        let mut candidates: Vec<Candidate> = Vec::new();
        if let Some(session) = self.mine.id
            && !self.is_leaving
        {
            candidates.push(Candidate { node: self.node.clone(), session });
        }
        let serving = self.others.iter().filter(|(id, other)| {
            other.session.phase == Phase::Serving && !self.ended.contains(id) && self.is_heard(other, now)
        });
        candidates.extend(serving.map(|(&session, other)| Candidate { node: other.session.node.clone(), session }));
        let placement = place(&candidates, &self.targets);
        let moved = self.targets.keys().chain(self.owners.keys());
        let moved = moved.filter(|target| placement.get(target) != self.placement.get(target));
        self.changed.extend(moved);
        self.placement = placement;
    }
}

type Owned = BTreeMap<TargetId, (Ownership, Revision)>;

fn targets_of(ownerships: &Owned, session: SessionId) -> impl Iterator<Item = TargetId> {
    let its = ownerships.iter().filter(move |(_, (ownership, _))| ownership.session == Some(session));
    its.map(|(target, _)| *target)
}

#[cfg(test)]
mod tests {
    use super::{super::Event, *};

    const TTL: Duration = Duration::from_secs(6);

    fn writes(actions: &[Action]) -> Vec<Write> {
        let writes = actions.iter().filter_map(|action| match action {
            Action::Write(write) => Some(*write),
            _ => None,
        });
        writes.collect()
    }

    #[test]
    fn a_session_is_renewed_four_times_in_its_time_and_recovered_when_nobody_knows() {
        let start = Instant::now();
        let mut node = Ownerships::new("a", TTL, SessionId::generate);
        let begin = writes(&node.handle(Event::Tick, start))[0];
        let Write::Begin(id) = begin else { panic!("{begin:?}") };
        node.handle(Event::Wrote(begin, Outcome::Done(Revision(1))), start);
        assert!(writes(&node.handle(Event::Tick, start + TTL / 5)).is_empty());
        let renew = writes(&node.handle(Event::Tick, start + TTL / 4));
        assert_eq!(renew, [Write::Renew(id, Revision(1), Phase::Serving)]);
        node.handle(Event::Wrote(renew[0], Outcome::Unknown), start + TTL / 3);
        let recover = writes(&node.handle(Event::Tick, start + TTL / 2));
        assert_eq!(recover, [Write::Recover(id)]);
        let renew = writes(&node.handle(Event::Wrote(recover[0], Outcome::Done(Revision(7))), start + TTL / 2));
        assert_eq!(renew, [Write::Renew(id, Revision(7), Phase::Serving)]);
    }
}
