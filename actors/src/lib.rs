#![doc = include_str!("../README.md")]

pub mod embedded;
pub mod flow;
pub mod model;
pub mod store;
pub mod stream;
