//! The logic of the flow, without I/O: time, randomness and sizes are passed in.

pub mod alerts;
pub mod backoff;
pub mod blocked;
pub mod breaker;
pub mod budget;
pub mod coalesce;
pub mod ownership;
pub mod pace;
pub mod partition;
pub mod placement;
pub mod progress;
pub mod rate;
pub mod refusals;
pub mod restarts;
pub mod turns;
pub mod unsupported_text;
pub mod watermark;
