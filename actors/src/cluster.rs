//! A node among others: it keeps the node's session alive, and claims, holds and lets go of targets.
//!
//! What it decides, and why no two nodes can ever bring records to one target, is in [`crate::flow::ownership`]. Here
//! are the store that it is decided over, and the supervisor that is told.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::Utc;
use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    context::Context,
    flow::ownership::{Action, Event, Outcome, Ownerships, Ticket, Write},
    model::{Epoch, Ownership, Phase, Revision, Session, SessionId, Target, TargetId},
    store::{DocumentEvent, DocumentsError, StoreError},
    supervisor::{SupervisorMessage, watching::watch},
};

/// How often time passes.
const TICK: Duration = Duration::from_millis(100);

/// How many ownerships are written at once.
const AT_ONCE: usize = 64;

/// What the actor is told.
pub(crate) enum ClusterMessage {
    /// The store told something of a session.
    Session(DocumentEvent<Session, SessionId>),
    /// The store told something of an ownership.
    Ownership(DocumentEvent<Ownership, TargetId>),
    /// A target is there, and weighs so much.
    Weighs(TargetId, u64),
    /// A target was deleted.
    Gone(TargetId),
    /// All targets have been told.
    TargetsKnown,
    /// A target has ended that was to be let go of.
    Drained(TargetId),
    /// Is a target still this node's, in this epoch?
    Confirm(TargetId, Epoch, oneshot::Sender<bool>),
    /// A write has ended.
    Wrote(Write, Outcome),
    /// Time has passed.
    Tick,
    /// Own nothing any more.
    Leave,
}

pub(crate) struct ClusterArguments {
    pub(crate) context: Arc<Context>,
    /// After this long a silent session counts as over.
    pub(crate) ttl: Duration,
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
}

pub(crate) struct ClusterState {
    myself: ActorRef<ClusterMessage>,
    arguments: ClusterArguments,
    ownerships: Ownerships,
    /// Whether all that was there has been told.
    knows_sessions: bool,
    knows_ownerships: bool,
    questions: HashMap<Ticket, oneshot::Sender<bool>>,
    asked: Ticket,
    owning: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

pub(crate) struct ClusterActor;

impl Actor for ClusterActor {
    type Msg = ClusterMessage;
    type State = ClusterState;
    type Arguments = ClusterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ClusterMessage>,
        arguments: ClusterArguments,
    ) -> Result<ClusterState, ActorProcessingErr> {
        let context = &arguments.context;
        let ownerships = Ownerships::new(&context.settings.node, arguments.ttl, SessionId::generate);
        let mut tasks = JoinSet::new();
        let (sessions, owners) = (myself.clone(), myself.clone());
        tasks.spawn(watch(Arc::clone(context), move |event| drop(sessions.cast(ClusterMessage::Session(event)))));
        tasks.spawn(watch(Arc::clone(context), move |event| drop(owners.cast(ClusterMessage::Ownership(event)))));
        myself.cast(ClusterMessage::Tick)?;
        Ok(ClusterState {
            myself,
            arguments,
            ownerships,
            knows_sessions: false,
            knows_ownerships: false,
            questions: HashMap::new(),
            asked: 0,
            owning: Arc::new(Semaphore::new(AT_ONCE)),
            tasks,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<ClusterMessage>,
        message: ClusterMessage,
        state: &mut ClusterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ClusterMessage::Session(event) => state.session_event(event),
            ClusterMessage::Ownership(event) => state.ownership_event(event),
            ClusterMessage::Weighs(target, weight) => state.happened(Event::TargetWeighs(target, weight)),
            ClusterMessage::Gone(target) => state.happened(Event::TargetGone(target)),
            ClusterMessage::TargetsKnown => state.happened(Event::TargetsKnown),
            ClusterMessage::Drained(target) => state.happened(Event::Drained(target)),
            ClusterMessage::Confirm(target, epoch, answer) => state.confirm(target, epoch, answer),
            ClusterMessage::Wrote(write, outcome) => state.wrote(write, outcome),
            ClusterMessage::Tick => state.tick(),
            ClusterMessage::Leave => state.happened(Event::Leave),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<ClusterMessage>,
        _: SupervisionEvent,
        _: &mut ClusterState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl ClusterState {
    fn tick(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.happened(Event::Tick);
        self.myself.send_after(TICK, || ClusterMessage::Tick);
    }

    fn session_event(&mut self, event: DocumentEvent<Session, SessionId>) {
        match event {
            DocumentEvent::Put(_, session) => self.happened(Event::SessionSeen(session.value, session.revision)),
            DocumentEvent::Deleted(id) => self.happened(Event::SessionGone(id)),
            // Its key is there: it is not taken for over, and what it owns stays its own.
            DocumentEvent::Unreadable(..) => {}
            DocumentEvent::Current => {
                self.knows_sessions = true;
                self.is_current();
            }
        }
    }

    fn ownership_event(&mut self, event: DocumentEvent<Ownership, TargetId>) {
        match event {
            DocumentEvent::Put(_, ownership) => {
                self.happened(Event::OwnershipSeen(ownership.value, ownership.revision));
            }
            DocumentEvent::Deleted(target) => self.happened(Event::OwnershipGone(target)),
            // Whoever tries to take it is refused.
            DocumentEvent::Unreadable(..) => {}
            DocumentEvent::Current => {
                self.knows_ownerships = true;
                self.is_current();
            }
        }
    }

    fn is_current(&mut self) {
        if self.knows_sessions && self.knows_ownerships {
            self.happened(Event::Current);
        }
    }

    fn confirm(&mut self, target: TargetId, epoch: Epoch, answer: oneshot::Sender<bool>) {
        self.asked += 1;
        self.questions.insert(self.asked, answer);
        self.happened(Event::Confirm(self.asked, target, epoch));
    }

    fn wrote(&mut self, write: Write, outcome: Outcome) {
        if let Write::Renew(..) = write {
            self.arguments.context.telemetry.node().heartbeat(matches!(outcome, Outcome::Done(_)));
        }
        self.happened(Event::Wrote(write, outcome));
    }

    fn happened(&mut self, event: Event) {
        for action in self.ownerships.handle(event, Instant::now().into_std()) {
            match action {
                Action::Write(write) => self.write(write),
                Action::Run(target, epoch) => self.tell(SupervisorMessage::Own(target, epoch)),
                Action::Drain(target) => self.tell(SupervisorMessage::LetGo(target)),
                Action::StopAll => {
                    tracing::warn!("cut off from the control store, or taken for dead: whatever runs here ends");
                    self.tell(SupervisorMessage::LetAllGo);
                }
                Action::Answer(ticket, is_ours) => {
                    // Whoever has asked may be gone.
                    let _ = self.questions.remove(&ticket).map(|answer| answer.send(is_ours));
                }
                Action::Left => self.tell(SupervisorMessage::Left),
            }
        }
    }

    fn tell(&self, message: SupervisorMessage) {
        let _ = self.arguments.supervisor.cast(message);
    }

    fn write(&mut self, write: Write) {
        let (context, myself) = (Arc::clone(&self.arguments.context), self.myself.clone());
        let owning = matches!(write, Write::Own(..) | Write::Forget(..)).then(|| Arc::clone(&self.owning));
        // What takes longer is tried again: a node has to know in time how it stands.
        let patience = self.arguments.ttl / 3;
        self.tasks.spawn(async move {
            let _turn = match owning {
                Some(owning) => owning.acquire_owned().await.ok(),
                None => None,
            };
            // Whoever waits for the outcome of a write does nothing else meanwhile.
            let performed = AssertUnwindSafe(timeout(patience, perform(&context, write))).catch_unwind().await;
            let outcome = match performed.unwrap_or_else(|_| Ok(Err(panicked()))) {
                Ok(Ok(revision)) => Outcome::Done(revision),
                Ok(Err(DocumentsError::Store(StoreError::Conflict { .. }))) => Outcome::Refused,
                Ok(Err(error)) => {
                    tracing::debug!(%error, ?write, "it is not known whether this was written");
                    Outcome::Unknown
                }
                Err(_) => Outcome::Unknown,
            };
            let _ = myself.cast(ClusterMessage::Wrote(write, outcome));
        });
    }
}

/// Does to the store what is to be done.
async fn perform(context: &Context, write: Write) -> Result<Revision, DocumentsError> {
    let documents = &context.documents;
    let is_over = |id: &SessionId| StoreError::Conflict { key: format!("session/{id}") }.into();
    match write {
        Write::Begin(id) => documents.insert(id, &session(id, context, Phase::Serving)).await,
        Write::Renew(id, revision, phase) => documents.update(id, &session(id, context, phase), revision).await,
        Write::Recover(id) => match documents.get::<Session>(id).await? {
            Some(found) if found.value.phase != Phase::Ended => Ok(found.revision),
            _ => Err(is_over(&id)),
        },
        Write::End(id, revision) => {
            let Some(found) = documents.get::<Session>(id).await? else { return Err(is_over(&id)) };
            documents.update(id, &Session { phase: Phase::Ended, ..found.value }, revision).await
        }
        Write::Bury(id) => documents.insert(id, &session(id, context, Phase::Ended)).await,
        Write::Clear(id, revision) => documents.delete::<Session>(id, Some(revision)).await.map(|()| revision),
        Write::Own(ownership, None) => documents.insert(ownership.target, &ownership).await,
        Write::Own(ownership, Some(revision)) => documents.update(ownership.target, &ownership, revision).await,
        Write::Forget(target, revision) => {
            if documents.get::<Target>(target).await?.is_some() {
                return Err(StoreError::Conflict { key: format!("ownership/{target}") }.into());
            }
            documents.delete::<Ownership>(target, Some(revision)).await.map(|()| revision)
        }
    }
}

fn panicked() -> DocumentsError {
    StoreError::Unavailable("a write panicked".into()).into()
}

fn session(id: SessionId, context: &Context, phase: Phase) -> Session {
    Session {
        id,
        node: context.settings.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: context.began_at,
        renewed_at: Utc::now(),
        phase,
    }
}
