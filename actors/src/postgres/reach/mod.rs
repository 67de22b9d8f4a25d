//! The way to a database: addresses, what may be connected to, bastions, and TLS.

mod egress;
pub(super) mod tls;
mod walk;

pub use egress::{DeniedNetworks, Egress, NetworkError};
pub use walk::{Step, StepName, StepStatus, Walk};
