//! The way to a database: addresses, what may be connected to, bastions, and TLS.

mod addresses;
mod admission;
mod bastion;
mod dial;
mod egress;
mod host_keys;
mod route;
pub(super) mod tls;
mod turn;
mod walk;

pub use admission::admission;
pub use bastion::see_host_keys;
pub(super) use dial::dial;
pub use egress::Egress;
pub use host_keys::HostKeys;
pub use route::check_settings;
pub(super) use route::{Route, takes_writes};
pub use walk::{Step, StepName, StepStatus, Walk};
