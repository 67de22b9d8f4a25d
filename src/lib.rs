//! The service around the engine: what people and programs touch.
//!
//! - [`config`] reads the settings, [`service`] puts the parts together and takes them apart again.
//! - [`api`] is the Management API: it writes desired state to the store and reads status from it. It never calls an
//!   actor.
//! - [`cli`] is the command line; all but `serve`, `migrate`, `demo` and `openapi` speak HTTP like anybody else.
//! - [`demo`] is the main job on one machine, to look at.
//! - `postgres_url` reads where a database is, as people write it: for the command line and the API.
//! - `telemetry` exports what all of them and the engine tell by the API of OpenTelemetry, and writes the log.
//!
//! Dependencies point one way: `cli -> demo -> service -> api -> sequin_actors`. Only [`service`] names backends; only
//! `telemetry` names exporters.

pub mod api;
pub mod cli;
pub mod config;
pub mod demo;
mod postgres_url;
pub mod service;
mod telemetry;
