//! Where the positions that documents hold lie after the move.

use std::collections::{BTreeMap, HashMap};

use sequin_actors::model::{Checkpoint, CollectionVersion, Consumer, Idx, Provider, Quarantined};

/// For each position that matters, where the last record at or before it has come to lie.
#[derive(Default)]
pub(super) struct Positions(HashMap<Provider, BTreeMap<Idx, Idx>>);

impl Positions {
    /// A position that matters.
    pub(super) fn note(&mut self, provider: &Provider, position: Idx) {
        self.0.entry(provider.clone()).or_default().insert(position, position);
    }

    /// Those of a provider, in order.
    pub(super) fn of(&self, provider: &Provider) -> Vec<Idx> {
        self.0.get(provider).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// It lies here now.
    pub(super) fn moved(&mut self, provider: &Provider, position: Idx, to: Idx) {
        self.0.entry(provider.clone()).or_default().insert(position, to);
    }

    /// Where it lies now. The start stays the start.
    pub(super) fn now(&self, provider: &Provider, position: Idx) -> Idx {
        self.0.get(provider).and_then(|of| of.get(&position)).copied().unwrap_or(position)
    }
}

/// A document that holds positions in a stream.
pub(super) trait Positioned {
    /// Shows each of them.
    fn each(&mut self, show: &mut dyn FnMut(&mut Idx));
}

impl Positioned for Checkpoint {
    fn each(&mut self, show: &mut dyn FnMut(&mut Idx)) {
        show(&mut self.idx);
        if let Some(backfill) = &mut self.backfill {
            show(&mut backfill.until);
        }
    }
}

impl Positioned for Consumer {
    /// A rewind may not have been obeyed yet.
    fn each(&mut self, show: &mut dyn FnMut(&mut Idx)) {
        show(&mut self.rewind.to);
    }
}

impl Positioned for Quarantined {
    fn each(&mut self, show: &mut dyn FnMut(&mut Idx)) {
        show(&mut self.idx);
    }
}

impl Positioned for CollectionVersion {
    fn each(&mut self, show: &mut dyn FnMut(&mut Idx)) {
        show(&mut self.stale_to);
        show(&mut self.deleted_to);
    }
}
