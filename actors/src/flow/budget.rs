//! The byte budget: what bounds memory, since an actor's mailbox is unbounded by design.
//!
//! A reader takes bytes before it reads; the permit travels inside the batch, and dropping the batch, for whatever
//! reason, gives them back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in kibibytes, so that large budgets fit a semaphore.
const UNIT: usize = 1024;

/// The bytes that one consumer may have in flight, within those of its whole node.
#[derive(Clone, Debug)]
pub struct Budget {
    node: Arc<Semaphore>,
    own: Arc<Semaphore>,
    units: usize,
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    node: OwnedSemaphorePermit,
    own: OwnedSemaphorePermit,
}

/// The bytes that all consumers of a node together may have in flight.
pub fn node_budget(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(units(bytes)))
}

impl Budget {
    /// A budget of `bytes`, within the node's.
    pub fn new(bytes: usize, node: Arc<Semaphore>) -> Self {
        Self { node, own: Arc::new(Semaphore::new(units(bytes))), units: units(bytes) }
    }

    /// Waits until `bytes`, or all of it if it is smaller, are free in this budget, then in the node's, and takes them.
    pub async fn take(&self, bytes: usize) -> Permit {
        let units = u32::try_from(units(bytes).min(self.units)).expect("a page is far below 4 TiB");
        let own = Arc::clone(&self.own).acquire_many_owned(units).await.expect("a budget is never closed");
        let node = Arc::clone(&self.node).acquire_many_owned(units).await.expect("a budget is never closed");
        Permit { node, own }
    }
}

impl Permit {
    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let keep = units(bytes);
        for permit in [&mut self.node, &mut self.own] {
            let surplus = permit.num_permits().saturating_sub(keep);
            drop(permit.split(surplus));
        }
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(budget: &Budget) -> (usize, usize) {
        (budget.own.available_permits(), budget.node.available_permits())
    }

    #[tokio::test]
    async fn a_dropped_permit_gives_back_what_it_held() {
        let budget = Budget::new(8 * UNIT, node_budget(16 * UNIT));
        let mut permit = budget.take(4 * UNIT).await;
        assert_eq!(free(&budget), (4, 12));
        permit.shrink_to(UNIT + 1);
        assert_eq!(free(&budget), (6, 14));
        drop(permit);
        assert_eq!(free(&budget), (8, 16));
    }

    #[tokio::test]
    async fn a_consumer_at_its_own_limit_holds_nothing_of_its_node_while_it_waits() {
        let node = node_budget(16 * UNIT);
        let budget = Budget::new(4 * UNIT, Arc::clone(&node));
        let held = budget.take(4 * UNIT).await;
        let mut waiting = Box::pin(budget.take(UNIT));
        assert!(futures_util::FutureExt::now_or_never(waiting.as_mut()).is_none());
        assert_eq!(node.available_permits(), 12);
        drop(held);
        waiting.await;
    }
}
