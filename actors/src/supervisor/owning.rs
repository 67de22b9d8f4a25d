//! Which targets this node owns: all of them where it is alone, and in a cluster those that its [`ClusterActor`] has won.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{SupervisorMessage, SupervisorState};
use crate::{
    cluster::{ClusterActor, ClusterArguments, ClusterMessage},
    context::Context,
    flow::placement,
    model::{Epoch, TargetId},
    postgres::Lease,
    target::TargetMessage,
};

/// How long a node that has fallen out of the cluster by a fault of its own waits before it takes part again.
const JOIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Finds out, by a write to the store that begins when it is called, that nobody has taken something over until then.
pub(crate) type IsOurs = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// By what a node knows that a target is its own.
pub(super) enum Owning {
    /// There is no other node.
    Alone,
    /// It is one of many.
    Shared(Shared),
}

pub(super) struct Shared {
    cluster: ActorRef<ClusterMessage>,
    epochs: HashMap<TargetId, Epoch>,
    /// Those of which the cluster waits to hear that they have ended.
    letting_go: HashSet<TargetId>,
}

impl Shared {
    /// How many targets, whatever else is owned like one.
    fn owned(&self) -> usize {
        self.epochs.keys().chain(&self.letting_go).filter(|target| **target != TargetId::DUTIES).count()
    }
}

impl Owning {
    pub(super) async fn begin(
        context: &Arc<Context>,
        supervisor: &ActorRef<SupervisorMessage>,
    ) -> Result<Self, ActorProcessingErr> {
        let Some(ttl) = context.settings.session_ttl else { return Ok(Self::Alone) };
        let arguments = ClusterArguments { context: Arc::clone(context), ttl, supervisor: supervisor.clone() };
        let (cluster, _) = ClusterActor::spawn_linked(None, ClusterActor, arguments, supervisor.get_cell()).await?;
        Ok(Self::Shared(Shared { cluster, epochs: HashMap::new(), letting_go: HashSet::new() }))
    }

    pub(super) fn is_alone(&self) -> bool {
        matches!(self, Self::Alone)
    }

    /// The epoch in which the node owns a target; `None` if it does not.
    pub(super) fn epoch(&self, target: TargetId) -> Option<Epoch> {
        match self {
            Self::Alone => Some(Epoch::FIRST),
            Self::Shared(shared) => shared.epochs.get(&target).copied(),
        }
    }

    /// That by which it does, for the database to see.
    pub(super) fn lease(&self, context: &Context, target: TargetId) -> Option<(Epoch, Lease)> {
        let (epoch, is_ours) = self.claim(target)?;
        Some((epoch, Lease::new(&context.settings.cluster, target, epoch, is_ours)))
    }

    /// The epoch in which it does, and the question whether it still does.
    pub(super) fn claim(&self, target: TargetId) -> Option<(Epoch, IsOurs)> {
        let epoch = self.epoch(target)?;
        let is_ours: IsOurs = match self {
            Self::Alone => Arc::new(|| async { true }.boxed()),
            Self::Shared(Shared { cluster, .. }) => {
                let cluster = cluster.clone();
                Arc::new(move || is_ours(cluster.clone(), target, epoch).boxed())
            }
        };
        Some((epoch, is_ours))
    }

    /// Whether this actor is the one by which the node takes part.
    pub(super) fn is_by(&self, actor: &ActorCell) -> bool {
        matches!(self, Self::Shared(Shared { cluster, .. }) if cluster.get_id() == actor.get_id())
    }

    pub(super) fn weighs(&self, target: TargetId, consumers: usize) {
        self.tell(ClusterMessage::Weighs(target, placement::weight(consumers)));
    }

    pub(super) fn gone(&self, target: TargetId) {
        self.tell(ClusterMessage::Gone(target));
    }

    pub(super) fn knows_targets(&self) {
        self.tell(ClusterMessage::TargetsKnown);
    }

    /// A target's actor has ended: if others wait for that, they hear of it. Returns whether they do.
    fn drained(&mut self, target: TargetId) -> bool {
        let Self::Shared(shared) = self else { return false };
        let is_awaited = shared.letting_go.remove(&target);
        if is_awaited {
            let _ = shared.cluster.cast(ClusterMessage::Drained(target));
        }
        is_awaited
    }

    /// Gives everything to others; where there are none, it says so.
    pub(super) fn leave(&self) -> bool {
        self.tell(ClusterMessage::Leave);
        !self.is_alone()
    }

    fn tell(&self, message: ClusterMessage) {
        if let Self::Shared(Shared { cluster, .. }) = self {
            let _ = cluster.cast(message);
        }
    }
}

/// Finds out, by a write to the store, whether a target is still this node's. A node that is cut off waits for the answer as
/// long as it may take it for its own.
async fn is_ours(cluster: ActorRef<ClusterMessage>, target: TargetId, epoch: Epoch) -> bool {
    let (answer, answered) = oneshot::channel();
    let _ = cluster.cast(ClusterMessage::Confirm(target, epoch, answer));
    answered.await.unwrap_or(false)
}

impl SupervisorState {
    pub(super) async fn own(&mut self, target: TargetId, epoch: Epoch) {
        let Owning::Shared(shared) = &mut self.owning else { return };
        if shared.epochs.insert(target, epoch).is_none() && target != TargetId::DUTIES {
            self.context.telemetry.node().claimed();
        }
        shared.letting_go.remove(&target);
        self.count_owned();
        self.reconcile(target).await;
    }

    pub(super) fn let_go(&mut self, target: TargetId) {
        let Owning::Shared(shared) = &mut self.owning else { return };
        shared.epochs.remove(&target);
        shared.letting_go.insert(target);
        match self.targets.get(&target).and_then(|child| child.actor.as_ref()) {
            _ if target == TargetId::DUTIES => self.let_duties_go(),
            Some(actor) => drop(actor.cast(TargetMessage::Drain)),
            None => self.drained(target),
        }
    }

    /// A target's actor has ended, or there was none.
    pub(super) fn drained(&mut self, target: TargetId) {
        if self.owning.drained(target) && target != TargetId::DUTIES {
            self.context.telemetry.node().released();
        }
        self.count_owned();
    }

    /// There is no time for last words: what they would say may be wrong by now.
    pub(super) fn let_all_go(&mut self) {
        let Owning::Shared(shared) = &mut self.owning else { return };
        self.context.telemetry.node().lost(shared.owned());
        shared.epochs.clear();
        shared.letting_go.clear();
        for actor in self.targets.values().filter_map(|child| child.actor.as_ref()) {
            actor.kill();
        }
        self.duties.kill();
        self.count_owned();
    }

    /// What is to be let go of is its own until that has ended.
    pub(super) fn count_owned(&self) {
        let owned = match &self.owning {
            Owning::Alone => self.targets.values().filter(|child| child.target.is_some()).count(),
            Owning::Shared(shared) => shared.owned(),
        };
        self.context.telemetry.node().owns(owned);
    }

    /// The node's part in the cluster has ended by a fault.
    pub(super) fn left_out(&mut self, why: &str) {
        self.let_all_go();
        if self.is_draining {
            return self.myself.stop(None);
        }
        tracing::error!(why, "the node's part in the cluster ended, and begins anew");
        self.myself.send_after(JOIN_AGAIN_AFTER, || SupervisorMessage::JoinDue);
    }

    pub(super) async fn join(&mut self) -> Result<(), ActorProcessingErr> {
        if self.is_draining {
            self.myself.stop(None);
            return Ok(());
        }
        self.owning = Owning::begin(&self.context, &self.myself).await?;
        self.reconcile_all().await;
        Ok(())
    }
}
