//! A target: one customer's database, and how to reach it.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{FieldError, Metadata, Secret, TargetId, check_name};

/// One customer's database, as the API wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its id.
    pub id: TargetId,
    /// Its name, unique among targets.
    pub name: String,
    /// How to reach it.
    pub connection: Connection,
    /// The most sessions that all its consumers together may hold.
    pub pool_size: u32,
    /// The customer's notes.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// Where a database is, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// A host name, an address, or the directory of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The user that the customer made for us.
    pub username: String,
    /// The user's password.
    pub password: Option<Secret>,
    /// How the connection is secured.
    pub tls: Tls,
}

/// How a connection is secured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// What is demanded of the server.
    pub mode: TlsMode,
    /// The certificate authorities to trust, in PEM; the system's when absent.
    #[serde(default)]
    pub ca_pem: Option<String>,
}

/// What is demanded of the server, with libpq's names and meanings
/// (<https://www.postgresql.org/docs/current/libpq-ssl.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS where the server offers it; nothing is verified.
    #[default]
    Prefer,
    /// TLS; nothing is verified.
    Require,
    /// TLS, with a certificate that a trusted authority signed.
    VerifyCa,
    /// TLS, with a certificate that a trusted authority signed for this host.
    VerifyFull,
}

impl TlsMode {
    const ALL: [(&str, Self); 5] = [
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// libpq's name of the mode.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("prefer", |(name, _)| name)
    }
}

impl FromStr for TlsMode {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            FieldError::new("connection.tls.mode", "takes disable, prefer, require, verify-ca or verify-full")
        })
    }
}

impl Target {
    /// Everything that is wrong with the target as it stands.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_name("name", &self.name).err());
        let texts = [
            ("connection.host", &self.connection.host),
            ("connection.database", &self.connection.database),
            ("connection.username", &self.connection.username),
        ];
        for (field, text) in texts {
            if text.is_empty() || text.len() > 255 || text.contains('\0') {
                errors.push(FieldError::new(field, "takes 1 to 255 bytes of text"));
            }
        }
        if self.connection.port == 0 {
            errors.push(FieldError::new("connection.port", "takes 1 to 65535"));
        }
        if !(1..=100).contains(&self.pool_size) {
            errors.push(FieldError::new("pool_size", "takes 1 to 100"));
        }
        errors
    }
}
