//! What users rely on, end to end: the real program, a real PostgreSQL, and nothing between them that is not there in
//! production. A file a capability; one program, so that what they stand on is compiled once.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod access_cli;
mod alerting;
mod alerting_test;
mod audit;
mod backfill_and_live;
mod bloat;
mod changes;
mod chaos;
mod cluster;
mod collections;
mod command_line;
mod contention;
mod contract;
mod data_directory;
mod faults_of_record;
mod faults_of_table;
mod faults_of_target;
mod files;
mod idempotency;
mod incidents;
mod interleavings;
mod isolation;
mod key_rotation;
mod late_commits;
mod memory;
mod metrics;
mod migrate;
mod network;
mod on_nats;
mod openapi;
mod outages;
mod payloads;
mod publish_command;
mod publishing;
mod publishing_bodies;
mod quarantine;
mod quarantine_api;
mod refusals;
mod restarts;
mod restores;
mod secrets;
mod singer;
mod singer_tap;
mod stream_identity;
mod supervision;
mod syncs;
mod telemetry;
mod traces;
mod views;
mod ways;
mod wrong_tables;
