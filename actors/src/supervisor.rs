//! The root: brings what runs on this node to what the store says should run.
//!
//! It watches targets and consumers in the store, keeps an actor for each target that this node owns, and tells each of them
//! what it should be. A target whose actor ends otherwise than by draining is started again, with backoff: nothing that
//! happens to one takes the node along. On one node of all it has the duties of the cluster done too: people are told of
//! incidents, and the stream drops the tombstones that nobody needs any more.

mod duties;
pub(crate) mod owning;
mod tombstones;
pub(crate) mod watching;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;

use self::{duties::Duties, owning::Owning, tombstones::drop_tombstones, watching::watch};
use crate::{
    context::Context,
    flow::restarts::Restarts,
    model::{Consumer, ConsumerId, Epoch, Target, TargetId},
    store::DocumentEvent,
    target::{TargetActor, TargetArguments, TargetMessage},
};

/// How often tombstones are looked through.
const TOMBSTONES_INTERVAL: Duration = Duration::from_secs(600);

/// What the supervisor is told.
#[expect(clippy::large_enum_variant, reason = "messages are few, and each is boxed to be sent")]
pub(crate) enum SupervisorMessage {
    /// The store told something of a target.
    Target(DocumentEvent<Target, TargetId>),
    /// The store told something of a consumer.
    Consumer(DocumentEvent<Consumer, ConsumerId>),
    /// It is time to start a target's actor again.
    RestartDue(TargetId),
    /// It is time to look through the tombstones.
    TombstonesDue,
    /// This node owns a target, in this epoch.
    Own(TargetId, Epoch),
    /// Another node is to have it: let it finish.
    LetGo(TargetId),
    /// This node may own nothing any more: end whatever runs.
    LetAllGo,
    /// Others have everything.
    Left,
    /// It is time to take part in the cluster again.
    JoinDue,
    /// Let all targets finish, and end.
    Drain,
}

pub(crate) struct SupervisorState {
    myself: ActorRef<SupervisorMessage>,
    context: Arc<Context>,
    /// Of each target, also of one that is not known.
    consumers: HashMap<TargetId, HashMap<ConsumerId, Arc<Consumer>>>,
    /// Whether all that the store holds of them has been told.
    knows_consumers: bool,
    knows_targets: bool,
    targets: HashMap<TargetId, Child>,
    owning: Owning,
    duties: Duties,
    is_draining: bool,
    tasks: JoinSet<()>,
}

/// A target, and its actor while it has one.
struct Child {
    /// `None` once it is deleted.
    target: Option<Arc<Target>>,
    actor: Option<ActorRef<TargetMessage>>,
    /// In which its actor was started.
    epoch: Epoch,
    restarts: Restarts,
}

pub(crate) struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        context: Arc<Context>,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let mut tasks = JoinSet::new();
        let (targets, consumers) = (myself.clone(), myself.clone());
        tasks.spawn(watch(Arc::clone(&context), move |event| drop(targets.cast(SupervisorMessage::Target(event)))));
        tasks.spawn(watch(Arc::clone(&context), move |event| drop(consumers.cast(SupervisorMessage::Consumer(event)))));
        myself.send_after(TOMBSTONES_INTERVAL, || SupervisorMessage::TombstonesDue);
        let owning = Owning::begin(&context, &myself).await?;
        Ok(SupervisorState {
            myself,
            context,
            consumers: HashMap::new(),
            knows_consumers: false,
            knows_targets: false,
            targets: HashMap::new(),
            owning,
            duties: Duties::new(Instant::now()),
            is_draining: false,
            tasks,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Target(event) => state.target_event(event).await,
            SupervisorMessage::Consumer(event) => state.consumer_event(event).await,
            SupervisorMessage::RestartDue(target) => state.reconcile(target).await,
            SupervisorMessage::TombstonesDue => state.drop_tombstones(),
            SupervisorMessage::Own(target, epoch) => state.own(target, epoch).await,
            SupervisorMessage::LetGo(target) => state.let_go(target),
            SupervisorMessage::LetAllGo => state.let_all_go(),
            SupervisorMessage::Left => state.myself.stop(None),
            SupervisorMessage::JoinDue => state.join().await?,
            SupervisorMessage::Drain => state.drain(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, ..) => state.ended(&actor, "it stopped").await,
            SupervisionEvent::ActorFailed(actor, error) => state.ended(&actor, &error.to_string()).await,
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl SupervisorState {
    async fn target_event(&mut self, event: DocumentEvent<Target, TargetId>) {
        match event {
            DocumentEvent::Put(id, target) => {
                let target = Arc::new(target.value);
                let restarts = Restarts::new(Instant::now());
                let fresh = || Child { target: None, actor: None, epoch: Epoch::FIRST, restarts };
                self.targets.entry(id).or_insert_with(fresh).target = Some(target);
                self.count_owned();
                self.reconcile(id).await;
            }
            DocumentEvent::Unreadable(..) => {}
            DocumentEvent::Deleted(id) => {
                let Some(child) = self.targets.get_mut(&id) else { return };
                child.target = None;
                match &child.actor {
                    Some(actor) => drop(actor.cast(TargetMessage::Drain)),
                    None => drop(self.targets.remove(&id)),
                }
                self.owning.gone(id);
                self.count_owned();
            }
            DocumentEvent::Current => {
                self.knows_targets = true;
                self.reconcile_all().await;
            }
        }
    }

    async fn consumer_event(&mut self, event: DocumentEvent<Consumer, ConsumerId>) {
        let target = match event {
            DocumentEvent::Put(id, consumer) => {
                self.forget(id);
                let target = consumer.value.target;
                self.consumers.entry(target).or_default().insert(id, Arc::new(consumer.value));
                Some(target)
            }
            DocumentEvent::Deleted(id) => self.forget(id),
            DocumentEvent::Unreadable(..) => None,
            DocumentEvent::Current => {
                self.knows_consumers = true;
                return self.reconcile_all().await;
            }
        };
        if let Some(target) = target {
            self.reconcile(target).await;
        }
    }

    /// Returns which target the consumer was of.
    fn forget(&mut self, id: ConsumerId) -> Option<TargetId> {
        let mut targets = self.consumers.iter_mut();
        targets.find_map(|(target, consumers)| consumers.remove(&id).map(|_| *target))
    }

    async fn reconcile_all(&mut self) {
        let targets: Vec<_> = self.targets.keys().copied().collect();
        for target in targets {
            self.reconcile(target).await;
        }
        if self.knows_targets && self.knows_consumers {
            self.owning.weighs(TargetId::DUTIES, 0);
            self.reconcile(TargetId::DUTIES).await;
            self.owning.knows_targets();
        }
    }

    /// Starts the target's actor, or tells it what it should be.
    async fn reconcile(&mut self, id: TargetId) {
        // A target that was told of some of its consumers would take the others for deleted.
        if !(self.knows_targets && self.knows_consumers) || self.is_draining {
            return;
        }
        if id == TargetId::DUTIES {
            return self.do_duties().await;
        }
        let consumers: Vec<_> = self.consumers.get(&id).into_iter().flat_map(HashMap::values).cloned().collect();
        let Some(child) = self.targets.get_mut(&id) else { return };
        let Some(target) = child.target.clone() else { return };
        self.owning.weighs(id, consumers.len());
        let Some((epoch, lease)) = self.owning.lease(&self.context, id) else { return };
        if let Some(actor) = &child.actor {
            // One of an earlier epoch has no business here any more: with its end this begins.
            if child.epoch == epoch {
                let _ = actor.cast(TargetMessage::Reconcile(target, consumers));
            } else {
                actor.kill();
            }
            return;
        }
        child.epoch = epoch;
        let arguments = TargetArguments { context: Arc::clone(&self.context), target, consumers, lease };
        match TargetActor::spawn_linked(None, TargetActor, arguments, self.myself.get_cell()).await {
            Ok((actor, _)) => {
                child.restarts.started(Instant::now());
                child.actor = Some(actor);
            }
            Err(error) => self.start_again(id, &error.to_string()),
        }
    }

    async fn ended(&mut self, actor: &ActorCell, why: &str) {
        if self.owning.is_by(actor) {
            return self.left_out(why);
        }
        if self.duties.are_of(actor) {
            return self.duties_ended(why).await;
        }
        let is_it = |child: &Child| child.actor.as_ref().is_some_and(|ours| ours.get_id() == actor.get_id());
        let Some((&id, child)) = self.targets.iter_mut().find(|(_, child)| is_it(child)) else { return };
        child.actor = None;
        let (is_deleted, was_of) = (child.target.is_none(), child.epoch);
        if is_deleted {
            self.targets.remove(&id);
        }
        self.drained(id);
        match self.owning.epoch(id) {
            Some(_) if is_deleted || self.is_draining => {}
            Some(epoch) if epoch != was_of => self.reconcile(id).await,
            Some(_) => self.start_again(id, why),
            None => {}
        }
        self.stop_if_drained();
    }

    fn start_again(&mut self, id: TargetId, why: &str) {
        let Some(child) = self.targets.get_mut(&id) else { return };
        let wait = child.restarts.failed(Instant::now(), fastrand::f64());
        tracing::error!(target_id = %id, why, ?wait, "a target's actor ended, and will be started again");
        self.myself.send_after(wait, move || SupervisorMessage::RestartDue(id));
    }

    fn drop_tombstones(&mut self) {
        self.myself.send_after(TOMBSTONES_INTERVAL, || SupervisorMessage::TombstonesDue);
        while self.tasks.try_join_next().is_some() {}
        if self.owning.epoch(TargetId::DUTIES).is_none() {
            return;
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            match drop_tombstones(&context).await {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "tombstones dropped"),
                Err(error) => tracing::warn!(error, "tombstones were not dropped"),
            }
        });
    }

    fn drain(&mut self) {
        self.is_draining = true;
        if self.owning.leave() {
            return;
        }
        for actor in self.targets.values().filter_map(|child| child.actor.as_ref()) {
            let _ = actor.cast(TargetMessage::Drain);
        }
        self.duties.drain();
        self.stop_if_drained();
    }

    fn stop_if_drained(&self) {
        let has_ended = self.targets.values().all(|child| child.actor.is_none()) && self.duties.have_ended();
        if self.is_draining && self.owning.is_alone() && has_ended {
            self.myself.stop(None);
        }
    }
}
