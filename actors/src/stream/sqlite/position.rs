//! A position: a provider's number and an index in its stream, in one SQLite rowid.
//!
//! So each provider's records lie together, in order, in one table.

use std::ops::RangeInclusive;

use crate::model::Idx;

/// How many bits of a position are the index: 17 million million versions a provider, half a million providers.
const IDX_BITS: u32 = 44;

/// How many positions make a block.
pub(super) const BLOCK: i64 = 1 << 12;

/// The position of `idx` in the stream of provider number `provider`.
pub(super) fn position(provider: i64, idx: Idx) -> i64 {
    (provider << IDX_BITS) | idx.as_bigint()
}

/// The index that a position holds.
pub(super) fn idx(position: i64) -> Idx {
    let mask = (1 << IDX_BITS) - 1;
    Idx(u64::try_from(position & mask).expect("masked to 44 bits"))
}

/// The block that a position lies in. No block holds positions of two providers.
pub(super) fn block(position: i64) -> i64 {
    position / BLOCK
}

/// The positions of a block.
pub(super) fn positions(block: i64) -> RangeInclusive<i64> {
    block * BLOCK..=block * BLOCK + BLOCK - 1
}

/// The last position that a provider can have.
pub(super) fn end(provider: i64) -> i64 {
    position(provider, Idx((1 << IDX_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_one_provider_lie_together_and_give_their_index_back() {
        assert!(position(1, Idx(u64::from(u32::MAX))) < position(2, Idx(1)));
        assert_eq!(idx(position(3, Idx(77))), Idx(77));
        assert!(positions(block(position(3, Idx(5000)))).contains(&position(3, Idx(5000))));
        assert_eq!(end(3) + 1, position(4, Idx(0)));
    }
}
