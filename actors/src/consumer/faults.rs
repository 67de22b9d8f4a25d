//! What goes wrong, and what a consumer does about it.

use std::time::{Duration, Instant};

use super::{ConsumerState, Doubt, Happening, Mode};
use crate::{
    model::{Astray, Reason, RowAhead},
    pipeline::{ReadError, reason, verify_again},
    postgres::{Fault, Finding, Verdict},
    stream::StreamError,
};

/// A drain that something hinders is over: what was in flight is read again.
impl ConsumerState {
    pub(super) fn read_failed(&mut self, error: &ReadError) {
        match error {
            ReadError::Stream(error) => self.stream_failed(error),
            ReadError::Documents(error) => self.fail(reason::trying_again(error.to_string())),
            ReadError::Unreadable { .. } => self.halt(vec![reason::unreadable_record(error.to_string())]),
        }
    }

    pub(super) fn stream_failed(&mut self, error: &StreamError) {
        match error {
            StreamError::Replaced(message) => self.stream_replaced(message),
            error => self.fail(reason::trying_again(error.to_string())),
        }
    }

    /// The stream is another one in the middle of it, which is as if it had been loaded so.
    fn stream_replaced(&mut self, message: &str) {
        let Some(progress) = &mut self.progress else { return };
        let astray = Astray::Replaced { checkpoint: progress.checkpoint().idx };
        progress.is_astray(astray);
        tracing::error!(consumer = %self.arguments.consumer.name, message, "the stream was replaced, and is not read");
        self.halt(vec![reason::astray(astray, &self.arguments.consumer)]);
    }

    /// The stream and the checkpoint are of an earlier state than the table, so what is published may not reach it.
    pub(super) fn table_is_ahead(&mut self, ahead: RowAhead) {
        let Some(progress) = &mut self.progress else { return };
        let astray = progress.is_behind_table(ahead);
        tracing::error!(consumer = %self.arguments.consumer.name, %astray, "the stream is not read");
        self.halt(vec![reason::astray(astray, &self.arguments.consumer)]);
    }

    pub(super) fn judge(&mut self, fault: Fault) {
        if self.is_draining() {
            return self.end_drain();
        }
        tracing::warn!(consumer = %self.arguments.consumer.name, %fault, verdict = ?fault.verdict, "stopped");
        match fault.verdict {
            Verdict::Target => {
                let mut reason = reason::target_unhealthy(&self.arguments.target_name, &fault);
                if let Some(outage) = self.outage.take() {
                    reason.since = outage.since;
                }
                self.count_failure(&reason.code);
                self.target_unavailable(reason);
                (self.arguments.tell_target)(Doubt::Failed(fault));
            }
            Verdict::Contention => self.fail(reason::contention(&fault)),
            Verdict::Table => self.diagnose(fault),
            Verdict::Record => self.halt(vec![reason::of_fault(&fault)]),
        }
    }

    /// Asks which SQL mends the table.
    fn diagnose(&mut self, fault: Fault) {
        self.count_failure(fault.code);
        self.tear_down(Mode::Preparing);
        let Ok(pool) = self.arguments.pool.clone() else { return self.begin() };
        let table = self.arguments.consumer.table.clone();
        self.attempt(async move {
            let findings = verify_again(&pool, &table).await;
            Happening::Diagnosed(fault, findings.unwrap_or_default())
        });
    }

    pub(super) fn diagnosed(&mut self, fault: &Fault, findings: &[Finding]) {
        if self.accept(findings) {
            // Nothing that verifying knows of: it may be over, too.
            let soon = self.restarts.failed(Instant::now(), fastrand::f64());
            self.halt_for(vec![reason::of_fault(fault)], soon);
        }
    }

    /// Stops until somebody helps, and looks after a while whether somebody did.
    pub(super) fn halt(&mut self, reasons: Vec<Reason>) {
        self.halt_for(reasons, self.arguments.context.settings.halt_recheck);
    }

    fn halt_for(&mut self, mut reasons: Vec<Reason>, look_again: Duration) {
        if self.is_draining() {
            return self.end_drain();
        }
        for reason in &mut reasons {
            self.keep_since(reason);
        }
        if let Some(reason) = reasons.first() {
            self.count_failure(&reason.code);
        }
        self.tear_down(Mode::Halted(reasons));
        self.hear_after(look_again, Happening::RetryDue);
    }

    /// Stops for something that may pass by itself.
    pub(super) fn fail(&mut self, mut reason: Reason) {
        if self.is_draining() {
            return self.end_drain();
        }
        tracing::warn!(consumer = %self.arguments.consumer.name, reason = reason.summary, "failed, and will try again");
        self.keep_since(&mut reason);
        self.count_failure(&reason.code);
        self.trouble = Some(reason.clone());
        self.tear_down(Mode::Waiting(reason));
        let wait = self.restarts.failed(Instant::now(), fastrand::f64());
        self.hear_after(wait, Happening::RetryDue);
    }

    /// Counts a pipeline that failed, if one runs.
    pub(super) fn count_failure(&mut self, code: &str) {
        if self.pipeline().is_some() {
            self.arguments.metrics.failed(code);
        }
    }

    /// What was there already when the last status was written has been there since then.
    pub(super) fn keep_since(&self, reason: &mut Reason) {
        let before = self.written.iter().flat_map(|(status, _)| &status.reasons);
        let is_same = |before: &&Reason| before.code == reason.code && before.summary == reason.summary;
        if let Some(before) = before.into_iter().find(is_same) {
            reason.since = before.since;
        }
    }
}
