//! A walk: the way to a database, step by step, with what was found at each. Whoever opens a session to work with walks the
//! same way, and records nothing.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use crate::postgres::error::Fault;

/// A step of the way, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepName {
    /// The names of hosts have addresses, and we may go there.
    Dns,
    /// The SSH host is there, shows the key that it should, and lets us in.
    Bastion,
    /// Somebody listens at the address of the server.
    Tcp,
    /// The server's certificate is one to believe.
    Tls,
    /// The server lets us in.
    Auth,
    /// The database is there.
    Database,
    /// What the server is, and that it takes writes.
    Server,
    /// A session is one process of the server for as long as it lives.
    Pooler,
    /// What a session sets is set.
    SessionSettings,
    /// The schemas are there, and may be used.
    Schema,
    /// The user has the rights that it takes.
    Rights,
    /// The tables are as they should be.
    Table,
    /// How long a question takes.
    Latency,
}

impl StepName {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Dns,
        Self::Bastion,
        Self::Tcp,
        Self::Tls,
        Self::Auth,
        Self::Database,
        Self::Server,
        Self::Pooler,
        Self::SessionSettings,
        Self::Schema,
        Self::Rights,
        Self::Table,
        Self::Latency,
    ];

    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Bastion => "bastion",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Database => "database",
            Self::Server => "server",
            Self::Pooler => "pooler",
            Self::SessionSettings => "session_settings",
            Self::Schema => "schema",
            Self::Rights => "rights",
            Self::Table => "table",
            Self::Latency => "latency",
        }
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    /// As it should.
    Ok,
    /// One can go on, and should know something.
    Warning,
    /// There is no way on.
    Failed,
    /// It was not taken: one before has failed, or there was nothing to be done.
    Skipped,
}

impl StepStatus {
    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A step that was taken, or was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which one.
    pub name: StepName,
    /// How it ended.
    pub status: StepStatus,
    /// How long it took; `None` if it was not taken, or not by itself.
    pub took: Option<Duration>,
    /// What was found.
    pub finding: Option<String>,
    /// What to do about it: a sentence, or SQL.
    pub fix: Option<String>,
}

impl Step {
    fn skipped(name: StepName, finding: Option<&str>) -> Self {
        Self { name, status: StepStatus::Skipped, took: None, finding: finding.map(str::to_owned), fix: None }
    }
}

/// What is remembered of the way.
#[derive(Debug, Default)]
pub struct Walk {
    /// `None` where nothing is to be remembered.
    steps: Option<Vec<Step>>,
    /// The step that is being taken, and since when.
    under_way: Option<(StepName, Instant)>,
}

impl Walk {
    /// One that remembers every step. The default remembers none.
    pub fn recorded() -> Self {
        Self { steps: Some(Vec::new()), under_way: None }
    }

    /// Takes a step. That it went well is its finding until [`Walk::found`] says more.
    pub async fn step<T>(&mut self, name: StepName, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        if self.steps.is_none() {
            return work.await;
        }
        let began = Instant::now();
        self.under_way = Some((name, began));
        let outcome = work.await;
        match &outcome {
            Ok(_) => self.took(name, Some(began.elapsed()), StepStatus::Ok, None, None),
            Err(fault) => self.failed(fault),
        }
        outcome
    }

    /// Says what the last step has found; what that is, is asked only of who listens.
    pub fn found(&mut self, finding: impl FnOnce() -> String) {
        if let Some(step) = self.steps.as_mut().and_then(|steps| steps.last_mut()) {
            step.finding = Some(finding());
        }
    }

    /// Says that the last step ended with something that one should know, and what to do about it.
    pub fn warn(&mut self, finding: String, fix: String) {
        if let Some(step) = self.steps.as_mut().and_then(|steps| steps.last_mut()) {
            (step.status, step.finding, step.fix) = (StepStatus::Warning, Some(finding), Some(fix));
        }
    }

    /// Says how a step ended that was taken as a part of another.
    pub fn took(
        &mut self,
        name: StepName,
        took: Option<Duration>,
        status: StepStatus,
        finding: Option<String>,
        fix: Option<String>,
    ) {
        self.under_way = None;
        if let Some(steps) = &mut self.steps {
            steps.push(Step { name, status, took, finding, fix });
        }
    }

    /// Says why nothing was to be done at a step.
    pub fn skip(&mut self, name: StepName, why: &str) {
        if let Some(steps) = &mut self.steps {
            steps.push(Step::skipped(name, Some(why)));
        }
    }

    /// Says that the step under way, or else `name`, is where the way ended.
    pub fn failed_at(&mut self, name: StepName, fault: &Fault) {
        let (_, began) = self.under_way.take().unzip();
        let took = began.map(|began| began.elapsed());
        self.took(name, took, StepStatus::Failed, Some(fault.to_string()), Some(fault.fix.to_owned()));
    }

    /// Says why the step under way, if there is one, goes no further: also one that was given up half way.
    pub fn failed(&mut self, fault: &Fault) {
        if let Some((name, _)) = self.under_way {
            self.failed_at(name, fault);
        }
    }

    /// Whether this step was taken, or was said to need no taking.
    pub fn has(&self, name: StepName) -> bool {
        self.steps.iter().flatten().any(|step| step.name == name)
    }

    /// Whether the way has ended at some step.
    pub fn has_failed(&self) -> bool {
        self.steps.iter().flatten().any(|step| step.status == StepStatus::Failed)
    }

    /// Takes back what was said of a step: it turned out otherwise.
    pub fn forget(&mut self, name: StepName) {
        if let Some(steps) = &mut self.steps {
            steps.retain(|step| step.name != name);
        }
    }

    /// Every step in order, those that were not taken included.
    pub fn into_steps(self) -> Vec<Step> {
        let mut steps = self.steps.unwrap_or_default();
        let missing = StepName::ALL.into_iter().filter(|name| !steps.iter().any(|step| step.name == *name));
        let missing: Vec<_> = missing.map(|name| Step::skipped(name, None)).collect();
        steps.extend(missing);
        // Several findings of one step keep their order.
        steps.sort_by_key(|step| step.name);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_step_is_there_in_order_and_those_after_the_one_that_failed_are_skipped() {
        let mut walk = Walk::recorded();
        walk.step(StepName::Dns, async { Ok(()) }).await.expect("a step");
        walk.found(|| "127.0.0.1".into());
        walk.skip(StepName::Bastion, "there is none");
        let fault = Fault::timed_out("connecting");
        let failed: Result<(), Fault> = walk.step(StepName::Tcp, async { Err(fault.clone()) }).await;
        assert_eq!(failed, Err(fault.clone()));
        let steps = walk.into_steps();
        assert_eq!(steps.iter().map(|step| step.name).collect::<Vec<_>>(), StepName::ALL);
        let [dns, bastion, tcp, later @ ..] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!((dns.status, dns.finding.as_deref()), (StepStatus::Ok, Some("127.0.0.1")));
        assert_eq!((bastion.status, bastion.finding.as_deref()), (StepStatus::Skipped, Some("there is none")));
        assert_eq!((tcp.status, tcp.fix.as_deref()), (StepStatus::Failed, Some(fault.fix)));
        assert!(later.iter().all(|step| step.status == StepStatus::Skipped), "{later:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_is_given_up_half_way_is_the_one_that_failed() {
        let mut walk = Walk::recorded();
        let hangs = walk.step(StepName::Bastion, std::future::pending::<Result<(), Fault>>());
        assert!(tokio::time::timeout(Duration::from_secs(1), hangs).await.is_err());
        walk.failed(&Fault::timed_out("connecting"));
        let steps = walk.into_steps();
        let failed: Vec<_> = steps.iter().filter(|step| step.status == StepStatus::Failed).collect();
        assert_eq!(failed.iter().map(|step| step.name).collect::<Vec<_>>(), [StepName::Bastion]);
    }

    #[tokio::test]
    async fn who_records_nothing_goes_the_same_way() {
        let mut walk = Walk::default();
        assert_eq!(walk.step(StepName::Dns, async { Ok(1) }).await, Ok(1));
        walk.found(|| panic!("nobody listens"));
        assert!(walk.into_steps().iter().all(|step| step.status == StepStatus::Skipped));
    }
}
