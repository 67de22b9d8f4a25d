//! The long jobs of a consumer, which its actors run as tasks: to load, to prepare, to read, to apply, to set aside. And what its
//! status says when one of them fails.

mod apply;
mod checkpoint;
mod load;
mod prepare;
mod quarantine;
mod read;
pub(crate) mod reason;
mod status;

pub(crate) use apply::{BringError, Bringing};
pub(crate) use checkpoint::SavedCheckpoint;
pub(crate) use load::{LoadError, Loaded, load};
pub(crate) use prepare::{Preparation, PrepareError, Prepared, verify_again};
pub(crate) use quarantine::Quarantine;
pub(crate) use read::{ReadError, ReadPage, Reading};
pub(crate) use status::WrittenStatus;
