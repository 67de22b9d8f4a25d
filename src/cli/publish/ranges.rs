//! Which lines of an input are published.

use std::fmt;

/// Ranges of lines, which are added in any order.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// The first and the last line of each, in order, none of them touching another.
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    pub(super) fn add(&mut self, (first, last): (u64, u64)) {
        let at = self.ranges.partition_point(|range| range.0 < first);
        self.ranges.insert(at, (first, last));
        self.ranges.dedup_by(|next, before| {
            let touches = next.0 <= before.1 + 1;
            if touches {
                before.1 = before.1.max(next.1);
            }
            touches
        });
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ranges.as_slice() {
            [] => f.write_str("nothing is published"),
            [(1, last)] => write!(f, "lines 1 to {last} are published, nothing of what follows"),
            ranges => {
                let ranges: Vec<_> = ranges.iter().map(|(first, last)| format!("{first} to {last}")).collect();
                write!(f, "lines {} are published, nothing else", ranges.join(" and "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together_in_whatever_order_they_come() {
        let text = |added: &[(u64, u64)]| {
            let mut ranges = Ranges::default();
            for range in added {
                ranges.add(*range);
            }
            ranges.to_string()
        };
        assert_eq!(text(&[]), "nothing is published");
        let whole = "lines 1 to 30 are published, nothing of what follows";
        assert_eq!(text(&[(11, 20), (21, 30), (1, 10)]), whole);
        assert_eq!(text(&[(1, 10), (21, 30)]), "lines 1 to 10 and 21 to 30 are published, nothing else");
    }
}
