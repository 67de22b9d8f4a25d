//! The audit log: who changed what, when, and from where.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{AuditId, TokenId};

/// A change that somebody asked for. It never holds what was written, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its id, which tells the time backwards.
    pub id: AuditId,
    /// When the change was answered.
    pub at: DateTime<Utc>,
    /// The token of whoever asked; `None` if it is the one of the settings.
    pub token: Option<AuditedToken>,
    /// What was done, such as `create` or `quarantine.retry`.
    pub action: String,
    /// The kind of what was changed, such as `target`.
    pub kind: String,
    /// Its id, if it has one.
    pub resource_id: Option<String>,
    /// Its name, if it has one.
    pub resource_name: Option<String>,
    /// The method of the request.
    pub method: String,
    /// The path of the request, or its beginning.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The address that the request came from.
    pub from: IpAddr,
    /// What the request is called in answers and logs.
    pub request_id: String,
}

/// A token, as it was when it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedToken {
    /// Its id.
    pub id: TokenId,
    /// Its name.
    pub name: String,
}
