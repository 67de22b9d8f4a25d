//! A target: one customer's database, and how to reach it.

mod check;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub(crate) use check::is_plain_name;

use super::{FieldError, Metadata, Secret, TargetId};

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
    /// How far we may go there.
    pub limits: Limits,
    /// The customer's notes.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// How far we may go with a database that is not only ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// How many records all its consumers together may write a second; `None` for as many as they can.
    pub max_records_per_second: Option<u32>,
    /// How long one statement may take, in seconds.
    pub statement_timeout_seconds: u32,
    /// How long a statement may wait for a lock, in seconds.
    pub lock_timeout_seconds: u32,
    /// Its consumers pause while a replica is further behind than this, in seconds.
    pub max_replica_lag_seconds: Option<u32>,
    /// Its consumers pause while more than this part of the server's connections is taken, in percent.
    pub max_connections_percent: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_records_per_second: None,
            statement_timeout_seconds: 60,
            lock_timeout_seconds: 10,
            max_replica_lag_seconds: None,
            max_connections_percent: None,
        }
    }
}

/// Where a database is, how to get there, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// A host name, an address, or the directory of a Unix socket. Or several hosts, separated by commas, each perhaps with a port of
    /// its own (`db-1,db-2:6432,[::1]:5433`): the first that takes writes is the one.
    pub host: String,
    /// The port of each host that names none.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The user that the customer made for us.
    pub username: String,
    /// The user's password.
    pub password: Option<Secret>,
    /// The file that holds the password instead, in the node's directory of secrets: read anew for each session.
    pub password_file: Option<String>,
    /// How the connection is secured.
    pub tls: Tls,
    /// The SSH host to go through.
    pub bastion: Option<Bastion>,
}

/// How a connection is secured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// What is demanded of the server.
    pub mode: TlsMode,
    /// The certificate authorities to trust, in PEM; the system's when absent.
    pub ca_pem: Option<String>,
    /// Our certificate, with those that lead to an authority, in PEM.
    pub client_cert_pem: Option<String>,
    /// The key of our certificate, in PEM.
    pub client_key_pem: Option<Secret>,
    /// The name to ask for (SNI) and to find in the certificate, where it is not the host's: behind tunnels and proxies.
    pub server_name: Option<String>,
    /// Whether SCRAM is to prove that the server at the end of the TLS connection is the one that knows the password.
    pub channel_binding: ChannelBinding,
}

/// Channel binding, with libpq's names and meanings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelBinding {
    /// None.
    Disable,
    /// If the server offers it.
    #[default]
    Prefer,
    /// No connection without.
    Require,
}

impl ChannelBinding {
    const ALL: [(&str, Self); 3] = [("disable", Self::Disable), ("prefer", Self::Prefer), ("require", Self::Require)];

    /// libpq's name of it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, binding)| *binding == self).map_or("prefer", |(name, _)| name)
    }
}

impl FromStr for ChannelBinding {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, binding)| *binding)
            .ok_or_else(|| FieldError::new("connection.tls.channel_binding", "takes disable, prefer or require"))
    }
}

/// An SSH host through which a database is reached. One of `private_key` and `password` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bastion {
    /// A host name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user.
    pub username: String,
    /// The user's private key, in OpenSSH's form or PEM.
    pub private_key: Option<Secret>,
    /// What the private key is encrypted with.
    pub passphrase: Option<Secret>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The host's public keys, one on each line, as `ssh-keyscan` or `known_hosts` shows them. Who shows another is not
    /// believed. Nothing is sent while there is none.
    pub host_key: Option<String>,
    /// Whether the key that the host shows when the target is written is to be kept as its `host_key`.
    pub trust_on_first_use: bool,
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
