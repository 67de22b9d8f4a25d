//! How people write on the command line where a database is, and what they give of it as files.

use std::{fs, str::FromStr};

use sequin_actors::model::{ChannelBinding, Connection, Secret, Tls, TlsMode};
use serde_json::{Map, Value};

use super::WrongUsage;
use crate::postgres_url::PostgresUrl;

const DEFAULT_PORT: u16 = 5432;

/// A database by URL, with what is in the files that it names (`sslrootcert=FILE`, `sslcert=FILE`, `sslkey=FILE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DatabaseUrl {
    pub(super) connection: Connection,
    /// Parameters of libpq that mean nothing here.
    pub(super) ignored: Vec<String>,
}

impl DatabaseUrl {
    /// Takes the value of an argument. The parser of arguments would show what it can't take, and the password with it.
    pub(super) fn of_argument(name: &str, value: &str) -> Result<Self, WrongUsage> {
        value.parse().map_err(|error| WrongUsage(format!("{name} {error}")))
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: PostgresUrl = text.parse()?;
        let database = url.database().to_owned();
        let PostgresUrl { host, port, username, password, tls_mode, channel_binding, files, ignored, .. } = url;
        let read = |path: Option<String>| path.as_deref().map(read_pem).transpose();
        let tls = Tls {
            mode: tls_mode.unwrap_or_default(),
            ca_pem: read(files.authorities)?,
            client_cert_pem: read(files.certificate)?,
            client_key_pem: read(files.key)?.map(Secret::new),
            server_name: None,
            channel_binding: channel_binding.unwrap_or_default(),
        };
        let port = port.unwrap_or(DEFAULT_PORT);
        let connection =
            Connection { host, port, database, username, password, password_file: None, tls, bastion: None };
        Ok(Self { connection, ignored })
    }
}

pub(super) fn parse_tls_mode(name: &str) -> Result<TlsMode, String> {
    name.parse().map_err(|_| "the TLS mode is disable, prefer, require, verify-ca or verify-full".into())
}

pub(super) fn parse_channel_binding(name: &str) -> Result<ChannelBinding, String> {
    name.parse().map_err(|_| "channel binding is disable, prefer or require".into())
}

/// The certificates in a file.
pub(super) fn read_pem(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path} can't be read: {error}"))
}

/// Notes of the customer's.
pub(super) fn parse_metadata(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|_| "takes a JSON object, such as '{\"team\": \"data\"}'".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_files_whose_contents_are_taken() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "PEM").expect("written");
        let path = file.path().display();
        let url = format!("postgres://u@h?sslrootcert={path}&sslcert={path}&sslkey={path}&connect_timeout=3");
        let DatabaseUrl { connection, ignored } = url.parse().expect("a URL");
        assert_eq!((connection.port, connection.database.as_str()), (DEFAULT_PORT, "u"));
        assert_eq!(
            (connection.tls.ca_pem.as_deref(), connection.tls.client_cert_pem.as_deref()),
            (Some("PEM"), Some("PEM"))
        );
        assert_eq!(
            (connection.tls.client_key_pem, ignored),
            (Some(Secret::new("PEM")), vec!["connect_timeout".into()])
        );
        let error = "postgres://u:secret@h?sslkey=/nowhere/key.pem".parse::<DatabaseUrl>().expect_err("no file");
        assert!(error.starts_with("/nowhere/key.pem can't be read") && !error.contains("secret"), "{error}");
    }
}
