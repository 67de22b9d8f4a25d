//! A token: who may call the Management API, and what for.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{FieldError, TokenId, check_name};

/// A token as it is kept: by its hash, from which nobody can make it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Its name, unique among tokens.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// What it is recognized by.
    pub hash: TokenHash,
    /// From when on it is not taken any more; `None` if it does not end by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What the bearer of a token may do. No role but `admin` includes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// What changes nothing.
    Read,
    /// Publishing records.
    Publish,
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Publish => "publish",
        }
    }

    /// Whether it is enough for what `needed` is needed for.
    pub fn suffices_for(self, needed: Self) -> bool {
        self == Self::Admin || self == needed
    }
}

/// The SHA-256 of a token.
///
/// It is not compared by `==` to let somebody in, since that takes the longer the more of it is right.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// What the token of the settings is called where others have their name.
pub const SETTINGS_TOKEN: &str = "settings";

impl Token {
    /// Everything that is wrong with a token that is made at `now`.
    pub fn check(&self, now: DateTime<Utc>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_name("name", &self.name).err());
        if self.name == SETTINGS_TOKEN {
            errors.push(FieldError::new("name", "is what the token of the settings is called in the audit log"));
        }
        if self.is_expired(now) {
            errors.push(FieldError::new("expires_at", "takes a time that is still to come"));
        }
        errors
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}
