//! The three long jobs of a consumer, which its actors run as tasks: to load, to read, to apply. And what its status
//! says when one of them fails.

mod apply;
mod load;
mod read;
pub(crate) mod reason;

pub(crate) use apply::apply_batch;
pub(crate) use load::load;
pub(crate) use read::{ReadError, ReadPage, Reading};
