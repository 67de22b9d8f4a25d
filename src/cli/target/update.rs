//! `sequin target update`: what is given changes, and everything else stays.

use std::path::PathBuf;

use clap::Args;
use sequin_actors::model::TlsMode;
use serde_json::{Map, Value, json};

use super::{
    super::{
        WrongUsage,
        connection::{parse_metadata, parse_tls_mode, read_pem},
    },
    read_password,
};

#[derive(Args)]
pub(in super::super) struct UpdateArguments {
    /// Its name or id.
    target: String,
    /// What to call it from now on.
    #[arg(long)]
    name: Option<String>,
    /// The server's name or address.
    #[arg(long)]
    host: Option<String>,
    /// The server's port.
    #[arg(long)]
    port: Option<u16>,
    /// The database.
    #[arg(long)]
    database: Option<String>,
    /// The user to connect as.
    #[arg(long)]
    username: Option<String>,
    /// A file with the password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// How the connection is secured: disable, prefer, require, verify-ca or verify-full.
    #[arg(long, value_name = "MODE", value_parser = parse_tls_mode)]
    tls_mode: Option<TlsMode>,
    /// A file with the certificate authorities to trust, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// The most connections to hold.
    #[arg(long, value_name = "N")]
    pool_size: Option<u32>,
    /// Notes of yours, a JSON object; it takes the place of those that are there.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Map<String, Value>>,
}

impl UpdateArguments {
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// What is to change.
    pub(super) fn request(&self) -> anyhow::Result<Value> {
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        let ca_pem = self.ca_file.as_deref().map(read_pem).transpose().map_err(anyhow::Error::msg)?;
        let tls = given([("mode", json!(self.tls_mode.map(TlsMode::as_str))), ("ca_pem", json!(ca_pem))]);
        let connection = given([
            ("host", json!(self.host)),
            ("port", json!(self.port)),
            ("database", json!(self.database)),
            ("username", json!(self.username)),
            ("password", json!(password.as_ref().map(sequin_actors::model::Secret::reveal))),
            ("tls", tls),
        ]);
        let request = given([
            ("name", json!(self.name)),
            ("connection", connection),
            ("pool_size", json!(self.pool_size)),
            ("metadata", json!(self.metadata)),
        ]);
        if request.is_null() {
            return Err(WrongUsage("give what to change: `sequin target update --help` lists it".into()).into());
        }
        Ok(request)
    }
}

/// An object of what is not null; null if nothing is left.
pub(in super::super) fn given<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    let object: Map<String, Value> = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    if object.is_empty() { Value::Null } else { Value::Object(object) }
}
