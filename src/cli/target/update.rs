//! `sequin target update`: what is given changes, and everything else stays.

use std::path::PathBuf;

use clap::Args;
use sequin_actors::model::Secret;
use serde_json::{Map, Value, json};

use super::{
    super::{WrongUsage, connection::parse_metadata},
    options::{BASTION_PASSWORD, BastionOptions, LimitOptions, TlsOptions, from_environment},
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
    /// The plain name of a file in the nodes' directory of secrets that holds the password instead: it stays there, and is
    /// read anew for each connection.
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    secrets_file: Option<String>,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    bastion: BastionOptions,
    /// Take the password of the bastion's user from `SEQUIN_BASTION_PASSWORD`.
    #[arg(long, conflicts_with_all = ["bastion_key_file", "bastion_password_file"])]
    bastion_password_env: bool,
    /// Go through no bastion any more.
    #[arg(long, conflicts_with_all = ["bastion_host", "bastion_user", "bastion_key_file"])]
    #[arg(conflicts_with_all = ["bastion_password_file", "bastion_password_env"])]
    no_bastion: bool,
    /// The most connections to hold.
    #[arg(long, value_name = "N")]
    pool_size: Option<u32>,
    #[command(flatten)]
    limits: LimitOptions,
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
        if self.bastion_password_env && from_environment(BASTION_PASSWORD).is_none() {
            return Err(
                WrongUsage(format!("--bastion-password-env is given, and {BASTION_PASSWORD} is not set")).into()
            );
        }
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        let mut connection = given([
            ("host", json!(self.host)),
            ("port", json!(self.port)),
            ("database", json!(self.database)),
            ("username", json!(self.username)),
            ("password", json!(password.as_ref().map(Secret::reveal))),
            ("password_file", json!(self.secrets_file)),
            ("tls", self.tls.request()?),
            ("bastion", self.bastion.request(self.bastion_password_env)?),
        ]);
        // One takes the place of the other.
        if self.secrets_file.is_some() {
            connection["password"] = Value::Null;
        } else if password.is_some() {
            connection["password_file"] = Value::Null;
        }
        if self.no_bastion {
            connection["bastion"] = Value::Null;
        }
        let request = given([
            ("name", json!(self.name)),
            ("connection", connection),
            ("pool_size", json!(self.pool_size)),
            ("limits", self.limits.request()),
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
