//! Claims: what is taken, run, let go of and forgotten, target by target.

use std::time::Instant;

use super::{Action, Held, Outcome, Ownerships, Write};
use crate::model::{Ownership, Revision, SessionId, TargetId};

impl Ownerships {
    pub(super) fn ownership_seen(&mut self, ownership: Ownership, revision: Revision) {
        let target = ownership.target;
        if self.owners.get(&target).is_some_and(|(_, known)| revision <= *known) {
            return;
        }
        self.owners.insert(target, (ownership, revision));
        self.letting_go.remove(&target);
        self.changed.insert(target);
    }

    pub(super) fn ownership_gone(&mut self, target: TargetId) {
        self.owners.remove(&target);
        self.letting_go.remove(&target);
        self.changed.insert(target);
    }

    pub(super) fn drained(&mut self, target: TargetId) {
        self.held.remove(&target);
        self.changed.insert(target);
    }

    pub(super) fn owned(&mut self, ownership: Ownership, outcome: Outcome) {
        if let Outcome::Done(revision) = outcome {
            self.ownership_seen(ownership, revision);
        }
        self.is_written(ownership.target, outcome);
    }

    pub(super) fn forgotten(&mut self, target: TargetId, outcome: Outcome) {
        if let Outcome::Done(_) = outcome {
            self.ownership_gone(target);
        }
        self.is_written(target, outcome);
    }

    fn is_written(&mut self, target: TargetId, outcome: Outcome) {
        let has_news = self.owning.remove(&target).unwrap_or_default();
        match outcome {
            // The store has told why, or will.
            Outcome::Done(_) | Outcome::Refused if has_news => {
                self.changed.insert(target);
            }
            Outcome::Done(_) | Outcome::Refused => {}
            Outcome::Unknown => {
                self.unwritten.insert(target);
            }
        }
    }

    pub(super) fn look_at_changed(&mut self, now: Instant) {
        // Nothing is decided by where targets belonged before.
        if !self.told.is_everything() || !self.mine.is_fresh(self.ttl, now) || self.is_misplaced {
            return;
        }
        let Some(mine) = self.mine.id() else { return };
        for target in std::mem::take(&mut self.changed) {
            if let Some(has_news) = self.owning.get_mut(&target) {
                *has_news = true;
                continue;
            }
            let is_wanted = !self.is_leaving && self.placement.get(&target) == Some(&mine);
            let known = self.owners.get(&target).copied();
            if let Some((ownership, revision)) = known
                && ownership.session == Some(mine)
            {
                self.look_at_own(target, ownership, revision, is_wanted);
                continue;
            }
            if self.held.remove(&target).is_some() {
                // Somebody has ended this session: it is about to hear so.
                self.actions.push(Action::Drain(target));
            }
            let owner = known.and_then(|(ownership, _)| ownership.session);
            match (owner.filter(|owner| !self.ended.contains(owner)), known) {
                (Some(owner), _) if is_wanted => self.bury(owner),
                (None, _) if is_wanted => self.take(target, mine, known),
                (None, Some((_, revision))) if !self.targets.contains_key(&target) => self.forget(target, revision),
                _ => {}
            }
        }
    }

    /// Takes over what nobody owns.
    fn take(&mut self, target: TargetId, mine: SessionId, known: Option<(Ownership, Revision)>) {
        let epoch = known.map(|(ownership, _)| ownership.epoch).unwrap_or_default().next();
        self.own(Ownership { target, session: Some(mine), epoch }, known.map(|(_, revision)| revision));
    }

    fn look_at_own(&mut self, target: TargetId, ownership: Ownership, revision: Revision, is_wanted: bool) {
        match self.held.get_mut(&target) {
            None if is_wanted && self.letting_go.get(&target) == Some(&revision) => {
                // Should it be let go of after all, this is refused.
                self.own(Ownership { epoch: ownership.epoch.next(), ..ownership }, Some(revision));
            }
            None if is_wanted => {
                self.held.insert(target, Held { epoch: ownership.epoch, is_draining: false });
                self.actions.push(Action::Run(target, ownership.epoch));
            }
            None if self.targets.contains_key(&target) => {
                self.letting_go.insert(target, revision);
                self.own(Ownership { session: None, ..ownership }, Some(revision));
            }
            None => self.forget(target, revision),
            Some(held) if !is_wanted && !held.is_draining => {
                held.is_draining = true;
                self.actions.push(Action::Drain(target));
            }
            Some(_) => {}
        }
    }

    fn forget(&mut self, target: TargetId, revision: Revision) {
        self.letting_go.insert(target, revision);
        self.owning.insert(target, false);
        self.write(Write::Forget(target, revision));
    }

    fn own(&mut self, ownership: Ownership, expected: Option<Revision>) {
        self.owning.insert(ownership.target, false);
        self.write(Write::Own(ownership, expected));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;
    use uuid::Uuid;

    use super::{super::Event, *};
    use crate::model::{Epoch, Phase, Session};

    const TTL: Duration = Duration::from_secs(6);

    fn session(id: SessionId, phase: Phase) -> Session {
        let time = DateTime::UNIX_EPOCH;
        Session { id, node: id.to_string(), version: "1".into(), started_at: time, renewed_at: time, phase }
    }

    fn own(actions: &[Action]) -> Option<Write> {
        actions.iter().find_map(|action| match action {
            Action::Write(write @ Write::Own(..)) => Some(*write),
            _ => None,
        })
    }

    #[test]
    fn what_was_let_go_of_with_an_outcome_that_nobody_knows_is_run_again_in_a_higher_epoch_only() {
        let now = Instant::now();
        let mut node = Ownerships::new("a", TTL, SessionId::generate);
        let begin = node.handle(Event::Tick, now);
        let [Action::Write(begin @ Write::Begin(mine))] = begin.as_slice() else { panic!("{begin:?}") };
        node.handle(Event::Wrote(*begin, Outcome::Done(Revision(1))), now);
        let targets: Vec<_> = (0..20).map(|number| TargetId(Uuid::from_u128(number))).collect();
        for &target in &targets {
            node.handle(Event::TargetWeighs(target, 1), now);
            let ours = Ownership { target, session: Some(*mine), epoch: Epoch(3) };
            node.handle(Event::OwnershipSeen(ours, Revision(2)), now);
        }
        node.handle(Event::TargetsKnown, now);
        node.handle(Event::Current, now);
        assert!(node.handle(Event::Tick, now).contains(&Action::Run(targets[0], Epoch(3))));
        // Another one comes, and is to have some.
        let other = SessionId(Uuid::from_u128(7));
        node.handle(Event::SessionSeen(session(other, Phase::Serving), Revision(3)), now);
        let drained = node.handle(Event::Tick, now).into_iter().find_map(|action| match action {
            Action::Drain(target) => Some(target),
            _ => None,
        });
        let target = drained.expect("something to let go of");
        let release = own(&node.handle(Event::Drained(target), now)).expect("it is let go of");
        assert_eq!(release, Write::Own(Ownership { target, session: None, epoch: Epoch(3) }, Some(Revision(2))));
        node.handle(Event::Wrote(release, Outcome::Unknown), now);
        // It goes before it has taken anything: what is not known to be let go of is wanted again.
        node.handle(Event::SessionSeen(session(other, Phase::Leaving), Revision(4)), now);
        let mut actions = node.handle(Event::Tick, now + TTL / 4);
        let renew = actions.iter().find_map(|action| match action {
            Action::Write(write @ Write::Renew(..)) => Some(*write),
            _ => None,
        });
        let renew = renew.expect("a renewal");
        actions.extend(node.handle(Event::Wrote(renew, Outcome::Done(Revision(5))), now + TTL / 4));
        assert!(!actions.contains(&Action::Run(target, Epoch(3))), "{actions:?}");
        let again = Ownership { target, session: Some(*mine), epoch: Epoch(4) };
        assert_eq!(own(&actions), Some(Write::Own(again, Some(Revision(2)))));
    }
}
