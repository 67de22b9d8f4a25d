//! How many records a database may refuse before something else must be wrong.

use std::collections::VecDeque;

/// How many refused records a consumer sets aside before it halts instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalLimit {
    /// At most this many in quarantine at a time.
    pub in_quarantine: usize,
    /// At most this many refused among the last `of_last` records.
    pub refused: u64,
    /// How many of the last records are looked at.
    pub of_last: u64,
}

/// There would be too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyRefusals {
    /// In quarantine.
    #[error("{0} records are in quarantine, which is as many as may be")]
    InQuarantine(usize),
    /// Among the last records.
    #[error("more than {refused} of the last {of_last} records were refused")]
    OfLast {
        /// As many as may be.
        refused: u64,
        /// Of so many.
        of_last: u64,
    },
}

/// The refusals among a consumer's last records.
#[derive(Debug)]
pub struct Refusals {
    limit: RefusalLimit,
    /// Batches, oldest first: how many records each had, and how many of them were refused.
    recent: VecDeque<(u64, u64)>,
}

impl Default for RefusalLimit {
    /// 1,000 in quarantine; 5 % of the last 10,000.
    fn default() -> Self {
        Self { in_quarantine: 1000, refused: 500, of_last: 10_000 }
    }
}

impl Refusals {
    /// None so far.
    pub fn new(limit: RefusalLimit) -> Self {
        Self { limit, recent: VecDeque::new() }
    }

    /// A batch of `records` begins.
    pub fn batch(&mut self, records: u64) {
        self.recent.push_back((records, 0));
        let mut beyond = self.recent.iter().map(|(records, _)| records).sum::<u64>();
        while let Some((oldest, _)) = self.recent.front()
            && beyond - oldest >= self.limit.of_last
        {
            beyond -= oldest;
            self.recent.pop_front();
        }
    }

    /// One more record was refused, while so many are in quarantine already; or that is one too many.
    pub fn refused(&mut self, in_quarantine: usize) -> Result<(), TooManyRefusals> {
        let RefusalLimit { in_quarantine: most, refused, of_last } = self.limit;
        if in_quarantine >= most {
            return Err(TooManyRefusals::InQuarantine(in_quarantine));
        }
        if self.recent.iter().map(|(_, refused)| refused).sum::<u64>() >= refused {
            return Err(TooManyRefusals::OfLast { refused, of_last });
        }
        if let Some((_, refused)) = self.recent.back_mut() {
            *refused += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RefusalLimit = RefusalLimit { in_quarantine: 100, refused: 3, of_last: 50 };

    #[test]
    fn a_full_quarantine_takes_no_more() {
        let mut refusals = Refusals::new(LIMIT);
        refusals.batch(1);
        assert_eq!(refusals.refused(99), Ok(()));
        assert_eq!(refusals.refused(100), Err(TooManyRefusals::InQuarantine(100)));
    }

    #[test]
    fn too_many_of_the_last_records_are_too_many_until_others_have_come() {
        let mut refusals = Refusals::new(LIMIT);
        refusals.batch(10);
        for _ in 0..3 {
            assert_eq!(refusals.refused(0), Ok(()));
        }
        let too_many = Err(TooManyRefusals::OfLast { refused: 3, of_last: 50 });
        refusals.batch(49);
        assert_eq!(refusals.refused(0), too_many);
        refusals.batch(1);
        assert_eq!(refusals.refused(0), Ok(()));
    }
}
