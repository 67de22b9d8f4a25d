//! What goes wrong, and what a consumer does about it.

use std::time::{Duration, Instant};

use super::{ConsumerState, Happening, Mode};
use crate::{
    model::Reason,
    pipeline::{ReadError, reason},
    postgres::{Fault, Verdict},
};

/// How often a halted consumer looks whether it has been helped.
const REVERIFY: Duration = Duration::from_secs(30);

/// A drain that something hinders is over: what was in flight is read again.
impl ConsumerState {
    pub(super) fn read_failed(&mut self, error: &ReadError) {
        match error {
            ReadError::Stream(error) => self.fail(error.to_string()),
            ReadError::Unreadable { .. } => self.halt(vec![reason::unreadable_record(error.to_string())]),
        }
    }

    pub(super) fn judge(&mut self, fault: Fault) {
        if self.is_draining() {
            return self.end_drain();
        }
        tracing::warn!(consumer = %self.arguments.consumer.name, %fault, verdict = ?fault.verdict, "stopped");
        match fault.verdict {
            Verdict::Target => {
                let reason = reason::target_unhealthy(&self.arguments.target_name, &fault);
                self.target_unavailable(reason);
                (self.arguments.suspect_target)(fault);
            }
            Verdict::Contention => self.fail(fault.to_string()),
            // Verifying says which SQL mends it.
            Verdict::Table => {
                let soon = self.restarts.failed(Instant::now(), fastrand::f64());
                self.halt_for(vec![reason::of_fault(&fault)], soon);
            }
            Verdict::Record => self.halt(vec![reason::of_fault(&fault)]),
        }
    }

    /// Stops until somebody helps, and looks after a while whether somebody did.
    pub(super) fn halt(&mut self, reasons: Vec<Reason>) {
        self.halt_for(reasons, REVERIFY);
    }

    fn halt_for(&mut self, mut reasons: Vec<Reason>, look_again: Duration) {
        if self.is_draining() {
            return self.end_drain();
        }
        for reason in &mut reasons {
            self.keep_since(reason);
        }
        self.tear_down(Mode::Halted(reasons));
        self.hear_after(look_again, Happening::RetryDue);
    }

    /// Stops for something that may pass by itself.
    pub(super) fn fail(&mut self, message: String) {
        if self.is_draining() {
            return self.end_drain();
        }
        tracing::warn!(consumer = %self.arguments.consumer.name, message, "failed, and will try again");
        self.tear_down(Mode::Waiting(reason::trying_again(message)));
        let wait = self.restarts.failed(Instant::now(), fastrand::f64());
        self.hear_after(wait, Happening::RetryDue);
    }

    /// What was there already when the last status was written has been there since then.
    fn keep_since(&self, reason: &mut Reason) {
        let before = self.written.iter().flat_map(|(status, _)| &status.reasons);
        let is_same = |before: &&Reason| before.code == reason.code && before.summary == reason.summary;
        if let Some(before) = before.into_iter().find(is_same) {
            reason.since = before.since;
        }
    }
}
