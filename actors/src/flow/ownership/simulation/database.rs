//! A target's database in the simulation, and how a node brings records to it.

use std::collections::BTreeMap;

use super::{FAULTS, Happening, Rule, World, number};
use crate::model::{Epoch, TargetId};

/// What is asked of a database in one run of a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) run: u64,
    pub(super) epoch: Epoch,
    pub(super) session: u64,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    Connect,
    /// End the sessions of lower epochs.
    End,
    /// Read where to go on: nobody of a lower epoch may commit any more.
    Read,
    Commit,
}

struct Session {
    /// The epoch and the run that it was opened in.
    of: (Epoch, u64),
    is_alive: bool,
}

/// A database: its sessions, and what was done in them.
pub(super) struct Database {
    sessions: BTreeMap<u64, Session>,
    /// The epoch and the run, within that, which was the last to begin.
    begun: (Epoch, u64),
    runners: BTreeMap<Epoch, (usize, u32)>,
    pub(super) committed_at: u64,
    broken: Option<Rule>,
}

impl Database {
    pub(super) fn new(broken: Option<Rule>) -> Self {
        Self { sessions: BTreeMap::new(), begun: (Epoch::FIRST, 0), runners: BTreeMap::new(), committed_at: 0, broken }
    }

    pub(super) fn last_epoch(&self) -> Epoch {
        self.begun.0
    }

    /// Whether it was done; `Err` tells what must not be.
    fn asked(&mut self, request: Request, by: (usize, u32), now: u64) -> Result<bool, String> {
        let Request { epoch, session, run, .. } = request;
        let of = (epoch, run);
        if request.what == What::Connect {
            self.sessions.insert(session, Session { of, is_alive: true });
            return Ok(true);
        }
        if !self.sessions.get(&session).is_some_and(|session| session.is_alive) {
            return Ok(false);
        }
        match request.what {
            What::Connect => {}
            What::End if self.broken == Some(Rule::EndLowerEpochs) => {}
            What::End => {
                if self.sessions.values().any(|session| session.is_alive && session.of.0 > epoch) {
                    return Ok(false);
                }
                for session in self.sessions.values_mut().filter(|session| session.of < of) {
                    session.is_alive = false;
                }
            }
            What::Read => self.begun = self.begun.max(of),
            What::Commit => {
                let runner = *self.runners.entry(epoch).or_insert(by);
                if runner != by {
                    return Err(format!("{by:?} commits in epoch {epoch}, which is {runner:?}'s"));
                }
                if of < self.begun {
                    return Err(format!("{by:?} commits in epoch and run {of:?} after {:?} has begun", self.begun));
                }
                self.committed_at = now;
            }
        }
        Ok(true)
    }
}

impl World {
    pub(super) fn ask(&mut self, node: usize, target: TargetId, request: Request) {
        // A statement can take long, as can a connection, and its node be gone by then.
        let can_be_slow = matches!(request.what, What::Connect | What::Commit) && self.now < FAULTS;
        let most = if can_be_slow && self.random.u8(..) < 40 { 20_000 } else { 200 };
        self.after(1, most, node, Happening::Ask(target, request));
    }

    pub(super) fn question_arrives(&mut self, node: usize, life: u32, target: TargetId, request: Request) {
        let is_cut_off = self.nodes[node].database_lost_until > self.now;
        // What was on its way arrives; what would begin does not.
        let is_done = if is_cut_off && request.what == What::Connect {
            false
        } else {
            match self.databases[number(target)].asked(request, (node, life), self.now) {
                Ok(is_done) => is_done,
                Err(violation) => return self.violation = Some(violation),
            }
        };
        if life == self.nodes[node].life {
            self.after(1, 100, node, Happening::Told(target, request, is_done && !is_cut_off));
        }
    }

    pub(super) fn told(&mut self, node: usize, target: TargetId, request: Request, is_done: bool) {
        let Some(run) = self.nodes[node].run(target, request.run) else { return };
        if request.what == What::Commit {
            run.in_flight -= 1;
        }
        if run.is_draining {
            return self.end_if_drained(node, target);
        }
        if !is_done && request.what == What::Commit && self.random.bool() {
            // Another writer takes another session from the pool, before the pipeline has noticed.
            self.open(node, target, 1);
            return self.after(300, 900, node, Happening::Bring(target, request.run));
        }
        if !is_done {
            return self.connect(node, target, 500);
        }
        let broken = self.broken;
        match request.what {
            What::Connect if matches!(broken, Some(Rule::Confirm | Rule::ConfirmAfterConnecting)) => {
                self.confirmed(node, target, request);
            }
            What::Connect => self.confirm(node, target, request),
            What::End if broken == Some(Rule::EndBeforeReading) => self.begin_to_bring(node, target, request),
            What::End => self.ask(node, target, Request { what: What::Read, ..request }),
            What::Read if broken == Some(Rule::EndBeforeReading) => {
                self.ask(node, target, Request { what: What::End, ..request });
            }
            What::Read => self.begin_to_bring(node, target, request),
            What::Commit => self.after(50, 900, node, Happening::Bring(target, request.run)),
        }
    }

    /// A session may be used.
    pub(super) fn confirmed(&mut self, node: usize, target: TargetId, request: Request) {
        let Some(run) = self.nodes[node].run(target, request.run) else { return };
        if run.session.is_some() {
            // One more in the pool: the pipeline goes on in it.
            run.session = Some(request.session);
            return;
        }
        let first = if self.broken == Some(Rule::EndBeforeReading) { What::Read } else { What::End };
        self.ask(node, target, Request { what: first, ..request });
    }

    fn begin_to_bring(&mut self, node: usize, target: TargetId, request: Request) {
        if let Some(run) = self.nodes[node].run(target, request.run) {
            run.session = Some(request.session);
            self.after(1, 50, node, Happening::Bring(target, request.run));
        }
    }

    pub(super) fn bring(&mut self, node: usize, target: TargetId, run_number: u64) {
        let opens_another = self.random.u8(..) < 100;
        let Some(run) = self.nodes[node].run(target, run_number) else { return };
        let Some(session) = run.session.filter(|_| !run.is_draining) else { return };
        run.in_flight += 1;
        let request = Request { run: run_number, epoch: run.epoch, session, what: What::Commit };
        self.ask(node, target, request);
        if opens_another {
            self.open(node, target, 1);
        }
    }
}
