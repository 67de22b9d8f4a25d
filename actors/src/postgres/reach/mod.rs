//! The way to a database: addresses, what may be connected to, bastions, and TLS.

mod addresses;
mod dial;
mod egress;
mod route;
pub(super) mod tls;
mod walk;

pub(super) use dial::dial;
pub use egress::{DeniedNetworks, Egress, NetworkError};
pub use route::check_settings;
pub(super) use route::{Route, takes_writes};
pub use walk::{Step, StepName, StepStatus, Walk};
