//! A target: one customer's database, and the consumers that write to it.
//!
//! It owns the pool and the circuit breaker, and tells its consumers whether the database is available. When one of
//! them doubts that, the target probes: if the database answers, the one that failed goes on; if not, the breaker
//! opens, all of them wait, and one probe at a time, with backoff, finds out for all when they can go on. What no probe
//! would find, such as a full disk, opens the breaker by itself. Consumers that end otherwise than by draining are
//! started again, with backoff.

mod health;
mod superseded;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::task::TaskTracker;

use self::superseded::Superseded;
use crate::{
    consumer::{ConsumerActor, ConsumerArguments, ConsumerMessage, Doubt, Seen},
    context::Context,
    flow::{breaker::Breaker, pace::Pace, restarts::Restarts, turns::Turns},
    model::{
        Checkpoint, Connection, Consumer, ConsumerId, ConsumerStatus, Desired, FieldError, Quarantined, Reason, Target,
        TargetStatus,
    },
    pipeline::reason,
    postgres::{Fault, Lease, LiveSessions, Pool},
    telemetry::{ConsumerMetrics, SessionCounts, TargetMetrics},
};

/// What a target is told.
pub(crate) enum TargetMessage {
    /// This is what it should be now, and these are its consumers.
    Reconcile(Arc<Target>, Vec<Arc<Consumer>>),
    /// This consumer doubts that the database is well.
    Doubted(ConsumerId, Doubt),
    /// It is time for the probe of this number.
    ProbeDue(u64),
    /// The probe of this number has ended.
    Probed(u64, Result<(), Fault>),
    /// The store has it so, as of when it was asked because the database did not let us in.
    ReadAnew(Box<Target>),
    /// It is time to start a consumer again.
    RestartDue(ConsumerId),
    /// Let all consumers finish, and end.
    Drain,
}

pub(crate) struct TargetArguments {
    pub(crate) context: Arc<Context>,
    pub(crate) target: Arc<Target>,
    pub(crate) consumers: Vec<Arc<Consumer>>,
    /// By what it is this node's.
    pub(crate) lease: Lease,
}

pub(crate) struct TargetActorState {
    myself: ActorRef<TargetMessage>,
    context: Arc<Context>,
    target: Arc<Target>,
    superseded: Superseded<Target>,
    /// The sessions of this pool and of those before it.
    sessions: Arc<LiveSessions>,
    pool: Pool,
    metrics: Arc<TargetMetrics>,
    breaker: Breaker,
    /// Why the breaker is not closed; `None` while nothing is known.
    reason: Option<Reason>,
    /// Whether that is something that no probe sees.
    is_beyond_probes: bool,
    /// Why it was not closed before, until it has proved itself.
    on_trial: Option<Reason>,
    answered_at: Option<Instant>,
    /// The number of the last probe that was begun or put off; what an earlier one says is not heard.
    probe: u64,
    is_probing: bool,
    failures: Restarts,
    /// Those that the database failed, and that wait for the outcome of a probe.
    failed: HashSet<ConsumerId>,
    consumers: HashMap<ConsumerId, Child>,
    /// For those that begin: one after the other makes do with one session.
    turns: Turns,
    /// How fast all of them together write.
    pace: Arc<Pace>,
    is_draining: bool,
    written: Option<(TargetStatus, Instant)>,
    /// Writes the status, after those before.
    writing: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

/// A consumer, and its actor while it has one.
struct Child {
    consumer: Arc<Consumer>,
    actor: Option<ActorRef<ConsumerMessage>>,
    restarts: Restarts,
    /// The transactions of all its actors, the one that failed included.
    transactions: TaskTracker,
    /// By itself.
    seen: Arc<Seen>,
    metrics: Arc<ConsumerMetrics>,
    is_deleted: bool,
}

pub(crate) struct TargetActor;

impl Actor for TargetActor {
    type Msg = TargetMessage;
    type State = TargetActorState;
    type Arguments = TargetArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<TargetMessage>,
        arguments: TargetArguments,
    ) -> Result<TargetActorState, ActorProcessingErr> {
        let TargetArguments { context, target, consumers, lease } = arguments;
        let sessions = Arc::new(LiveSessions::of(lease));
        let metrics = context.telemetry.target(&target);
        let pool = Pool::new(&target, &context.settings.egress, &sessions, metrics.pool())?;
        metrics.has_pool(counts_of(&pool));
        myself.cast(TargetMessage::Reconcile(Arc::clone(&target), consumers))?;
        let pace = Arc::new(Pace::new(target.limits.max_records_per_second));
        let mut state = TargetActorState {
            myself,
            context,
            target,
            superseded: Superseded::default(),
            sessions,
            pool,
            metrics,
            breaker: Breaker::new(Instant::now()),
            reason: None,
            is_beyond_probes: false,
            on_trial: None,
            answered_at: None,
            probe: 0,
            is_probing: false,
            failures: Restarts::new(Instant::now()),
            failed: HashSet::new(),
            consumers: HashMap::new(),
            turns: Turns::new(1),
            pace,
            is_draining: false,
            written: None,
            writing: None,
            tasks: JoinSet::new(),
        };
        state.probe_now();
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<TargetMessage>,
        message: TargetMessage,
        state: &mut TargetActorState,
    ) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            TargetMessage::Reconcile(target, consumers) => state.reconcile(target, consumers).await?,
            TargetMessage::Doubted(consumer, doubt) => state.doubted(consumer, doubt)?,
            TargetMessage::ProbeDue(number) if number == state.probe => state.probe_now(),
            TargetMessage::Probed(number, outcome) if number == state.probe => state.probed(outcome)?,
            TargetMessage::ProbeDue(_) | TargetMessage::Probed(..) => {}
            TargetMessage::ReadAnew(target) => state.read_anew(*target)?,
            TargetMessage::RestartDue(consumer) => state.start(consumer).await,
            TargetMessage::Drain => state.drain(),
        }
        state.metrics.is_circuit(state.breaker.circuit());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<TargetMessage>,
        event: SupervisionEvent,
        state: &mut TargetActorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, ..) => state.consumer_ended(&actor, "it stopped"),
            SupervisionEvent::ActorFailed(actor, error) => state.consumer_ended(&actor, &error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

fn counts_of(pool: &Pool) -> impl Fn() -> SessionCounts + Send + Sync + 'static {
    let pool = pool.clone();
    move || pool.counts()
}

/// Sessions that were opened otherwise are not used any more.
fn what_sessions_are_of(target: &Target) -> (&Connection, u32, [u32; 2]) {
    let limits = &target.limits;
    (&target.connection, target.pool_size, [limits.statement_timeout_seconds, limits.lock_timeout_seconds])
}

impl TargetActorState {
    fn actors(&self) -> impl Iterator<Item = (&ConsumerId, &ActorRef<ConsumerMessage>)> {
        self.consumers.iter().filter_map(|(id, child)| child.actor.as_ref().map(|actor| (id, actor)))
    }

    async fn reconcile(&mut self, target: Arc<Target>, consumers: Vec<Arc<Consumer>>) -> Result<(), FieldError> {
        let target = if self.superseded.is(&target) { Arc::clone(&self.target) } else { target };
        let is_elsewhere = what_sessions_are_of(&target) != what_sessions_are_of(&self.target);
        let is_limited = target.limits != self.target.limits;
        let is_renamed = target.name != self.target.name;
        self.target = target;
        self.pace.set(self.target.limits.max_records_per_second);
        if is_renamed {
            self.metrics.renamed(&self.target.name);
        }
        if is_elsewhere {
            self.go_elsewhere()?;
        } else if is_limited && !self.is_probing {
            self.probe_now();
        }
        let wanted: HashSet<_> = consumers.iter().map(|consumer| consumer.id).collect();
        let deleted: Vec<_> = self.consumers.keys().filter(|id| !wanted.contains(id)).copied().collect();
        for id in deleted {
            self.delete(id);
        }
        for consumer in consumers.into_iter().filter(|consumer| consumer.desired != Desired::Draft) {
            self.reconcile_consumer(consumer, is_renamed).await;
        }
        Ok(())
    }

    /// The consumers go over to the new pool as soon as it answers.
    fn go_elsewhere(&mut self) -> Result<(), FieldError> {
        self.sessions.go_elsewhere();
        self.renew_pool()?;
        self.breaker = Breaker::new(Instant::now());
        self.reason = None;
        self.probe_now();
        Ok(())
    }

    /// What the sessions so far were connected to is not what will answer.
    fn renew_pool(&mut self) -> Result<(), FieldError> {
        self.pool = Pool::new(&self.target, &self.context.settings.egress, &self.sessions, self.metrics.pool())?;
        self.metrics.has_pool(counts_of(&self.pool));
        Ok(())
    }

    async fn reconcile_consumer(&mut self, consumer: Arc<Consumer>, is_target_renamed: bool) {
        let id = consumer.id;
        if let Some(child) = self.consumers.get_mut(&id) {
            if child.consumer != consumer || is_target_renamed {
                child.metrics.renamed(&consumer, &self.target.name);
                if let Some(actor) = &child.actor {
                    let _ = actor.cast(ConsumerMessage::Reconcile(Arc::clone(&consumer), self.target.name.clone()));
                }
            }
            child.consumer = consumer;
            return;
        }
        let transactions = TaskTracker::new();
        // To wait for it is then to wait until none is under way.
        transactions.close();
        let child = Child {
            metrics: self.context.telemetry.consumer(&consumer, &self.target.name),
            consumer,
            actor: None,
            restarts: Restarts::new(Instant::now()),
            transactions,
            seen: Arc::default(),
            is_deleted: false,
        };
        self.consumers.insert(id, child);
        self.start(id).await;
    }

    async fn start(&mut self, id: ConsumerId) {
        let is_closed = self.is_closed();
        let Some(child) = self.consumers.get_mut(&id) else { return };
        if self.is_draining || child.is_deleted || child.actor.is_some() {
            return;
        }
        let myself = self.myself.clone();
        let pool = match &self.reason {
            _ if is_closed => Ok(self.pool.clone()),
            Some(reason) => Err(reason.clone()),
            None => Err(reason::connecting(&self.target.name)),
        };
        let arguments = ConsumerArguments {
            context: Arc::clone(&self.context),
            consumer: Arc::clone(&child.consumer),
            target_name: self.target.name.clone(),
            transactions: child.transactions.clone(),
            turns: self.turns.clone(),
            pace: Arc::clone(&self.pace),
            seen: Arc::clone(&child.seen),
            metrics: Arc::clone(&child.metrics),
            pool,
            tell_target: Arc::new(move |doubt| drop(myself.cast(TargetMessage::Doubted(id, doubt)))),
        };
        match ConsumerActor::spawn_linked(None, ConsumerActor, arguments, self.myself.get_cell()).await {
            Ok((actor, _)) => {
                child.restarts.started(Instant::now());
                child.actor = Some(actor);
            }
            Err(error) => self.start_again(id, &error.to_string()),
        }
    }

    fn consumer_ended(&mut self, actor: &ActorCell, why: &str) {
        let is_it = |child: &Child| child.actor.as_ref().is_some_and(|ours| ours.get_id() == actor.get_id());
        let Some((&id, child)) = self.consumers.iter_mut().find(|(_, child)| is_it(child)) else { return };
        child.actor = None;
        if child.is_deleted {
            self.forget(id);
        } else if !self.is_draining {
            self.start_again(id, why);
        }
        self.stop_if_drained();
    }

    fn start_again(&mut self, id: ConsumerId, why: &str) {
        let Some(child) = self.consumers.get_mut(&id) else { return };
        let wait = child.restarts.failed(Instant::now(), fastrand::f64());
        tracing::error!(consumer = %child.consumer.name, why, ?wait, "a consumer ended, and will be started again");
        self.myself.send_after(wait, move || TargetMessage::RestartDue(id));
    }

    fn delete(&mut self, id: ConsumerId) {
        let Some(child) = self.consumers.get_mut(&id) else { return };
        child.is_deleted = true;
        match &child.actor {
            Some(actor) => drop(actor.cast(ConsumerMessage::Drain)),
            None => self.forget(id),
        }
    }

    /// Removes what the consumer, which is gone, has written of itself.
    fn forget(&mut self, id: ConsumerId) {
        self.consumers.remove(&id);
        let documents = self.context.documents.clone();
        self.tasks.spawn(async move {
            let forget = async {
                documents.delete::<Checkpoint>(id, None).await?;
                documents.delete_all_of::<Quarantined>(id).await?;
                documents.delete::<ConsumerStatus>(id, None).await
            };
            if let Err(error) = forget.await {
                tracing::warn!(consumer = %id, %error, "what a deleted consumer left behind is still there");
            }
        });
    }

    fn drain(&mut self) {
        self.is_draining = true;
        for (_, actor) in self.actors() {
            let _ = actor.cast(ConsumerMessage::Drain);
        }
        self.stop_if_drained();
    }

    fn stop_if_drained(&self) {
        if self.is_draining && self.actors().next().is_none() {
            self.myself.stop(None);
        }
    }
}
