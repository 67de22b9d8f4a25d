//! What the demo stands on: a Postgres server of its own, a CRM to be synced, and the customer whose database it is.
//!
//! How it is shown is `cli/demo.rs`. Tests and benches stand on the same.

pub mod crm;
pub(crate) mod customer;
pub mod postgres;
