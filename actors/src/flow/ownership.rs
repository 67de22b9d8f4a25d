//! Who owns what: the protocol by which at most one node can commit to a target's tables, as one node plays it.
//!
//! A node is a **session**, a key that it renews; a target is owned by a key that names a session and an **epoch**. Whoever
//! wants to see that at most one node at a time can commit may follow these lines:
//!
//! 1. A session's key is changed by compare-and-swap only: by its node, which renews it, and by whoever ends it. One that
//!    has ended never begins again: where there is no key, none is made but to say that it has ended.
//! 2. An ownership's key is changed by compare-and-swap only: by the node that it names, by anybody if it names nobody, or by
//!    another that has seen the word that the session has ended, or has written it. Whoever takes it over raises the epoch.
//! 3. So before a higher epoch is written (W), the owner of the lower one has let go, or its session had ended.
//! 4. A database session of an epoch is used only if, after it was connected (C), its node renewed its own session by a write
//!    that was begun after C and has succeeded (R), and has not begun to let go until then. What it has begun to let go of it
//!    never runs again in that epoch, whatever came of that.
//! 5. By 3, R came before W: a renewal can't succeed after the end, and who has let go uses no session. So C came before W.
//! 6. After W, the new owner tells the server to end all sessions that bear a lower epoch, and waits until they are gone
//!    (T). C came before T: what may ever be used of a lower epoch is seen there, and is gone after it.
//! 7. Only after T it reads the stream. So what a lower epoch commits, it commits before that. A checkpoint that was read before
//!    is at most too low, and what is read again changes nothing. ∎
//!
//! No clock is compared with another one's. That a session is silent is measured by whoever looks at it, since when its key
//! has not changed for him; should he be wrong, a node loses its session, and no more than that. The simulation in
//! `ownership/simulation.rs` plays thousands of schedules of pauses, losses and delays against this.

mod claims;
mod session;
#[cfg(test)]
mod simulation;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use self::session::Mine;
use crate::model::{Epoch, Ownership, Phase, Revision, Session, SessionId, TargetId};

/// The number of a question whether a database session may be used.
pub type Ticket = u64;

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// The store has told everything that was there.
    Current,
    /// A session's key has been read.
    SessionSeen(Session, Revision),
    /// A session's key is gone: it had ended before.
    SessionGone(SessionId),
    /// An ownership's key has been read.
    OwnershipSeen(Ownership, Revision),
    /// An ownership's key is gone, with its target.
    OwnershipGone(TargetId),
    /// A target is there, and weighs so much.
    TargetWeighs(TargetId, u64),
    /// A target was deleted.
    TargetGone(TargetId),
    /// All targets that there are have been told.
    TargetsKnown,
    /// A target that was to be let go of has nothing in flight any more.
    Drained(TargetId),
    /// May a database session be used that has been connected in this epoch?
    Confirm(Ticket, TargetId, Epoch),
    /// Own nothing any more, and end.
    Leave,
    /// Time has passed.
    Tick,
    /// A write has ended.
    Wrote(Write, Outcome),
}

/// What a node does to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Makes the key of a session that has never been.
    Begin(SessionId),
    /// Renews the node's own session, if it is at this revision.
    Renew(SessionId, Revision, Phase),
    /// Reads at which revision the node's own session is: it is not known how a write has ended.
    Recover(SessionId),
    /// Says that a session has ended, if it is at this revision.
    End(SessionId, Revision),
    /// Says that a session has ended whose key is not there.
    Bury(SessionId),
    /// Deletes the key of a session that has ended.
    Clear(SessionId, Revision),
    /// Writes an ownership, if it is at this revision, or not there.
    Own(Ownership, Option<Revision>),
    /// Deletes the ownership of a target that is not there any more.
    Forget(TargetId, Revision),
}

/// How a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Done(Revision),
    /// It is not, and won't be: what is there is not what was expected.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a node is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this, and tell how it ended.
    Write(Write),
    /// Run a target, in this epoch.
    Run(TargetId, Epoch),
    /// Let a target finish, and tell when it has.
    Drain(TargetId),
    /// End whatever runs, at once.
    StopAll,
    /// The answer to a question.
    Answer(Ticket, bool),
    /// It is out of everything.
    Left,
}

/// Another node's session, as it was last seen.
#[derive(Clone, Debug)]
struct Other {
    session: Session,
    revision: Revision,
    /// When its key was last seen to change, or when this node could last see nothing.
    changed_at: Instant,
}

/// What a node does with a target that it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    epoch: Epoch,
    is_draining: bool,
}

/// Whether all that there was has been told: before, what is missing can't be told from what is to come.
#[derive(Default)]
struct Told {
    store: bool,
    targets: bool,
}

impl Told {
    fn is_everything(&self) -> bool {
        self.store && self.targets
    }
}

/// One node's part in the protocol.
pub struct Ownerships {
    node: String,
    ttl: Duration,
    new_id: Box<dyn FnMut() -> SessionId + Send>,
    mine: Mine,
    others: BTreeMap<SessionId, Other>,
    /// Those that are known to have ended: somebody's word of it was read, or written.
    ended: BTreeSet<SessionId>,
    owners: BTreeMap<TargetId, (Ownership, Revision)>,
    targets: BTreeMap<TargetId, u64>,
    placement: HashMap<TargetId, SessionId>,
    is_misplaced: bool,
    held: BTreeMap<TargetId, Held>,
    /// What is under way, so that nothing is written twice, and whether there was news meanwhile.
    owning: BTreeMap<TargetId, bool>,
    /// What this node has begun to let go of, at which revision: by then it may be another's, or soon.
    letting_go: BTreeMap<TargetId, Revision>,
    ending: BTreeSet<SessionId>,
    /// What is to be looked at again.
    changed: BTreeSet<TargetId>,
    /// And what with the next renewal: it could not be written.
    unwritten: BTreeSet<TargetId>,
    told: Told,
    is_leaving: bool,
    actions: Vec<Action>,
}

impl Ownerships {
    /// A node that takes part. Its silence counts as its end after `ttl`.
    pub fn new(node: &str, ttl: Duration, new_id: impl FnMut() -> SessionId + Send + 'static) -> Self {
        Self {
            node: node.into(),
            ttl,
            new_id: Box::new(new_id),
            mine: Mine::default(),
            others: BTreeMap::new(),
            ended: BTreeSet::new(),
            owners: BTreeMap::new(),
            targets: BTreeMap::new(),
            placement: HashMap::new(),
            is_misplaced: true,
            held: BTreeMap::new(),
            owning: BTreeMap::new(),
            letting_go: BTreeMap::new(),
            ending: BTreeSet::new(),
            changed: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            told: Told::default(),
            is_leaving: false,
            actions: Vec::new(),
        }
    }

    /// What an event leads to.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Current => self.told.store = true,
            Event::SessionSeen(session, revision) => self.session_seen(session, revision, now),
            Event::SessionGone(id) => self.session_gone(id),
            Event::OwnershipSeen(ownership, revision) => self.ownership_seen(ownership, revision),
            Event::OwnershipGone(target) => self.ownership_gone(target),
            Event::TargetWeighs(target, weight) => {
                if self.targets.insert(target, weight) != Some(weight) {
                    self.is_misplaced = true;
                }
                self.changed.insert(target);
            }
            Event::TargetGone(target) => {
                self.is_misplaced |= self.targets.remove(&target).is_some();
                self.changed.insert(target);
            }
            Event::TargetsKnown => self.told.targets = true,
            Event::Drained(target) => self.drained(target),
            Event::Confirm(ticket, target, epoch) => self.confirm(ticket, target, epoch, now),
            Event::Leave => self.leave(now),
            Event::Tick => self.tick(now),
            Event::Wrote(write, outcome) => self.wrote(write, outcome, now),
        }
        self.look_at_changed(now);
        self.end_if_left(now);
        std::mem::take(&mut self.actions)
    }

    fn tick(&mut self, now: Instant) {
        self.keep_session(now);
        self.end_silent(now);
        self.place(now);
    }

    fn wrote(&mut self, write: Write, outcome: Outcome, now: Instant) {
        match write {
            Write::Begin(id) | Write::Renew(id, ..) | Write::Recover(id) => {
                self.session_written(id, write, outcome, now);
            }
            Write::End(id, _) if self.mine.is(id) => self.mine.left(),
            Write::End(id, _) | Write::Bury(id) => self.session_ended(id, outcome, now),
            Write::Clear(..) => {}
            Write::Own(ownership, _) => self.owned(ownership, outcome),
            Write::Forget(target, _) => self.forgotten(target, outcome),
        }
    }

    fn write(&mut self, write: Write) {
        self.actions.push(Action::Write(write));
    }
}
