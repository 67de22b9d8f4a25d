//! A consumer: one provider or sync, forwarded to one table of a target.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ConsumerId, FieldError, Idx, Metadata, Provider, SyncId, TargetId, check_name};

/// One consumer, as the API wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its id.
    pub id: ConsumerId,
    /// Its name, unique among consumers.
    pub name: String,
    /// The target that it writes to.
    pub target: TargetId,
    /// Which records it forwards.
    pub filter: Filter,
    /// The table that it writes to.
    pub table: TableName,
    /// What to do with text that Postgres can't hold.
    pub unsupported_text: UnsupportedText,
    /// How old the oldest unapplied record may be before the consumer counts as behind, in seconds.
    pub lag_threshold_seconds: u32,
    /// How many unapplied records there may be before it counts as behind too; `None` for any number.
    #[serde(default)]
    pub lag_threshold_records: Option<u64>,
    /// The customer's notes.
    pub metadata: Metadata,
    /// What it should be doing.
    pub desired: Desired,
    /// Counts the times that somebody asked it to start or resume; a new number is a reason to try again.
    pub attempt: u64,
    /// The last time that it was told to read again.
    #[serde(default)]
    pub rewind: Rewind,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// Reading again what was read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewind {
    /// Which one of this consumer it is, from 1; 0 for none.
    pub number: u64,
    /// Everything beyond is read again.
    pub to: Idx,
}

/// Which records a consumer forwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// All syncs of one provider, new ones included.
    Provider(Provider),
    /// One sync.
    Sync(SyncId),
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(provider) => write!(f, "provider {provider}"),
            Self::Sync(sync) => write!(f, "sync {sync}"),
        }
    }
}

/// A table, by schema and name, as the customer wrote them (unquoted).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table's name in it.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// What to do with text that Postgres can't hold (`\u0000` and lone surrogates).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsupportedText {
    /// Set the record aside.
    #[default]
    Quarantine,
    /// Write U+FFFD in its place.
    Replace,
}

/// What a consumer should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Nothing yet: it was made, and never started.
    Draft,
    /// Forwarding.
    Running,
    /// Nothing, until it is resumed.
    Paused,
}

impl Consumer {
    /// Everything that is wrong with the consumer as it stands.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_name("name", &self.name).err());
        for (field, name) in [("schema", &self.table.schema), ("table", &self.table.table)] {
            // 63 is Postgres' NAMEDATALEN less one; a longer name would be cut short in silence.
            if name.is_empty() || name.len() > 63 || name.contains('\0') {
                errors.push(FieldError::new(field, "takes 1 to 63 bytes of text"));
            }
        }
        if self.lag_threshold_seconds == 0 {
            errors.push(FieldError::new("lag_threshold_seconds", "takes 1 or more"));
        }
        if self.lag_threshold_records == Some(0) {
            errors.push(FieldError::new("lag_threshold_records", "takes 1 or more, or null for none"));
        }
        errors
    }
}
