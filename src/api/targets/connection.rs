//! How a request says where a target's database is and how to get there: when the target is made, and when it changes.

use sequin_actors::model::{Bastion, ChannelBinding, Connection, FieldError, Tls, TlsMode};
use serde::Deserialize;
use utoipa::{ToSchema, openapi::Object};

use super::default_port;
use crate::api::{
    change::Change,
    openapi::{or_null, words},
    secret::SecretText,
};

const DEFAULT_BASTION_PORT: u16 = 22;

/// Where a database is, and how to get there. What is left out stays as it is, or is as by default where the target is made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionRequest {
    /// `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE`, with `sslmode`, `channel_binding` and `target_session_attrs`
    /// as its parameters, instead of the fields below. What is given beside it has to be the same.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    pub(super) url: Change<SecretText>,
    /// A host name, an address, or the directory of a Unix socket. Or several, separated by commas, each perhaps with a port
    /// (`db-1,db-2:6432,[::1]:5433`): the first that takes writes is the one.
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    #[serde(default)]
    pub(super) host: Change<String>,
    /// The port of each host that names none. Null for the default.
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65535, default = default_port)]
    #[serde(default)]
    pub(super) port: Change<u16>,
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    pub(super) database: Change<String>,
    /// The user that was made for Sequin.
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    pub(super) username: Change<String>,
    /// Null for none.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    pub(super) password: Change<SecretText>,
    /// The plain name of a file in the nodes' directory of secrets that holds the password instead: read anew for each session.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    #[serde(default)]
    password_file: Change<String>,
    /// Null for the defaults.
    #[schema(value_type = Option<TlsRequest>)]
    #[serde(default)]
    pub(super) tls: Change<TlsRequest>,
    /// The SSH host to go through. Null for none.
    #[schema(value_type = Option<BastionRequest>)]
    #[serde(default)]
    bastion: Change<BastionRequest>,
}

/// How a connection is secured.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsRequest {
    #[schema(schema_with = mode)]
    #[serde(default)]
    pub(super) mode: Change<String>,
    /// The certificate authorities to trust, in PEM. Null for the system's.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    ca_pem: Change<String>,
    /// The certificate to show, with those that lead to an authority, in PEM.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    client_cert_pem: Change<String>,
    /// The key of that certificate, in PEM.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    client_key_pem: Change<SecretText>,
    /// The name to ask for (SNI) and to find in the certificate, where it is not the host's: behind tunnels and proxies.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 253)]
    #[serde(default)]
    server_name: Change<String>,
    #[schema(schema_with = channel_binding)]
    #[serde(default)]
    pub(super) channel_binding: Change<String>,
}

/// An SSH host through which a database is reached. It takes a private key or a password.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BastionRequest {
    /// A host name or an address.
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    host: Change<String>,
    /// Null for the default.
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65535, default = default_bastion_port)]
    #[serde(default)]
    port: Change<u16>,
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    username: Change<String>,
    /// In OpenSSH's form or PEM.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    private_key: Change<SecretText>,
    /// What the private key is encrypted with.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    passphrase: Change<SecretText>,
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    password: Change<SecretText>,
    /// The host's public keys, one on each line, as `ssh-keyscan` or `known_hosts` shows them. Nothing is sent to a host that
    /// shows another, and nothing at all while there is none; a check of the target shows the key that was seen.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    host_key: Change<String>,
    /// Keep the key that the host shows now as its `host_key`, if there is none yet, or the host is another. It holds for the
    /// request that says so: one that names another host and does not say it leaves that one unconfirmed.
    #[schema(value_type = Option<bool>, default = false)]
    #[serde(default)]
    trust_on_first_use: Change<bool>,
}

fn default_bastion_port() -> u16 {
    DEFAULT_BASTION_PORT
}

fn mode() -> Object {
    or_null(tls_modes())
}

fn channel_binding() -> Object {
    or_null(channel_bindings())
}

pub(super) fn tls_modes() -> Object {
    let modes = [TlsMode::Disable, TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull];
    words("What is demanded of the server, with libpq's names and meanings.", &modes.map(TlsMode::as_str))
}

pub(super) fn channel_bindings() -> Object {
    let bindings = [ChannelBinding::Disable, ChannelBinding::Prefer, ChannelBinding::Require];
    let meaning = "Whether SCRAM is to prove that the end of the TLS connection is the server that knows the password, with \
                   libpq's names and meanings.";
    words(meaning, &bindings.map(ChannelBinding::as_str))
}

/// Where nothing is said yet.
pub(super) fn unsaid() -> Connection {
    Connection {
        host: String::new(),
        port: default_port(),
        database: String::new(),
        username: String::new(),
        password: None,
        password_file: None,
        tls: Tls::default(),
        bastion: None,
    }
}

impl ConnectionRequest {
    /// Makes of a connection what the request says.
    pub(super) fn apply(mut self, connection: &mut Connection, errors: &mut Vec<FieldError>) {
        self.take_url(errors);
        self.host.required("connection.host", &mut connection.host, errors);
        self.port.or(default_port(), &mut connection.port);
        self.database.required("connection.database", &mut connection.database, errors);
        self.username.required("connection.username", &mut connection.username, errors);
        self.password.map(|SecretText(password)| password).optional(&mut connection.password);
        self.password_file.optional(&mut connection.password_file);
        match self.tls {
            Change::Keep => {}
            Change::Reset => connection.tls = Tls::default(),
            Change::To(tls) => tls.apply(&mut connection.tls, errors),
        }
        match self.bastion {
            Change::Keep => {}
            Change::Reset => connection.bastion = None,
            Change::To(bastion) => bastion.apply(connection.bastion.get_or_insert_with(unnamed_bastion), errors),
        }
    }
}

impl TlsRequest {
    fn apply(self, tls: &mut Tls, errors: &mut Vec<FieldError>) {
        self.mode.parsed(&mut tls.mode, errors);
        self.ca_pem.optional(&mut tls.ca_pem);
        self.client_cert_pem.optional(&mut tls.client_cert_pem);
        self.client_key_pem.map(|SecretText(key)| key).optional(&mut tls.client_key_pem);
        self.server_name.optional(&mut tls.server_name);
        self.channel_binding.parsed(&mut tls.channel_binding, errors);
    }
}

fn unnamed_bastion() -> Bastion {
    Bastion {
        host: String::new(),
        port: DEFAULT_BASTION_PORT,
        username: String::new(),
        private_key: None,
        passphrase: None,
        password: None,
        host_key: None,
        trust_on_first_use: false,
    }
}

impl BastionRequest {
    fn apply(self, bastion: &mut Bastion, errors: &mut Vec<FieldError>) {
        let former_place = (bastion.host.clone(), bastion.port);
        let says_key = !matches!(self.host_key, Change::Keep);
        let asks_for_trust = matches!(self.trust_on_first_use, Change::To(true));
        let has_trusted = bastion.trust_on_first_use;
        self.host.required("connection.bastion.host", &mut bastion.host, errors);
        self.port.or(DEFAULT_BASTION_PORT, &mut bastion.port);
        self.username.required("connection.bastion.username", &mut bastion.username, errors);
        self.private_key.map(|SecretText(key)| key).optional(&mut bastion.private_key);
        self.passphrase.map(|SecretText(passphrase)| passphrase).optional(&mut bastion.passphrase);
        self.password.map(|SecretText(password)| password).optional(&mut bastion.password);
        self.host_key.optional(&mut bastion.host_key);
        self.trust_on_first_use.or(false, &mut bastion.trust_on_first_use);
        // What was kept is the key of another host then.
        let is_elsewhere = former_place != (bastion.host.clone(), bastion.port);
        if (has_trusted || asks_for_trust) && is_elsewhere && !says_key {
            bastion.host_key = None;
        }
        // That somebody has trusted one host says nothing of whoever answers now: who means it asks again.
        bastion.trust_on_first_use &= asks_for_trust || bastion.host_key.is_some();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_answers_at_another_place_is_trusted_only_if_the_same_request_says_so() {
        for (change, key, trusts) in [
            (json!({"username": "other"}), Some("a key"), true),
            (json!({"host": "elsewhere"}), None, false),
            (json!({"port": 2222}), None, false),
            (json!({"host_key": null}), None, false),
            (json!({"host": "elsewhere", "trust_on_first_use": true}), None, true),
            (json!({"host_key": null, "trust_on_first_use": true}), None, true),
            (json!({"host": "elsewhere", "trust_on_first_use": false}), None, false),
            (json!({"host": "elsewhere", "host_key": "another"}), Some("another"), true),
        ] {
            let mut connection = unsaid();
            let kept = Bastion { host_key: Some("a key".into()), trust_on_first_use: true, ..unnamed_bastion() };
            connection.bastion = Some(kept);
            let request: ConnectionRequest = serde_json::from_value(json!({"bastion": change})).expect("a request");
            request.apply(&mut connection, &mut Vec::new());
            let bastion = connection.bastion.expect("a bastion");
            assert_eq!((bastion.host_key.as_deref(), bastion.trust_on_first_use), (key, trusts), "{change}");
        }
    }
}
