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
        self.changed.insert(target);
    }

    pub(super) fn ownership_gone(&mut self, target: TargetId) {
        self.owners.remove(&target);
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
        if !self.told.is_everything() || !self.mine.is_fresh(self.ttl, now) {
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
            match known.and_then(|(ownership, _)| ownership.session) {
                _ if !is_wanted => {}
                Some(owner) if !self.ended.contains(&owner) => self.bury(owner),
                _ => self.take(target, mine, known),
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
            None if is_wanted => {
                self.held.insert(target, Held { epoch: ownership.epoch, is_draining: false });
                self.actions.push(Action::Run(target, ownership.epoch));
            }
            None if self.targets.contains_key(&target) => {
                self.own(Ownership { session: None, ..ownership }, Some(revision));
            }
            None => {
                self.owning.insert(target, false);
                self.write(Write::Forget(target, revision));
            }
            Some(held) if !is_wanted && !held.is_draining => {
                held.is_draining = true;
                self.actions.push(Action::Drain(target));
            }
            Some(_) => {}
        }
    }

    fn own(&mut self, ownership: Ownership, expected: Option<Revision>) {
        self.owning.insert(ownership.target, false);
        self.write(Write::Own(ownership, expected));
    }
}
