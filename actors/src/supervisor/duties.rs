//! The duties of the cluster: what one node does for all. They are owned as a target is, so there is always one that has them.

use std::{sync::Arc, time::Instant};

use ractor::{Actor, ActorCell, ActorRef};

use super::{SupervisorMessage, SupervisorState};
use crate::{
    alerting::{AlertingActor, AlertingArguments, AlertingMessage},
    flow::restarts::Restarts,
    model::{Epoch, TargetId},
};

/// The actor that does them, while this node has them.
pub(super) struct Duties {
    actor: Option<ActorRef<AlertingMessage>>,
    epoch: Epoch,
    restarts: Restarts,
}

impl Duties {
    pub(super) fn new(now: Instant) -> Self {
        Self { actor: None, epoch: Epoch::FIRST, restarts: Restarts::new(now) }
    }

    pub(super) fn are_of(&self, actor: &ActorCell) -> bool {
        self.actor.as_ref().is_some_and(|ours| ours.get_id() == actor.get_id())
    }

    pub(super) fn have_ended(&self) -> bool {
        self.actor.is_none()
    }

    pub(super) fn drain(&self) {
        if let Some(actor) = &self.actor {
            let _ = actor.cast(AlertingMessage::Drain);
        }
    }

    pub(super) fn kill(&self) {
        if let Some(actor) = &self.actor {
            actor.kill();
        }
    }
}

impl SupervisorState {
    /// Begins with them, if they are this node's.
    pub(super) async fn do_duties(&mut self) {
        let Some((epoch, is_ours)) = self.owning.claim(TargetId::DUTIES) else { return };
        if self.duties.actor.is_some() {
            // One of an earlier epoch has no business here any more: with its end this begins.
            if self.duties.epoch != epoch {
                self.duties.kill();
            }
            return;
        }
        self.duties.epoch = epoch;
        let arguments = AlertingArguments { context: Arc::clone(&self.context), is_ours };
        match AlertingActor::spawn_linked(None, AlertingActor, arguments, self.myself.get_cell()).await {
            Ok((actor, _)) => {
                self.duties.restarts.started(Instant::now());
                self.duties.actor = Some(actor);
            }
            Err(error) => self.do_duties_again(&error.to_string()),
        }
    }

    pub(super) fn let_duties_go(&mut self) {
        match &self.duties.actor {
            Some(_) => self.duties.drain(),
            None => self.drained(TargetId::DUTIES),
        }
    }

    pub(super) async fn duties_ended(&mut self, why: &str) {
        self.duties.actor = None;
        self.context.telemetry.alerts().ended();
        self.drained(TargetId::DUTIES);
        match self.owning.epoch(TargetId::DUTIES) {
            Some(_) if self.is_draining => {}
            Some(epoch) if epoch != self.duties.epoch => self.do_duties().await,
            Some(_) => self.do_duties_again(why),
            None => {}
        }
        self.stop_if_drained();
    }

    fn do_duties_again(&mut self, why: &str) {
        let wait = self.duties.restarts.failed(Instant::now(), fastrand::f64());
        tracing::error!(why, ?wait, "the alerting ended, and will be started again");
        self.myself.send_after(wait, || SupervisorMessage::RestartDue(TargetId::DUTIES));
    }
}
