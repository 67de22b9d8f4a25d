//! What `sequin target add` and `update` have in common: TLS, the bastion, and limits. Secrets come by files or the
//! environment, for arguments can be seen in the list of processes.

use std::{env, path::PathBuf};

use anyhow::Context;
use clap::Args;
use sequin_actors::model::{ChannelBinding, Secret, TlsMode};
use serde_json::{Value, json};

use super::{
    super::connection::{parse_channel_binding, parse_tls_mode, read_pem},
    read_password,
    update::given,
};

/// What takes back what was given before.
const NONE: &str = "none";

#[derive(Args)]
pub(super) struct TlsOptions {
    /// How the connection is secured: disable, prefer, require, verify-ca or verify-full.
    #[arg(long, value_name = "MODE", value_parser = parse_tls_mode)]
    tls_mode: Option<TlsMode>,
    /// A file with the certificate authorities to trust, in PEM; `none` for those of the system.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// A file with the certificate to show, in PEM; `none` for no certificate and no key.
    #[arg(long, value_name = "FILE")]
    client_cert_file: Option<String>,
    /// A file with the key of that certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    client_key_file: Option<String>,
    /// The name to ask for and to find in the certificate, where it is not the host's: behind tunnels and proxies. `none` for
    /// the host's.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Whether SCRAM is to be bound to the TLS connection: disable, prefer or require.
    #[arg(long, value_name = "WHETHER", value_parser = parse_channel_binding)]
    channel_binding: Option<ChannelBinding>,
}

impl TlsOptions {
    /// What of `connection.tls` was given; null if nothing was.
    pub(super) fn request(&self) -> anyhow::Result<Value> {
        let read = |path: &Option<String>| {
            path.as_deref().filter(|path| *path != NONE).map(read_pem).transpose().map_err(anyhow::Error::msg)
        };
        let mut request = given([
            ("mode", json!(self.tls_mode.map(TlsMode::as_str))),
            ("ca_pem", json!(read(&self.ca_file)?)),
            ("client_cert_pem", json!(read(&self.client_cert_file)?)),
            ("client_key_pem", json!(read(&self.client_key_file)?)),
            ("server_name", json!(self.server_name)),
            ("channel_binding", json!(self.channel_binding.map(ChannelBinding::as_str))),
        ]);
        for (option, names) in [
            (&self.ca_file, &["ca_pem"][..]),
            (&self.client_cert_file, &["client_cert_pem", "client_key_pem"]),
            (&self.server_name, &["server_name"]),
        ] {
            if option.as_deref() == Some(NONE) {
                for name in names {
                    request[*name] = Value::Null;
                }
            }
        }
        Ok(request)
    }
}

/// The variable with the password of the user of a bastion.
pub(super) const BASTION_PASSWORD: &str = "SEQUIN_BASTION_PASSWORD";

#[derive(Args)]
pub(super) struct BastionOptions {
    /// The SSH host to go through.
    #[arg(long, value_name = "HOST")]
    pub(super) bastion_host: Option<String>,
    /// Its port, 22 unless it is said.
    #[arg(long, value_name = "PORT")]
    bastion_port: Option<u16>,
    /// The user there.
    #[arg(long, value_name = "USER")]
    bastion_user: Option<String>,
    /// A file with the user's private key. What it is encrypted with comes from --bastion-passphrase-file or
    /// `SEQUIN_BASTION_PASSPHRASE`.
    #[arg(long, value_name = "FILE")]
    bastion_key_file: Option<PathBuf>,
    /// A file with what the private key is encrypted with.
    #[arg(long, value_name = "FILE", requires = "bastion_key_file")]
    bastion_passphrase_file: Option<PathBuf>,
    /// A file with the user's password, where there is no key.
    #[arg(long, value_name = "FILE", conflicts_with = "bastion_key_file")]
    bastion_password_file: Option<PathBuf>,
    /// The host's public key, as in `ssh-ed25519 AAAA…`; again for each of several, or `none` for one that is to be confirmed.
    #[arg(long, value_name = "KEY")]
    bastion_host_key: Vec<String>,
    /// A file with the host's public keys, as ssh-keyscan prints them.
    #[arg(long, value_name = "FILE", conflicts_with = "bastion_host_key")]
    bastion_host_key_file: Option<PathBuf>,
    /// Keep the key that the host shows now as its own, if none is known yet.
    #[arg(long)]
    trust_on_first_use: bool,
}

impl BastionOptions {
    pub(super) fn names_user(&self) -> bool {
        self.bastion_user.is_some()
    }

    /// What of `connection.bastion` was given; null if nothing was.
    ///
    /// `may_have_password` says whether a password is taken from the environment.
    pub(super) fn request(&self, may_have_password: bool) -> anyhow::Result<Value> {
        let key = self.bastion_key_file.as_ref().map(read).transpose()?;
        let passphrase = self.bastion_passphrase_file.as_deref().map(read_password).transpose()?;
        let passphrase = passphrase.or_else(|| from_environment("SEQUIN_BASTION_PASSPHRASE").filter(|_| key.is_some()));
        let password = self.bastion_password_file.as_deref().map(read_password).transpose()?;
        let takes_variable = key.is_none() && may_have_password;
        let password = password.or_else(|| from_environment(BASTION_PASSWORD).filter(|_| takes_variable));
        let host_key = match &self.bastion_host_key_file {
            Some(path) => Some(read(path)?),
            None => Some(self.bastion_host_key.join("\n")).filter(|keys| !keys.is_empty()),
        };
        let mut request = given([
            ("host", json!(self.bastion_host)),
            ("port", json!(self.bastion_port)),
            ("username", json!(self.bastion_user)),
            ("private_key", json!(key)),
            ("passphrase", json!(passphrase.as_ref().map(Secret::reveal))),
            ("password", json!(password.as_ref().map(Secret::reveal))),
            ("host_key", json!(host_key)),
            ("trust_on_first_use", json!(self.trust_on_first_use.then_some(true))),
        ]);
        // One takes the place of the other.
        let replaced: &[&str] = match (&key, &password) {
            (Some(_), _) if passphrase.is_none() => &["password", "passphrase"],
            (Some(_), _) => &["password"],
            (None, Some(_)) => &["private_key", "passphrase"],
            (None, None) => &[],
        };
        let unconfirmed: &[&str] = if self.bastion_host_key == [NONE] { &["host_key"] } else { &[] };
        for name in replaced.iter().chain(unconfirmed) {
            request[*name] = Value::Null;
        }
        Ok(request)
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

pub(super) fn from_environment(name: &str) -> Option<Secret> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(Secret::new)
}

#[derive(Args)]
pub(super) struct LimitOptions {
    /// How many records all consumers together may write a second; `none` for as many as they can.
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    max_records_per_second: Option<Limit>,
    /// How long one statement may take, in seconds.
    #[arg(long, value_name = "N")]
    statement_timeout_seconds: Option<u32>,
    /// How long a statement may wait for a lock, in seconds.
    #[arg(long, value_name = "N")]
    lock_timeout_seconds: Option<u32>,
    /// Pause while a replica is further behind than this, in seconds; `none` for never.
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    max_replica_lag_seconds: Option<Limit>,
    /// Pause while more than this part of the server's connections is taken, in percent; `none` for never.
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    max_connections_percent: Option<Limit>,
}

/// A number, or none.
#[derive(Clone, Copy)]
struct Limit(Option<u32>);

fn parse_limit(text: &str) -> Result<Limit, String> {
    match text {
        NONE => Ok(Limit(None)),
        number => number.parse().map(|number| Limit(Some(number))).map_err(|_| "takes a number, or none".into()),
    }
}

impl LimitOptions {
    /// What of `limits` was given; null if nothing was.
    pub(super) fn request(&self) -> Value {
        let mut request = given([
            ("statement_timeout_seconds", json!(self.statement_timeout_seconds)),
            ("lock_timeout_seconds", json!(self.lock_timeout_seconds)),
        ]);
        for (name, limit) in [
            ("max_records_per_second", self.max_records_per_second),
            ("max_replica_lag_seconds", self.max_replica_lag_seconds),
            ("max_connections_percent", self.max_connections_percent),
        ] {
            if let Some(Limit(limit)) = limit {
                request[name] = json!(limit);
            }
        }
        request
    }
}
