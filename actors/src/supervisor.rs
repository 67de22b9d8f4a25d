//! The root: brings what runs on this node to what the store says should run.
//!
//! It watches targets and consumers in the store, keeps an actor for each target, and tells each of them what it should
//! be. A target whose actor ends otherwise than by draining is started again, with backoff: nothing that happens to one
//! takes the node along. Now and then it lets the stream drop the tombstones that nobody needs any more.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::FutureExt;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;

use crate::{
    context::Context,
    flow::{backoff::Backoff, restarts::Restarts},
    model::{Checkpoint, Consumer, ConsumerId, Desired, Filter, Idx, Quarantined, Target, TargetId},
    store::{Document, DocumentEvent, DocumentsError},
    stream::StreamError,
    target::{TargetActor, TargetArguments, TargetMessage},
};

/// How often tombstones are looked through.
const TOMBSTONES_INTERVAL: Duration = Duration::from_secs(600);

/// What the supervisor is told.
pub(crate) enum SupervisorMessage {
    /// The store told something of a target.
    Target(DocumentEvent<Target, TargetId>),
    /// The store told something of a consumer.
    Consumer(DocumentEvent<Consumer, ConsumerId>),
    /// It is time to start a target's actor again.
    RestartDue(TargetId),
    /// It is time to look through the tombstones.
    TombstonesDue,
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
    is_draining: bool,
    tasks: JoinSet<()>,
}

/// A target, and its actor while it has one.
struct Child {
    /// `None` once it is deleted.
    target: Option<Arc<Target>>,
    actor: Option<ActorRef<TargetMessage>>,
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
        Ok(SupervisorState {
            myself,
            context,
            consumers: HashMap::new(),
            knows_consumers: false,
            knows_targets: false,
            targets: HashMap::new(),
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
            SupervisionEvent::ActorTerminated(actor, ..) => state.target_ended(&actor, "it stopped"),
            SupervisionEvent::ActorFailed(actor, error) => state.target_ended(&actor, &error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

/// Tells every document of a kind, and every change; goes on whatever happens to the store.
async fn watch<T: Document + 'static>(context: Arc<Context>, tell: impl Fn(DocumentEvent<T, T::Id>))
where
    T::Id: Eq + Hash,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = HashSet::new();
    loop {
        // Nobody waits for this task: a panic in it would end the watch without a word.
        let following = AssertUnwindSafe(follow(&context, &tell, &mut told, &mut backoff)).catch_unwind().await;
        let failed = following.map_or_else(|_| "it panicked".into(), |error| error.to_string());
        tracing::error!(error = failed, kind = T::KIND, "watching the store failed, and is tried again");
        tokio::time::sleep(backoff.next(fastrand::f64())).await;
    }
}

async fn follow<T: Document>(
    context: &Context,
    tell: &impl Fn(DocumentEvent<T, T::Id>),
    told: &mut HashSet<T::Id>,
    backoff: &mut Backoff,
) -> DocumentsError
where
    T::Id: Eq + Hash,
{
    let mut watch = match context.documents.watch::<T>().await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    // What an earlier watch told, and this one does not, was deleted in between.
    let mut missing = told.clone();
    loop {
        let event = match watch.next().await {
            Ok(event) => event,
            Err(error @ DocumentsError::Store(_)) => return error,
            // Whatever lies there hinders nothing else.
            Err(error) => {
                tracing::error!(%error, "passed over");
                continue;
            }
        };
        match &event {
            // It is there: what runs by an earlier version of it goes on as it is.
            DocumentEvent::Unreadable(id, unreadable) => {
                tracing::error!(%unreadable, "left as it is");
                missing.remove(id);
            }
            DocumentEvent::Put(id, _) => {
                missing.remove(id);
                told.insert(*id);
            }
            DocumentEvent::Deleted(id) => drop(told.remove(id)),
            DocumentEvent::Current => {
                // Not before: what fails on the way here every time is not to be tried all the time.
                backoff.reset();
                for id in missing.drain() {
                    told.remove(&id);
                    tell(DocumentEvent::Deleted(id));
                }
            }
        }
        tell(event);
    }
}

impl SupervisorState {
    async fn target_event(&mut self, event: DocumentEvent<Target, TargetId>) {
        match event {
            DocumentEvent::Put(id, target) => {
                let target = Arc::new(target.value);
                let fresh = || Child { target: None, actor: None, restarts: Restarts::new(Instant::now()) };
                self.targets.entry(id).or_insert_with(fresh).target = Some(target);
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
    }

    /// Starts the target's actor, or tells it what it should be.
    async fn reconcile(&mut self, id: TargetId) {
        // A target that was told of some of its consumers would take the others for deleted.
        if !(self.knows_targets && self.knows_consumers) || self.is_draining {
            return;
        }
        let consumers = self.consumers.get(&id).into_iter().flat_map(HashMap::values).cloned().collect();
        let Some(child) = self.targets.get_mut(&id) else { return };
        let Some(target) = child.target.clone() else { return };
        if let Some(actor) = &child.actor {
            let _ = actor.cast(TargetMessage::Reconcile(target, consumers));
            return;
        }
        let arguments = TargetArguments { context: Arc::clone(&self.context), target, consumers };
        match TargetActor::spawn_linked(None, TargetActor, arguments, self.myself.get_cell()).await {
            Ok((actor, _)) => {
                child.restarts.started(Instant::now());
                child.actor = Some(actor);
            }
            Err(error) => self.start_again(id, &error.to_string()),
        }
    }

    fn target_ended(&mut self, actor: &ActorCell, why: &str) {
        let is_it = |child: &Child| child.actor.as_ref().is_some_and(|ours| ours.get_id() == actor.get_id());
        let Some((&id, child)) = self.targets.iter_mut().find(|(_, child)| is_it(child)) else { return };
        child.actor = None;
        if child.target.is_none() {
            self.targets.remove(&id);
        } else if !self.is_draining {
            self.start_again(id, why);
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
        while self.tasks.try_join_next().is_some() {}
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            match drop_tombstones(&context).await {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "tombstones dropped"),
                Err(error) => tracing::warn!(error, "tombstones were not dropped"),
            }
        });
        self.myself.send_after(TOMBSTONES_INTERVAL, || SupervisorMessage::TombstonesDue);
    }

    fn drain(&mut self) {
        self.is_draining = true;
        for actor in self.targets.values().filter_map(|child| child.actor.as_ref()) {
            let _ = actor.cast(TargetMessage::Drain);
        }
        self.stop_if_drained();
    }

    fn stop_if_drained(&self) {
        if self.is_draining && self.targets.values().all(|child| child.actor.is_none()) {
            self.myself.stop(None);
        }
    }
}

/// Nothing is dropped unless every consumer can be asked. One that was started and has no checkpoint has passed nothing.
async fn drop_tombstones(context: &Context) -> Result<u64, String> {
    let unread = |error: DocumentsError| error.to_string();
    let mut passed: Vec<(Filter, Idx)> = Vec::new();
    for consumer in context.documents.all::<Consumer>().await.map_err(unread)? {
        let consumer = consumer.map_err(|unreadable| unreadable.to_string())?;
        if consumer.desired != Desired::Draft {
            let saved = context.documents.get::<Checkpoint>(consumer.id).await.map_err(unread)?;
            let mut reached = saved.map_or(Idx::START, |saved| saved.value.going_on_for(&consumer).idx);
            // What is in quarantine has not arrived, and a delete can be.
            let quarantined = context.documents.all_of::<Quarantined>(consumer.id).await.map_err(unread)?;
            for entry in quarantined {
                let set_aside = entry.map_err(|unreadable| unreadable.to_string())?.value.idx;
                reached = reached.min(Idx(set_aside.0 - 1));
            }
            passed.push((consumer.filter, reached));
        }
    }
    let before = Utc::now() - context.settings.tombstone_retention;
    let dropped = context.stream.drop_tombstones(before, &passed).await;
    dropped.map_err(|error: StreamError| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        context::EngineSettings,
        model::{Connection, Metadata, Tls},
        store::{Documents, Keyring, SqliteStore, Store},
        stream::SqliteStream,
    };

    fn target(name: &str) -> Target {
        let connection = Connection {
            host: "localhost".into(),
            port: 5432,
            database: "app".into(),
            username: "sequin".into(),
            password: None,
            tls: Tls::default(),
        };
        let (id, now) = (TargetId::generate(), Utc::now());
        Target {
            id,
            name: name.into(),
            connection,
            pool_size: 4,
            metadata: Metadata::new(),
            created_at: now,
            updated_at: now,
        }
    }

    async fn context(directory: &Path) -> (Arc<Context>, Arc<SqliteStore>) {
        let stream = SqliteStream::open(&directory.join("records.db")).expect("a stream");
        let store = Arc::new(SqliteStore::open(&directory.join("control.db")).await.expect("a store"));
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(store.clone(), Arc::new(keyring));
        (Arc::new(Context::new(EngineSettings::default(), Arc::new(stream), documents)), store)
    }

    #[tokio::test]
    async fn a_watch_goes_on_after_a_panic_and_tells_everything_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (context, _store) = context(directory.path()).await;
        let there = target("a");
        context.documents.create(&there, Utc::now()).await.expect("created");
        let (tell, mut events) = mpsc::unbounded_channel();
        let is_first = AtomicBool::new(true);
        let watching = watch::<Target>(context, move |event| {
            assert!(!is_first.swap(false, Ordering::Relaxed), "scripted");
            drop(tell.send(event));
        });
        let told = tokio::select! {
            () = watching => panic!("it ended"),
            told = events.recv() => told.expect("it goes on"),
        };
        assert!(matches!(told, DocumentEvent::Put(id, _) if id == there.id), "{told:?}");
    }

    #[tokio::test]
    async fn what_became_unreadable_is_not_taken_for_deleted_also_by_a_watch_that_begins_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (context, store) = context(directory.path()).await;
        let documents = &context.documents;
        let (unreadable, deleted) = (target("a"), target("b"));
        for target in [&unreadable, &deleted] {
            documents.create(target, Utc::now()).await.expect("created");
        }
        let mut told = HashSet::new();
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        // What one watch tells until it is current; then it is lost.
        let mut events_of_a_watch = async || {
            let (tell, mut events) = mpsc::unbounded_channel();
            let tell = move |event| drop(tell.send(event));
            let until_current = async {
                let mut seen = Vec::new();
                loop {
                    match events.recv().await.expect("it goes on") {
                        DocumentEvent::Current => return seen,
                        event => seen.push(event),
                    }
                }
            };
            tokio::select! {
                failed = follow::<Target>(&context, &tell, &mut told, &mut backoff) => panic!("{failed}"),
                seen = until_current => seen,
            }
        };
        assert_eq!(events_of_a_watch().await.len(), 2);
        let damaged = b"no document".to_vec();
        store.put(&format!("target/{}", unreadable.id), damaged).await.expect("damaged");
        documents.delete::<Target>(deleted.id, None).await.expect("deleted");
        for deletions in [1, 0] {
            let events = events_of_a_watch().await;
            let told_deleted = |event: &&_| matches!(event, DocumentEvent::Deleted(id) if *id == deleted.id);
            assert_eq!(events.iter().filter(told_deleted).count(), deletions, "{events:?}");
            let others = events.iter().filter(|event| !told_deleted(event));
            let mut others = others.filter(|event| !matches!(event, DocumentEvent::Unreadable(..)));
            assert_eq!(others.next(), None);
        }
    }
}
