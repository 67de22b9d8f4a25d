#![doc = include_str!("../README.md")]

mod alerting;
mod cluster;
mod consumer;
mod context;
pub mod embedded;
mod engine;
pub mod flow;
pub mod jetstream;
pub mod model;
pub mod notify;
mod pipeline;
pub mod postgres;
mod spans;
pub mod store;
pub mod stream;
mod supervisor;
mod target;
pub mod telemetry;
mod writer;

pub use context::EngineSettings;
pub use engine::{Engine, EngineError, EngineHandle, Inspector};
pub use postgres::{CheckReport, Egress, Step, StepName, StepStatus, ViewsWanted};
pub use telemetry::Publishing;

#[cfg(test)]
#[path = "../../tests/support/gate.rs"]
mod gate;
#[cfg(test)]
#[path = "../../tests/support/nats.rs"]
mod nats;
#[cfg(test)]
#[path = "../../tests/support/smtp.rs"]
mod smtp;
