//! How people write where a database is: a `postgres://` URL, as libpq has it.

use std::{fs, str::FromStr};

use reqwest::Url;
use sequin_actors::model::{Connection, Secret, Tls, TlsMode};
use serde_json::{Map, Value};

const DEFAULT_PORT: u16 = 5432;

/// A database by URL: `postgres://user:password@host:port/database?sslmode=…&sslrootcert=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PostgresUrl {
    pub(super) connection: Connection,
    /// Parameters of libpq that mean nothing here.
    pub(super) ignored: Vec<String>,
}

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is wrong is told without the text: there may be a password in it.
        let url = Url::parse(text).map_err(|error| format!("{FORM} ({error})"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(FORM.into());
        }
        let host = url.host_str().unwrap_or_default();
        // An IPv6 address stands in brackets, in URLs only.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let username = decoded(url.username())?;
        let database = decoded(url.path().trim_start_matches('/'))?;
        let mut connection = Connection {
            host: decoded(host)?,
            port: url.port().unwrap_or(DEFAULT_PORT),
            // As libpq has it: without a database, the one that is called like the user.
            database: if database.is_empty() { username.clone() } else { database },
            username,
            password: url.password().map(decoded).transpose()?.map(Secret::new),
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        };
        let mut ignored = Vec::new();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "sslmode" => connection.tls.mode = parse_tls_mode(&value)?,
                "sslrootcert" => connection.tls.ca_pem = Some(read_pem(&value)?),
                _ => ignored.push(name.into_owned()),
            }
        }
        for (part, text) in [("host", &connection.host), ("user", &connection.username)] {
            if text.is_empty() {
                return Err(format!("names no {part}: {FORM}"));
            }
        }
        Ok(Self { connection, ignored })
    }
}

const FORM: &str = "takes postgres://USER:PASSWORD@HOST:PORT/DATABASE, with what is no letter or digit in the password \
                    percent-encoded";

pub(super) fn parse_tls_mode(name: &str) -> Result<TlsMode, String> {
    name.parse().map_err(|_| "the TLS mode is disable, prefer, require, verify-ca or verify-full".into())
}

/// The certificates in a file.
pub(super) fn read_pem(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path} can't be read: {error}"))
}

/// Notes of the customer's.
pub(super) fn parse_metadata(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|_| "takes a JSON object, such as '{\"team\": \"data\"}'".into())
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 where it is percent-encoded".into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Connection {
        text.parse::<PostgresUrl>().expect("a URL").connection
    }

    #[test]
    fn a_url_says_where_a_database_is() {
        let found = parse("postgres://sequin:p%40ss%2Fword@db.example.com:6543/app?sslmode=verify-full");
        assert_eq!((found.host.as_str(), found.port), ("db.example.com", 6543));
        assert_eq!((found.database.as_str(), found.username.as_str()), ("app", "sequin"));
        assert_eq!(found.password, Some(Secret::new("p@ss/word")));
        assert_eq!(found.tls.mode, TlsMode::VerifyFull);
    }

    #[test]
    fn what_a_url_leaves_out_is_as_in_libpq() {
        let found = parse("postgresql://sequin@localhost");
        assert_eq!((found.port, found.database.as_str(), found.password), (5432, "sequin", None));
        assert_eq!(found.tls.mode, TlsMode::Prefer);
    }

    #[test]
    fn a_host_may_be_an_address_or_the_directory_of_a_socket() {
        assert_eq!(parse("postgres://u@[::1]:5433/d").host, "::1");
        assert_eq!(parse("postgres://u@%2Fvar%2Frun/d").host, "/var/run");
    }

    #[test]
    fn a_percent_sign_that_escapes_nothing_stands_for_itself() {
        assert_eq!(parse("postgres://u:100%@h/d").password, Some(Secret::new("100%")));
    }

    #[test]
    fn parameters_that_mean_nothing_here_are_told() {
        let found: PostgresUrl = "postgres://u@h/d?sslmode=require&channel_binding=require".parse().expect("a URL");
        assert_eq!(found.ignored, ["channel_binding"]);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for wrong in [
            "mysql://u:secret@h/d",
            "postgres://u:secret@h:port/d",
            "postgres://u:secret@h/d?sslmode=maybe",
            "postgres://:secret@h/d",
            "postgres://u:secret@h/%ff",
            "u:secret@h/d",
        ] {
            let error = wrong.parse::<PostgresUrl>().expect_err(wrong);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
