//! The watermark: turns pages that complete out of order into "everything up to here is in the table".

use std::collections::VecDeque;

use crate::model::Idx;

/// Follows the pages of one pipeline from the read to the commit.
#[derive(Debug)]
pub struct Watermark {
    /// The number of the oldest page in `open`.
    first: u64,
    open: VecDeque<OpenPage>,
    reached: Idx,
}

#[derive(Debug)]
struct OpenPage {
    read_to: Idx,
    parts: usize,
}

impl Watermark {
    /// Everything up to `reached` is in the table already.
    pub fn starting_at(reached: Idx) -> Self {
        Self { first: 0, open: VecDeque::new(), reached }
    }

    /// The next page was read: `parts` of it are on their way to writers. Pages are numbered from 0.
    pub fn opened(&mut self, read_to: Idx, parts: usize) {
        self.open.push_back(OpenPage { read_to, parts });
        self.advance();
    }

    /// One part of page `number` was committed. Returns whether that was the last one of it.
    pub fn completed(&mut self, number: u64) -> bool {
        let place = usize::try_from(number - self.first).expect("fewer open pages than fit in memory");
        self.open[place].parts -= 1;
        let is_last = self.open[place].parts == 0;
        self.advance();
        is_last
    }

    fn advance(&mut self) {
        while let Some(page) = self.open.front()
            && page.parts == 0
        {
            self.reached = page.read_to;
            self.first += 1;
            self.open.pop_front();
        }
    }

    /// Everything up to here is in the table.
    pub fn reached(&self) -> Idx {
        self.reached
    }

    /// Whether every page that was read is in the table.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_waits_for_the_oldest_page() {
        let mut watermark = Watermark::starting_at(Idx(5));
        watermark.opened(Idx(10), 2);
        watermark.opened(Idx(20), 1);
        assert!(watermark.completed(1));
        assert!(!watermark.completed(0));
        assert_eq!(watermark.reached(), Idx(5));
        assert!(watermark.completed(0));
        assert_eq!(watermark.reached(), Idx(20));
        assert!(watermark.is_settled());
    }

    #[test]
    fn a_page_without_parts_completes_as_it_is_read() {
        let mut watermark = Watermark::starting_at(Idx::START);
        watermark.opened(Idx(7), 0);
        assert_eq!(watermark.reached(), Idx(7));
    }

    proptest! {
        #[test]
        fn it_is_the_end_of_the_longest_run_of_complete_pages(
            parts in prop::collection::vec(0usize..4, 1..20),
            seed in any::<u64>(),
        ) {
            let mut watermark = Watermark::starting_at(Idx::START);
            let mut left = parts.clone();
            let mut waiting: Vec<usize> = Vec::new();
            for (number, &count) in parts.iter().enumerate() {
                watermark.opened(Idx(number as u64 + 1), count);
                waiting.extend(std::iter::repeat_n(number, count));
            }
            let mut draw = seed;
            while !waiting.is_empty() {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let place = usize::try_from(draw >> 33).expect("31 bits") % waiting.len();
                let number = waiting.swap_remove(place);
                watermark.completed(number as u64);
                left[number] -= 1;
                let complete = left.iter().take_while(|&&count| count == 0).count();
                prop_assert_eq!(watermark.reached(), Idx(complete as u64));
            }
            prop_assert!(watermark.is_settled());
        }
    }
}
