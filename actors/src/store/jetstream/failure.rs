//! What can go wrong with a request to the server, and for how long one is tried again.

use std::time::Duration;

use tokio::time::Instant;

use super::super::{Cause, StoreError};
use crate::jetstream::JetStreamError;

/// How long a request is tried again: after the loss of a leader there is a new one within 5 to 8 s.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long is waited before it is at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Why a request did not do what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The same again may succeed: nobody leads, or answers, or something is wrong that is not known here.
    Passing(Cause),
    /// The last write of the subject is another one than was expected.
    Outrun(By),
    /// There is no room for more.
    Full(Cause),
    /// The server says that there is no such stream.
    NoStream(Cause),
    /// The server has said no, and will again.
    Refused(Cause),
    /// The bucket is gone for good.
    Lost(Cause),
}

/// What a write was outrun by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// One that is there.
    Another,
    /// One that is not decided yet, and may come to nothing.
    OneUnderWay,
}

impl From<JetStreamError> for Failure {
    fn from(error: JetStreamError) -> Self {
        if error.is_conflict() {
            Self::Outrun(By::Another)
        } else if error.is_undecided() {
            Self::Outrun(By::OneUnderWay)
        } else if error.is_full() {
            Self::Full(error.into())
        } else if error.is_no_stream() {
            Self::NoStream(error.into())
        } else {
            Self::Passing(error.into())
        }
    }
}

/// The tries of one operation.
pub(super) struct Patience {
    until: Instant,
    wait: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { until: Instant::now() + PATIENCE, wait: FIRST_WAIT }
    }

    /// Waits before the next try, if this failure is to have one.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), StoreError> {
        let cause = match failure {
            Failure::Passing(cause) | Failure::NoStream(cause) => cause,
            Failure::Outrun(_) => "other writes of the key were in the way, one after the other".into(),
            Failure::Refused(cause) => return Err(StoreError::Unavailable(cause)),
            Failure::Full(cause) => return Err(StoreError::Full(cause)),
            Failure::Lost(cause) => return Err(StoreError::Lost(cause)),
        };
        if self.is_left().await { Ok(()) } else { Err(StoreError::Unavailable(cause)) }
    }

    /// Waits before the next try, if there is time for one.
    pub(super) async fn is_left(&mut self) -> bool {
        if Instant::now() + self.wait >= self.until {
            return false;
        }
        // Those who were refused together do not come back together.
        tokio::time::sleep(self.wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        true
    }
}
