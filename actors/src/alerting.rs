//! Alerting: incidents, and people who are told of them. One node of the cluster does this for all.
//!
//! It hears of what every consumer and target, on whatever node, reports of itself: as messages, by way of the store. From
//! that it decides by [`crate::flow::alerts`], and does what comes of it in one order: incidents are saved, then what is to be
//! said of them, then it is delivered, and what came of that is saved before the same destination is told anything else.
//! So whoever takes over goes on where this one was: what was said is not said again, and what has not arrived is. It is apart
//! from the way of the records: who is stuck, or dead, is known by its silence.

mod ledger;
mod telling;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::Mutex, task::JoinSet, time::sleep};

use self::ledger::{Entries, Kept, Ledger};
use crate::{
    context::Context,
    flow::alerts::{About, Incidents, Notices, Pace, World},
    model::{
        AlertingSettings, Consumer, ConsumerId, ConsumerStatus, Destination, IncidentKind, NoticeId, Target, TargetId,
        TargetStatus,
    },
    notify::DeliveryError,
    store::{Document, DocumentEvent, DocumentsError, OnlyOne},
    supervisor::{owning::IsOurs, watching::watch},
};

/// The longest time until something is noticed that was reported.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long who ends waits for what is being delivered.
const LAST_DELIVERIES: Duration = Duration::from_secs(10);

/// How long it takes at most until a node that has lost everything hears of it.
const BEFORE_ITS_END: Duration = Duration::from_secs(1);

/// For how long incidents that are over are kept, and what was said of them.
const RETENTION: TimeDelta = TimeDelta::days(30);

/// What it is told.
#[expect(clippy::large_enum_variant, reason = "messages are few, and each is boxed to be sent")]
pub(crate) enum AlertingMessage {
    /// The store told something of a target.
    Target(DocumentEvent<Target, TargetId>),
    /// The store told something of a consumer.
    Consumer(DocumentEvent<Consumer, ConsumerId>),
    /// A target has reported.
    TargetReported(DocumentEvent<TargetStatus, TargetId>),
    /// A consumer has reported.
    ConsumerReported(DocumentEvent<ConsumerStatus, ConsumerId>),
    /// The store told whom to tell.
    Settings(DocumentEvent<AlertingSettings, OnlyOne>),
    /// What was known before was read.
    Loaded(Result<Box<Kept>, DocumentsError>),
    /// It is time to look.
    Look,
    /// What had changed is saved.
    Saved(Result<(), DocumentsError>),
    /// A delivery was tried.
    Tried(NoticeId, Destination, Result<(), DeliveryError>),
    /// A delivery was not tried: it is not for this node to do so.
    NotTried(Destination),
    /// Finish what is being delivered, and end.
    Drain,
    /// That has had its time.
    DrainDeadline,
}

pub(crate) struct AlertingArguments {
    pub(crate) context: Arc<Context>,
    /// Whether no other node alerts.
    pub(crate) is_ours: IsOurs,
}

pub(crate) struct AlertingState {
    myself: ActorRef<AlertingMessage>,
    arguments: AlertingArguments,
    world: World,
    /// Whether that could be read.
    knows_whom_to_tell: bool,
    /// Whom to tell; at most one.
    settings: HashMap<OnlyOne, AlertingSettings>,
    /// The kinds of documents that have been told of completely.
    told: HashSet<&'static str>,
    /// `None` until it is loaded.
    known: Option<Known>,
    is_saving: bool,
    /// What was tried, and is not saved.
    tried: HashMap<Destination, NoticeId>,
    /// Those of which what was tried is being saved.
    settled: Vec<Destination>,
    /// Those to which something is under way, or whose last delivery is not saved.
    busy: HashSet<Destination>,
    /// What is being saved.
    unsaved: HashSet<NoticeId>,
    is_draining: bool,
    /// Watches, and reads.
    watching: JoinSet<()>,
    saving: JoinSet<()>,
    delivering: JoinSet<()>,
}

/// What was decided so far.
struct Known {
    ledger: Arc<Mutex<Ledger>>,
    incidents: Incidents,
    notices: Notices,
}

/// How many kinds of documents are watched.
const WATCHED: usize = 5;

pub(crate) struct AlertingActor;

impl Actor for AlertingActor {
    type Msg = AlertingMessage;
    type State = AlertingState;
    type Arguments = AlertingArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<AlertingMessage>,
        arguments: AlertingArguments,
    ) -> Result<AlertingState, ActorProcessingErr> {
        let mut state = AlertingState {
            myself,
            arguments,
            world: World::new(Utc::now()),
            knows_whom_to_tell: true,
            settings: HashMap::new(),
            told: HashSet::new(),
            known: None,
            is_saving: false,
            tried: HashMap::new(),
            settled: Vec::new(),
            busy: HashSet::new(),
            unsaved: HashSet::new(),
            is_draining: false,
            watching: JoinSet::new(),
            saving: JoinSet::new(),
            delivering: JoinSet::new(),
        };
        state.begin();
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<AlertingMessage>,
        message: AlertingMessage,
        state: &mut AlertingState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AlertingMessage::Target(event) => {
                state.is_readable(&event, About::Target);
                hear(&mut state.world.targets, &mut state.told, event);
            }
            AlertingMessage::Consumer(event) => {
                state.is_readable(&event, About::Consumer);
                hear(&mut state.world.consumers, &mut state.told, event);
            }
            AlertingMessage::TargetReported(event) => hear(&mut state.world.target_statuses, &mut state.told, event),
            AlertingMessage::ConsumerReported(event) => {
                hear(&mut state.world.consumer_statuses, &mut state.told, event);
            }
            AlertingMessage::Settings(event) => {
                state.knows_whom_to_tell = !matches!(event, DocumentEvent::Unreadable(..));
                hear(&mut state.settings, &mut state.told, event);
            }
            AlertingMessage::Loaded(loaded) => state.loaded(*loaded?),
            AlertingMessage::Look => state.tick(),
            AlertingMessage::Saved(saved) => state.saved(saved)?,
            AlertingMessage::Tried(notice, to, outcome) => state.tried(notice, to, outcome),
            AlertingMessage::NotTried(to) => state.not_tried(&to),
            AlertingMessage::Drain => state.drain(),
            AlertingMessage::DrainDeadline => state.myself.stop(None),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<AlertingMessage>,
        _: SupervisionEvent,
        _: &mut AlertingState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl AlertingState {
    fn pace(&self) -> Pace {
        let settle = self.arguments.context.settings.alert_after;
        Pace { settle: TimeDelta::from_std(settle).unwrap_or(TimeDelta::MAX) }
    }

    fn is_readable<T, Id: Copy>(&mut self, event: &DocumentEvent<T, Id>, about: impl Fn(Id) -> About) {
        match event {
            DocumentEvent::Unreadable(id, _) => drop(self.world.unreadable.insert(about(*id))),
            DocumentEvent::Put(id, _) | DocumentEvent::Deleted(id) => drop(self.world.unreadable.remove(&about(*id))),
            DocumentEvent::Current => {}
        }
    }

    fn settings(&self) -> AlertingSettings {
        self.settings.get(&OnlyOne).cloned().unwrap_or_default()
    }

    fn begin(&mut self) {
        macro_rules! watch_all {
            ($($message:ident),*) => {$(
                let myself = self.myself.clone();
                let tell = move |event| drop(myself.cast(AlertingMessage::$message(event)));
                self.watching.spawn(watch(Arc::clone(&self.arguments.context), tell));
            )*};
        }
        watch_all!(Target, Consumer, TargetReported, ConsumerReported, Settings);
        let (documents, myself) = (self.arguments.context.documents.clone(), self.myself.clone());
        self.watching.spawn(async move {
            let _ = myself.cast(AlertingMessage::Loaded(Ledger::load(documents).await.map(Box::new)));
        });
        let _ = self.myself.cast(AlertingMessage::Look);
    }

    fn loaded(&mut self, Kept { ledger, incidents, notices }: Kept) {
        let pace = self.pace();
        let (incidents, notices) = (Incidents::resume(incidents, pace), Notices::resume(notices, pace));
        self.known = Some(Known { ledger: Arc::new(Mutex::new(ledger)), incidents, notices });
        self.look();
    }

    fn tick(&mut self) {
        let every = (self.arguments.context.settings.alert_after / 6).clamp(Duration::from_millis(100), LOOK_EVERY);
        self.myself.send_after(every, || AlertingMessage::Look);
        self.look();
    }

    /// Looks at what is wrong, and saves what comes of it.
    fn look(&mut self) {
        while self.saving.try_join_next().is_some() {}
        // Before, what is missing can't be told from what is to come.
        let knows_all = self.told.len() == WATCHED;
        let tells = knows_all && self.knows_whom_to_tell;
        if tells {
            self.deliver();
        }
        let (now, settings) = (Utc::now(), self.settings());
        let Some(known) = self.known.as_mut().filter(|_| !self.is_saving) else { return };
        let mut entries = Entries::default();
        if knows_all && !self.is_draining {
            entries.incidents = known.incidents.look(&mut self.world, now);
            if tells {
                entries.notices = known.notices.look(known.incidents.all(), &settings, now);
            }
            entries.forgotten_incidents = known.incidents.forget(now - RETENTION);
            entries.forgotten_notices = known.notices.forget(now - RETENTION, &entries.forgotten_incidents);
        }
        let tried: HashSet<_> = self.tried.values().copied().collect();
        entries.notices.extend(tried.into_iter().filter_map(|id| known.notices.get(id).cloned()));
        self.count();
        if entries.is_empty() {
            return;
        }
        self.is_saving = true;
        self.unsaved = entries.notices.iter().map(|notice| notice.id).collect();
        // Those that are tried from now on are saved the next time.
        self.settled = self.tried.drain().map(|(destination, _)| destination).collect();
        let Some(known) = &self.known else { return };
        let (ledger, myself) = (Arc::clone(&known.ledger), self.myself.clone());
        // What happens while it lets go is for the next one to know.
        let is_ours = (!self.is_draining).then(|| Arc::clone(&self.arguments.is_ours));
        self.saving.spawn(async move {
            // A node that has slept through its end decided from what it knew before. It is told so any moment, which ends this.
            if let Some(is_ours) = is_ours
                && !is_ours().await
            {
                sleep(BEFORE_ITS_END).await;
            }
            let saved = ledger.lock().await.save(entries).await;
            let _ = myself.cast(AlertingMessage::Saved(saved));
        });
    }

    fn count(&self) {
        let Some(known) = &self.known else { return };
        let alerts = self.arguments.context.telemetry.alerts();
        for kind in IncidentKind::ALL {
            let open = known.incidents.all_open().filter(|incident| incident.kind == kind).count();
            alerts.open(kind, open as u64);
        }
        alerts.pending(known.notices.pending() as u64);
    }

    /// What somebody else has written makes everything doubtful that was decided here: it is begun anew.
    fn saved(&mut self, saved: Result<(), DocumentsError>) -> Result<(), DocumentsError> {
        saved?;
        self.is_saving = false;
        self.unsaved.clear();
        for destination in self.settled.drain(..) {
            self.busy.remove(&destination);
        }
        self.look();
        self.stop_if_drained();
        Ok(())
    }

    fn drain(&mut self) {
        self.is_draining = true;
        self.myself.send_after(LAST_DELIVERIES, || AlertingMessage::DrainDeadline);
        self.stop_if_drained();
    }

    fn stop_if_drained(&mut self) {
        while self.delivering.try_join_next().is_some() {}
        if self.is_draining && self.delivering.is_empty() && self.tried.is_empty() && !self.is_saving {
            self.myself.stop(None);
        }
    }
}

/// Takes over what the store has told.
fn hear<T: Document>(all: &mut HashMap<T::Id, T>, told: &mut HashSet<&'static str>, event: DocumentEvent<T, T::Id>)
where
    T::Id: Eq + Hash,
{
    match event {
        DocumentEvent::Put(id, document) => drop(all.insert(id, document.value)),
        DocumentEvent::Deleted(id) => drop(all.remove(&id)),
        // What was known of it holds until it can be read again.
        DocumentEvent::Unreadable(..) => {}
        DocumentEvent::Current => drop(told.insert(T::KIND)),
    }
}
