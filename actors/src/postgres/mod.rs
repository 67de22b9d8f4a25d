//! Everything that speaks to a customer's database: all SQL, and all of the driver.

mod apply;
mod catalog;
mod encode;
mod error;
mod fence;
mod identifier;
mod session;
mod tls;
mod verify;

pub use apply::{ApplyError, Change, Tombstone, apply};
pub use catalog::{create_table_sql, setup_sql};
pub use error::{Fault, Verdict};
pub use fence::LiveSessions;
pub use session::{CheckReport, Pool, PoolError, Session, check, open_pool};
pub use tls::TlsError;
pub use verify::{Finding, Severity, verify};
