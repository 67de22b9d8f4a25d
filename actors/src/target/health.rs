//! Whether a target's database is well: the probes, the breaker, and what the consumers and the store hear of it.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::FutureExt;
use opentelemetry::KeyValue;

use super::{TargetActorState, TargetMessage};
use crate::{
    consumer::{ConsumerMessage, Doubt},
    flow::breaker::Circuit,
    model::{ConsumerId, FieldError, Target, TargetState, TargetStatus},
    pipeline::reason,
    postgres::{Fault, Pool},
    spans,
};

/// How often a target that answers is asked again.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// A status that does not change is written this often all the same, to show that somebody watches: with every second probe
/// that is answered, which does not come at the same moment each time.
const HEARTBEAT: Duration = Duration::from_secs(19);

/// A probe that takes longer has failed, once there is a session to ask in.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A database that has answered this recently is not asked because of an answer that is slow to come.
const ANSWER_HOLDS: Duration = Duration::from_secs(5);

/// Of a probe that takes longer there is a span, as of one that fails.
const SLOW_PROBE: Duration = Duration::from_secs(1);

async fn probe(pool: &Pool, target: &Target) -> Result<(), Fault> {
    let began = Instant::now();
    let limit = pool.patience() + PROBE_TIMEOUT;
    let outcome = tokio::time::timeout(limit, Box::pin(pool.probe(&target.limits))).await;
    let outcome = outcome.unwrap_or_else(|_| Err(Fault::timed_out("the probe")));
    let took = began.elapsed();
    if outcome.is_err() || took >= SLOW_PROBE {
        let attributes = vec![KeyValue::new("sequin.target", target.name.clone())];
        spans::was_done(format!("probe {}", target.name), attributes, took, outcome.as_ref());
    }
    outcome
}

impl TargetActorState {
    pub(super) fn probe_now(&mut self) {
        self.probe += 1;
        self.is_probing = true;
        self.breaker.probing();
        let (number, pool, myself) = (self.probe, self.pool.clone(), self.myself.clone());
        let target = Arc::clone(&self.target);
        // Those who wait for the first answer begin with it.
        let turns = self.answered_at.is_none().then(|| self.context.turns.clone());
        self.tasks.spawn(async move {
            let probe = AssertUnwindSafe(async {
                match turns {
                    Some(turns) => turns.take(probe(&pool, &target)).await,
                    None => probe(&pool, &target).await,
                }
            });
            let outcome = probe.catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| Err(Fault::internal("the probe panicked")));
            let _ = myself.cast(TargetMessage::Probed(number, outcome));
        });
    }

    fn probe_after(&mut self, wait: Duration) {
        self.probe += 1;
        self.is_probing = false;
        let number = self.probe;
        self.myself.send_after(wait, move || TargetMessage::ProbeDue(number));
    }

    /// One that answers is asked again in step with others, so that what they say is written together.
    fn probe_again(&mut self) {
        let due = self.context.in_step(PROBE_INTERVAL) - tokio::time::Instant::now();
        self.probe_after(due);
    }

    pub(super) fn doubted(&mut self, consumer: ConsumerId, doubt: Doubt) -> Result<(), FieldError> {
        match doubt {
            Doubt::Slow => {
                let was_asked = self.answered_at.is_some_and(|answered| answered.elapsed() < ANSWER_HOLDS);
                if self.is_closed() && !self.is_probing && !was_asked {
                    self.probe_now();
                }
            }
            Doubt::Failed(fault) => {
                tracing::warn!(target_name = %self.target.name, %consumer, %fault, "the database failed a consumer");
                let is_first = self.failed.is_empty();
                self.failed.insert(consumer);
                if !self.is_closed() {
                    // It waits for the probe that is to come.
                } else if fault.is_beyond_a_probe() {
                    self.open(&fault)?;
                } else if is_first {
                    // A database that answers a probe, but fails what comes after, is not asked in a tight loop.
                    let wait = self.failures.failed(Instant::now(), fastrand::f64());
                    self.probe_after(wait);
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.breaker.circuit() == Circuit::Closed
    }

    pub(super) fn probed(&mut self, outcome: Result<(), Fault>) -> Result<(), FieldError> {
        self.is_probing = false;
        match outcome {
            Ok(()) => self.close(),
            // It works, and only has no room for one more session.
            Err(fault) if fault.is_full() && self.is_closed() && !self.sessions.is_empty() => self.close(),
            Err(fault) => self.open(&fault)?,
        }
        Ok(())
    }

    /// The database answers: whoever waits goes on.
    fn close(&mut self) {
        let was_closed = self.is_closed();
        if !was_closed {
            tracing::info!(target_name = %self.target.name, "healthy");
        }
        let now = Instant::now();
        self.breaker.answered(now);
        // A fault that no probe sees has not passed because one was answered: that takes a while without it.
        self.on_trial = self.reason.take().filter(|_| self.is_beyond_probes);
        self.answered_at = Some(now);
        let failed = std::mem::take(&mut self.failed);
        if !failed.is_empty() {
            self.failures.started(now);
        }
        for (id, actor) in self.actors() {
            if !was_closed || failed.contains(id) {
                let _ = actor.cast(ConsumerMessage::TargetAvailable(self.pool.clone()));
            }
        }
        self.probe_again();
        self.write_status();
    }

    /// The database can't be used: everybody waits until a probe is answered.
    fn open(&mut self, fault: &Fault) -> Result<(), FieldError> {
        let mut reason = reason::target_unhealthy(&self.target.name, fault);
        if let Some(before) = self.reason.as_ref().or(self.on_trial.as_ref()) {
            reason.since = before.since;
        }
        // One that is only spared keeps its sessions: to open others would be one more strain.
        if !fault.is_strained() && self.reason.as_ref().is_none_or(reason::is_of_strain) {
            self.renew_pool()?;
        }
        self.is_beyond_probes = fault.is_beyond_a_probe();
        if self.reason.as_ref() != Some(&reason) {
            tracing::warn!(target_name = %self.target.name, %fault, "unhealthy");
            for (_, actor) in self.actors() {
                let _ = actor.cast(ConsumerMessage::TargetUnavailable(reason.clone()));
            }
            self.reason = Some(reason);
        }
        let wait = self.breaker.failed(Instant::now(), fastrand::f64());
        self.probe_after(wait);
        self.write_status();
        if fault.may_be_of_old_settings() {
            self.ask_store();
        }
        Ok(())
    }

    /// The password, or a key, may be another by now, and nobody has told us yet: the watch is slow, or broken.
    fn ask_store(&mut self) {
        let (documents, id, myself) = (self.context.documents.clone(), self.target.id, self.myself.clone());
        self.tasks.spawn(async move {
            match documents.get::<Target>(id).await {
                Ok(Some(saved)) => drop(myself.cast(TargetMessage::ReadAnew(Box::new(saved.value)))),
                // Whoever deleted it has said so, too.
                Ok(None) => {}
                Err(error) => tracing::warn!(target = %id, %error, "the target was not read anew"),
            }
        });
    }

    /// Takes how to connect from what the store has; all else comes by the watch, as does what is older than what we have.
    pub(super) fn read_anew(&mut self, target: Target) -> Result<(), FieldError> {
        let Target { connection, updated_at, .. } = target;
        if connection == self.target.connection || updated_at < self.target.updated_at {
            return Ok(());
        }
        tracing::info!(target_name = %self.target.name, "the connection was changed, as the store shows");
        self.superseded.set(&self.target);
        self.target = Arc::new(Target { connection, updated_at, ..(*self.target).clone() });
        self.go_elsewhere()
    }

    fn write_status(&mut self) {
        let reason = self.reason.as_ref().or(self.on_trial.as_ref()).cloned();
        let state = match reason {
            Some(_) => TargetState::Unhealthy,
            None if self.is_closed() => TargetState::Healthy,
            None => TargetState::Connecting,
        };
        let node = self.context.settings.node.clone();
        let seen = self.consumers.iter().filter_map(|(id, child)| child.seen.at().map(|at| (*id, at)));
        let status = TargetStatus { state, reason, checked_at: Utc::now(), consumers_seen: seen.collect(), node };
        let is_news = self.written.as_ref().is_none_or(|(written, at)| {
            (written.state, &written.reason) != (status.state, &status.reason) || at.elapsed() >= HEARTBEAT
        });
        if !is_news {
            return;
        }
        self.written = Some((status.clone(), Instant::now()));
        let (context, id, earlier) = (Arc::clone(&self.context), self.target.id, self.writing.take());
        self.writing = Some(tokio::spawn(async move {
            if let Some(earlier) = earlier {
                let _ = earlier.await;
            }
            if let Err(error) = context.documents.put(id, &status).await {
                tracing::warn!(target = %id, %error, "the status was not written");
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::{
        flow::budget::NodeBudget,
        model::{Bastion, Connection, Limits, Metadata, Secret, TargetId, Tls},
        postgres::{Egress, LiveSessions},
        telemetry::Telemetry,
    };

    /// What takes connections and says nothing, and its port.
    fn silent() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        (listener, port)
    }

    async fn fault_of(connection: Connection) -> Fault {
        let (id, now) = (TargetId::generate(), Utc::now());
        let target = Target {
            id,
            name: "app".into(),
            connection,
            pool_size: 4,
            limits: Limits::default(),
            metadata: Metadata::new(),
            created_at: now,
            updated_at: now,
        };
        let metrics = Telemetry::new(None, &NodeBudget::new(1)).target(&target);
        let live: Arc<LiveSessions> = Arc::default();
        let pool = Pool::new(&target, &Egress::default(), &live, metrics.pool()).expect("settings");
        probe(&pool, &target).await.expect_err("nobody says anything")
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_meets_nothing_but_silence_tells_who_is_silent() {
        let ((_first, first), (_second, second), (_third, third)) = (silent(), silent(), silent());
        let connection = Connection {
            host: format!("127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{third}"),
            port: 5432,
            database: "app".into(),
            username: "sequin".into(),
            password: None,
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        };
        let fault = fault_of(connection.clone()).await;
        assert_eq!(fault.code, "timeout", "{fault}");
        let all = [first, second, third].map(|port| format!("127.0.0.1:{port}: "));
        assert!(all.iter().all(|server| fault.summary.contains(server)), "{fault}");

        let bastion = Bastion {
            host: "127.0.0.1".into(),
            port: first,
            username: "sequin".into(),
            private_key: None,
            passphrase: None,
            password: Some(Secret::new("a password")),
            host_key: None,
            trust_on_first_use: false,
        };
        let fault = fault_of(Connection { bastion: Some(bastion), ..connection }).await;
        assert_eq!(fault.code, "bastion_unreachable", "{fault}");
        assert!(fault.summary.contains(&format!("127.0.0.1:{first}")), "{fault}");
    }
}
