//! The byte budget: what bounds memory, since an actor's mailbox is unbounded by design.
//!
//! A reader takes bytes before it reads; the permit travels inside the batch, and dropping the batch, for whatever
//! reason, gives them back.
//!
//! Whoever is slow, or stuck, must not take everything from the others. So nobody may take more than is still free
//! beyond what he and his target hold: one that fills up leaves two thirds, a target with many that fill up leaves
//! half, two such targets a third, and there is always something left for those that move (dynamic thresholds:
//! Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM Transactions on
//! Networking 6(2), 1998).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::blocked::Blocked;
use crate::model::{ConsumerId, TargetId};

/// A target that holds nothing may take this much, in bytes, whatever the others hold: so everybody gets on.
const FLOOR: usize = 128 * 1024;

/// The bytes that all consumers of a node together may have in flight.
#[derive(Clone, Debug)]
pub struct NodeBudget(Arc<Mutex<Shared>>);

/// The bytes that one consumer may have in flight, within those of its target and its node.
#[derive(Clone, Debug)]
pub struct Budget {
    node: NodeBudget,
    account: Account,
    blocked: Arc<Blocked>,
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: usize,
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug)]
struct Account {
    target: Uuid,
    consumer: Uuid,
    limit: usize,
}

#[derive(Debug)]
struct Shared {
    bytes: usize,
    used: usize,
    /// What targets and consumers hold; one that holds nothing is not there.
    held: HashMap<Uuid, usize>,
    /// Those who wait, oldest first.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    budget: Budget,
    bytes: usize,
    granted: oneshot::Sender<Permit>,
}

impl NodeBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Shared { bytes, used: 0, held: HashMap::new(), waiting: VecDeque::new() })))
    }

    /// How many bytes are in flight.
    pub fn used(&self) -> usize {
        self.lock().used
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// At most `limit` bytes, within the node's.
    pub fn new(node: NodeBudget, target: TargetId, consumer: ConsumerId, limit: usize) -> Self {
        Self { node, account: Account { target: target.0, consumer: consumer.0, limit }, blocked: Arc::default() }
    }

    /// Tells `blocked` for how long somebody has to wait.
    #[must_use]
    pub fn telling(self, blocked: Arc<Blocked>) -> Self {
        Self { blocked, ..self }
    }

    /// Waits until there is room, and takes `bytes`, or less if all that there can be is less.
    pub async fn take(&self, bytes: usize) -> Permit {
        let granted = {
            let mut shared = self.node.lock();
            if let Some(bytes) = shared.grant(self.account, bytes) {
                return Permit { budget: self.clone(), bytes };
            }
            let (granted, answer) = oneshot::channel();
            shared.waiting.push_back(Waiting { budget: self.clone(), bytes, granted });
            answer
        };
        let _blocked = self.blocked.begin();
        granted.await.expect("who waits is granted, sooner or later")
    }
}

impl Shared {
    /// Takes what this account may have of `bytes` now, if that is worth having.
    fn grant(&mut self, account: Account, bytes: usize) -> Option<usize> {
        let held = |whose| self.held.get(&whose).copied().unwrap_or_default();
        let (of_target, of_consumer) = (held(account.target), held(account.consumer));
        let wanted = bytes.min(account.limit);
        let fair = self.bytes.saturating_sub(self.used + of_target + of_consumer);
        let granted = if of_consumer + wanted > account.limit {
            None
        } else if wanted <= fair {
            Some(wanted)
        } else if of_consumer == 0 && fair >= FLOOR {
            Some(fair)
        } else {
            (of_target == 0).then_some(wanted.min(FLOOR))
        }?;
        self.used += granted;
        for whose in [account.target, account.consumer] {
            *self.held.entry(whose).or_default() += granted;
        }
        Some(granted)
    }

    fn give_back(&mut self, account: Account, bytes: usize) {
        self.used -= bytes;
        for whose in [account.target, account.consumer] {
            if let Some(held) = self.held.get_mut(&whose) {
                *held -= bytes;
                if *held == 0 {
                    self.held.remove(&whose);
                }
            }
        }
    }

    /// Grants what there is room for now. Returns what was granted to those who no longer wait.
    fn grant_waiting(&mut self) -> Vec<Permit> {
        let mut unwanted = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.granted.is_closed() {
                continue;
            }
            match self.grant(waiting.budget.account, waiting.bytes) {
                Some(bytes) => unwanted.extend(waiting.granted.send(Permit { budget: waiting.budget, bytes }).err()),
                None => self.waiting.push_back(waiting),
            }
        }
        unwanted
    }
}

impl Permit {
    /// How many bytes it is for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        drop(Self { budget: self.budget.clone(), bytes: surplus });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shared = self.budget.node.lock();
        shared.give_back(self.budget.account, self.bytes);
        let unwanted = shared.grant_waiting();
        drop(shared);
        // Outside of the lock, which each of them takes.
        drop(unwanted);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn node() -> NodeBudget {
        NodeBudget::new(64 * MIB)
    }

    fn budget(node: &NodeBudget, target: u128, consumer: u128, limit: usize) -> Budget {
        let id = Uuid::from_u128;
        Budget::new(node.clone(), TargetId(id(1000 + target)), ConsumerId(id(consumer)), limit)
    }

    /// Takes until there is nothing more to be had.
    fn fill(budget: &Budget) -> Vec<Permit> {
        std::iter::from_fn(|| budget.take(MIB).now_or_never()).collect()
    }

    #[tokio::test]
    async fn a_dropped_permit_gives_back_what_it_held() {
        let node = node();
        let mut permit = budget(&node, 1, 1, 8 * MIB).take(4 * MIB).await;
        assert_eq!(node.used(), 4 * MIB);
        permit.shrink_to(MIB);
        assert_eq!((permit.bytes(), node.used()), (MIB, MIB));
        drop(permit);
        assert_eq!(node.used(), 0);
        assert!(node.lock().held.is_empty());
    }

    #[tokio::test]
    async fn a_consumer_holds_no_more_than_its_limit_and_takes_all_of_it_when_it_asks_for_more() {
        let node = node();
        let budget = budget(&node, 1, 1, 2 * MIB);
        let held = budget.take(16 * MIB).await;
        assert_eq!(held.bytes(), 2 * MIB);
        let mut waiting = Box::pin(budget.take(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        assert_eq!(waiting.await.bytes(), 1);
    }

    #[tokio::test]
    async fn who_has_to_wait_counts_for_how_long_and_who_has_not_counts_nothing() {
        let (node, blocked) = (node(), Arc::<Blocked>::default());
        let budget = budget(&node, 1, 1, MIB).telling(Arc::clone(&blocked));
        let held = budget.take(MIB).await;
        assert!(blocked.total().is_zero());
        let mut waits = Box::pin(budget.take(MIB));
        assert!(waits.as_mut().now_or_never().is_none());
        let so_far = blocked.total();
        assert!(blocked.total() > so_far, "it goes on");
        drop(held);
        drop(waits.await);
        let all = blocked.total();
        assert_eq!(blocked.total(), all, "it is over");
        assert!(all > so_far);
    }

    #[tokio::test]
    async fn a_target_with_many_that_are_stuck_leaves_half_to_the_others() {
        let node = node();
        let stuck: Vec<_> = (0..100).flat_map(|consumer| fill(&budget(&node, 1, consumer, 16 * MIB))).collect();
        assert!(node.used() <= 33 * MIB, "{}", node.used());
        let moving = fill(&budget(&node, 2, 200, 16 * MIB));
        assert!(moving.len() >= 9, "{}", moving.len());
        drop(stuck);
    }

    #[tokio::test]
    async fn everybody_gets_on_however_many_are_stuck() {
        let node = node();
        let stuck: Vec<_> = (0..1000).flat_map(|target| fill(&budget(&node, target, target, 16 * MIB))).collect();
        assert!(budget(&node, 5000, 5000, 16 * MIB).take(MIB).now_or_never().is_some());
        assert!(node.used() <= 64 * MIB + 1001 * FLOOR);
        drop(stuck);
        assert_eq!(node.used(), 0);
    }

    #[tokio::test]
    async fn who_gave_up_waiting_leaves_nothing_behind() {
        let node = node();
        let budget = budget(&node, 1, 1, MIB);
        let held = budget.take(MIB).await;
        let mut gave_up = Box::pin(budget.take(MIB));
        let mut waits = Box::pin(budget.take(MIB));
        assert!(gave_up.as_mut().now_or_never().is_none() && waits.as_mut().now_or_never().is_none());
        drop(gave_up);
        drop(held);
        drop(waits.now_or_never().expect("granted"));
        assert_eq!(node.used(), 0);
    }
}
