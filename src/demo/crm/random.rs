//! Random choices that a seed determines.

use chrono::TimeDelta;

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): small, quick, and good
/// enough for data that should look natural.
pub(super) struct Random(u64);

impl Random {
    /// A stream of choices about one thing: the same for the same seed and number, unlike that of any other.
    pub(super) fn about(seed: u64, thing: Thing, number: u64) -> Self {
        let mut mixed = Self(seed);
        mixed.0 = mixed.draw() ^ thing as u64;
        mixed.0 = mixed.draw() ^ number;
        Self(mixed.draw())
    }

    /// Any number.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0. (That low ones come up more often, by `bound` in 2^64, doesn't matter.)
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// Whether something that happens `percent` times in a hundred does.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// The index of one of `count` things, which are at least one.
    pub(super) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("an index is less than a usize")
    }

    /// One of several.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A time span of whole milliseconds, shorter than `longest`.
    pub(super) fn span(&mut self, longest: TimeDelta) -> TimeDelta {
        let longest = longest.num_milliseconds().max(1).unsigned_abs();
        TimeDelta::milliseconds(self.below(longest).cast_signed())
    }
}

/// What choices are about, so that equal numbers of different things have nothing in common.
#[derive(Clone, Copy)]
pub(super) enum Thing {
    Sync = 1,
    Identity,
    Content,
    Past,
    Traffic,
}
