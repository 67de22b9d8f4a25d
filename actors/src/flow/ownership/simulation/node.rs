//! A node of the simulation: its part in the protocol, and what it runs.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{Action, Event, Ownerships, Ticket, Write},
    Happening, Rule, World,
    database::{Request, What},
    session_id,
};
use crate::model::{Epoch, TargetId};

/// A target that a node runs.
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) epoch: Epoch,
    /// What records are brought in, once it may be.
    pub(super) session: Option<u64>,
    pub(super) in_flight: u32,
    pub(super) is_draining: bool,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) life: u32,
    /// `None` while it is down.
    part: Option<Ownerships>,
    pub(super) heard: usize,
    runs: BTreeMap<TargetId, Run>,
    questions: BTreeMap<Ticket, (TargetId, Request)>,
    /// Those writes of which it has not heard, and whether it will.
    awaited: Vec<(Write, bool)>,
    pub(super) paused_until: u64,
    pub(super) store_lost_until: u64,
    pub(super) database_lost_until: u64,
    seed: u64,
    count: u64,
}

impl Node {
    pub(super) fn new(number: usize, seed: u64) -> Self {
        Self {
            name: format!("node-{number}"),
            life: 0,
            part: None,
            heard: 0,
            runs: BTreeMap::new(),
            questions: BTreeMap::new(),
            awaited: Vec::new(),
            paused_until: 0,
            store_lost_until: 0,
            database_lost_until: 0,
            seed,
            count: 0,
        }
    }

    pub(super) fn begin(&mut self, heard: usize, ttl: Duration) {
        self.seed += 1;
        let mut random = fastrand::Rng::with_seed(self.seed);
        self.part = Some(Ownerships::new(&self.name, ttl, move || session_id(&mut random)));
        self.heard = heard;
    }

    /// Whatever it had in memory is gone; what is under way is not.
    pub(super) fn die(&mut self) {
        self.life += 1;
        self.part = None;
        self.runs.clear();
        self.questions.clear();
        self.awaited.clear();
        self.paused_until = 0;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.part.is_some()
    }

    pub(super) fn is_cut_off_from_store(&self, now: u64) -> bool {
        self.store_lost_until > now
    }

    pub(super) fn awaits(&mut self, write: Write, is_answered: bool) {
        self.awaited.push((write, is_answered));
    }

    pub(super) fn hears_of(&self, write: Write) -> bool {
        self.awaited.contains(&(write, true))
    }

    /// Whether this is the first word of it: an answer that comes after its time is not heard.
    fn is_first_word(&mut self, write: Write) -> bool {
        let found = self.awaited.iter().position(|(awaited, _)| *awaited == write);
        found.map(|number| self.awaited.swap_remove(number)).is_some()
    }

    pub(super) fn run(&mut self, target: TargetId, number: u64) -> Option<&mut Run> {
        self.runs.get_mut(&target).filter(|run| run.number == number)
    }

    pub(super) fn epoch_of(&self, target: TargetId) -> Option<Epoch> {
        self.runs.get(&target).map(|run| run.epoch)
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

impl World {
    /// A node learns something, and does what follows from it.
    pub(super) fn learn(&mut self, number: usize, event: Event) {
        let now = self.instant();
        let node = &mut self.nodes[number];
        if let Event::Wrote(write, _) = event
            && !node.is_first_word(write)
        {
            return;
        }
        let Some(part) = &mut node.part else { return };
        for action in part.handle(event, now) {
            match action {
                Action::Write(write) => self.send_write(number, write),
                Action::Run(target, epoch) => self.begin_run(number, target, epoch),
                Action::Drain(target) => self.drain(number, target),
                Action::StopAll => self.nodes[number].runs.clear(),
                Action::Answer(ticket, is_ours) => self.answered(number, ticket, is_ours),
                Action::Left => {
                    self.crash(number);
                    return;
                }
            }
        }
    }

    fn begin_run(&mut self, number: usize, target: TargetId, epoch: Epoch) {
        let node = &mut self.nodes[number];
        let run = Run { number: node.next(), epoch, session: None, in_flight: 0, is_draining: false };
        node.runs.insert(target, run);
        self.connect(number, target, 1);
    }

    /// Begins a run from the start, with a session of its own.
    pub(super) fn connect(&mut self, number: usize, target: TargetId, wait: u64) {
        let node = &mut self.nodes[number];
        let fresh = node.next();
        if let Some(run) = node.runs.get_mut(&target) {
            // What was under way goes on without it.
            *run = Run { number: fresh, session: None, in_flight: 0, ..*run };
        }
        self.open(number, target, wait);
    }

    /// Opens a session.
    pub(super) fn open(&mut self, number: usize, target: TargetId, wait: u64) {
        let node = &mut self.nodes[number];
        let Some((run, epoch)) = node.runs.get(&target).map(|run| (run.number, run.epoch)) else { return };
        // No two nodes and lives share one.
        let session = (node.next() << 16) | (u64::from(node.life) << 4) | number as u64;
        let request = Request { run, epoch, session, what: What::Connect };
        if self.broken == Some(Rule::ConfirmAfterConnecting) {
            self.confirm(number, target, request);
        } else {
            self.after(wait, wait, number, Happening::Connect(target, request));
        }
    }

    pub(super) fn confirm(&mut self, number: usize, target: TargetId, request: Request) {
        let node = &mut self.nodes[number];
        let ticket = node.next();
        node.questions.insert(ticket, (target, request));
        self.after(0, 0, number, Happening::Learn(Event::Confirm(ticket, target, request.epoch)));
    }

    fn answered(&mut self, number: usize, ticket: Ticket, is_ours: bool) {
        let Some((target, request)) = self.nodes[number].questions.remove(&ticket) else { return };
        match self.broken {
            _ if !is_ours => {
                // A pool that is refused a session asks again, if it is still there.
                if self.nodes[number].run(target, request.run).is_some_and(|run| run.session.is_none()) {
                    self.connect(number, target, 500);
                }
            }
            Some(Rule::ConfirmAfterConnecting) => self.ask(number, target, request),
            _ => self.confirmed(number, target, request),
        }
    }

    fn drain(&mut self, number: usize, target: TargetId) {
        match self.nodes[number].runs.get_mut(&target) {
            Some(run) => run.is_draining = true,
            None => return self.after(0, 50, number, Happening::Learn(Event::Drained(target))),
        }
        self.end_if_drained(number, target);
    }

    pub(super) fn end_if_drained(&mut self, number: usize, target: TargetId) {
        let node = &mut self.nodes[number];
        if node.runs.get(&target).is_some_and(|run| run.is_draining && run.in_flight == 0) {
            node.runs.remove(&target);
            self.after(0, 50, number, Happening::Learn(Event::Drained(target)));
        }
    }
}
