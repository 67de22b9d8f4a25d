//! The logic of the flow, without I/O: time, randomness and sizes are passed in.

pub mod backoff;
pub mod budget;
pub mod coalesce;
pub mod partition;
pub mod progress;
pub mod rate;
pub mod restarts;
pub mod watermark;
