//! Everything that speaks to a customer's database: all SQL, and all of the driver.

mod apply;
mod beyond;
mod catalog;
mod check;
mod create;
mod credentials;
mod encode;
mod error;
mod fence;
mod identifier;
mod novelty;
mod pool;
mod pooler;
mod reach;
mod session;
mod strain;
mod trust;
mod verify;
mod views;

pub use apply::{ApplyError, Change, Tombstone, apply};
pub use beyond::{RowBeyond, row_beyond};
pub use catalog::{cleanup_sql, create_table_sql, setup_sql};
pub use check::CheckReport;
pub use create::create_table;
pub use encode::copy_row;
pub use error::{Fault, Verdict};
pub use fence::{Backend, Lease, LiveSessions};
pub use pool::{Pool, Sessions};
pub use reach::{Egress, HostKeys, Step, StepName, StepStatus, Walk, admission, check_settings, see_host_keys};
pub use session::{Session, Visitor};
pub use verify::{Finding, verify};
pub use views::{View, ViewsWanted, views};
