//! The way to a database: addresses, what may be connected to, bastions, and TLS.

mod egress;
<<<<<<< HEAD
mod walk;
=======
pub(super) mod tls;
>>>>>>> c4551a0 (TLS to databases moves to where the way to a database lives)

pub use egress::{DeniedNetworks, Egress, NetworkError};
pub use walk::{Step, StepName, StepStatus, Walk};
