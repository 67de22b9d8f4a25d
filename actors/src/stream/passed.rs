//! How far consumers are: what tells which tombstones nobody needs any more.

use std::collections::HashMap;

use crate::model::{Filter, Idx, Provider, SyncId};

/// How far the slowest consumer of each filter is.
pub(super) struct Passed(HashMap<Filter, Idx>);

impl Passed {
    pub(super) fn by(consumers: &[(Filter, Idx)]) -> Self {
        let mut slowest: HashMap<Filter, Idx> = HashMap::new();
        for (filter, reached) in consumers {
            slowest.entry(filter.clone()).and_modify(|idx| *idx = (*reached).min(*idx)).or_insert(*reached);
        }
        Self(slowest)
    }

    /// Whether every consumer that matches has passed this position of the provider's stream, in which the sync has a
    /// version.
    pub(super) fn is_beyond(&self, provider: &Provider, sync: SyncId, idx: Idx) -> bool {
        let filters = [Filter::Provider(provider.clone()), Filter::Sync(sync)];
        filters.iter().all(|filter| self.0.get(filter).is_none_or(|&reached| reached >= idx))
    }
}
