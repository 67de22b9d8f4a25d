//! The way to a database: addresses, what may be connected to, bastions, and TLS.

mod egress;
pub(super) mod tls;

pub use egress::{DeniedNetworks, Egress, NetworkError};
