//! The way to a database: addresses, what may be connected to, bastions, and TLS.

mod egress;

pub use egress::{DeniedNetworks, Egress, NetworkError};
