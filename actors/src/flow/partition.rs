//! Which writer a record goes to.

use crate::model::SequinId;

/// The partition, of `partitions`, that all versions of this record go to: what keeps them in order.
///
/// A `sequin_id` is a hash of `upstream_id` within its sync and collection, so this is partitioning by `upstream_id`,
/// spread evenly even where thousands of syncs all number their records from 1. It also keeps in order the records
/// whose publisher brings the id and lets `upstream_id` change under it. Brought ids may share any of their bits
/// (a uuid v7 begins with the time), so the whole id is mixed.
pub fn partition(record: SequinId, partitions: usize) -> usize {
    let (high, low) = record.0.as_u64_pair();
    let mixed = mix(high ^ mix(low));
    usize::try_from(mixed % partitions as u64).expect("less than a usize")
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, 2014): each bit of the input moves half of the output's.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use uuid::Uuid;

    use super::*;
    use crate::model::SyncId;

    fn spread(ids: impl Iterator<Item = SequinId>) -> (u32, u32) {
        let mut counts: HashMap<usize, u32> = HashMap::new();
        for id in ids {
            *counts.entry(partition(id, 4)).or_default() += 1;
        }
        let least = counts.values().min().copied().unwrap_or_default();
        (least, counts.values().max().copied().unwrap_or_default())
    }

    #[test]
    fn derived_ids_spread_evenly_even_where_every_sync_numbers_from_one() {
        let ids = (0..4000).map(|sync| SequinId::derive(SyncId(Uuid::from_u128(sync)), "account", "1"));
        let (least, most) = spread(ids);
        assert!(least > 900 && most < 1100, "{least} {most}");
    }

    #[test]
    fn brought_ids_spread_evenly_even_where_they_count_up() {
        let (least, most) = spread((0..4000).map(|n| SequinId(Uuid::from_u128(n << 64))));
        assert!(least > 900 && most < 1100, "{least} {most}");
    }
}
