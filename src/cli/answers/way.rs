//! How a database is reached, as the command line shows it.

use std::fmt;

use serde::Deserialize;

use super::super::table::Table;

#[derive(Deserialize)]
pub(in super::super) struct Connection {
    host: String,
    port: u16,
    database: String,
    username: String,
    password_file: Option<String>,
    tls: Tls,
    bastion: Option<Bastion>,
}

#[derive(Deserialize)]
struct Tls {
    mode: String,
    server_name: Option<String>,
    #[serde(default)]
    client_key_pem_set: bool,
    channel_binding: Option<String>,
}

#[derive(Deserialize)]
struct Bastion {
    host: String,
    port: u16,
    username: String,
    host_key: Option<String>,
}

/// How far Sequin may go.
#[derive(Deserialize)]
pub(in super::super) struct Limits {
    max_records_per_second: Option<u32>,
    statement_timeout_seconds: u32,
    lock_timeout_seconds: u32,
    max_replica_lag_seconds: Option<u32>,
    max_connections_percent: Option<u32>,
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database, username, .. } = self;
        write!(f, "{username}@{host}:{port}/{database}")
    }
}

impl Connection {
    /// How it is secured, and the way there.
    pub(in super::super) fn facts(&self, facts: &mut Table) {
        let Tls { mode, server_name, client_key_pem_set, channel_binding } = &self.tls;
        let mut tls = vec![mode.clone()];
        tls.extend(server_name.as_ref().map(|name| format!("as {name}")));
        tls.extend(client_key_pem_set.then(|| "with a certificate of its own".to_owned()));
        let binding = channel_binding.as_ref().filter(|binding| *binding != "prefer");
        tls.extend(binding.map(|binding| format!("channel binding: {binding}")));
        facts.fact("tls", tls.join(", "));
        if let Some(file) = &self.password_file {
            facts.fact("password", format_args!("in the file {file}"));
        }
        let Some(Bastion { host, port, username, host_key }) = &self.bastion else { return };
        facts.fact("bastion", format_args!("{username}@{host}:{port}"));
        match host_key {
            None => facts.fact("host key", "not confirmed yet: `sequin target check` shows it"),
            Some(keys) => keys.lines().for_each(|key| facts.fact("host key", key)),
        }
    }
}

impl Limits {
    /// Those that somebody has set, and how long things may take.
    pub(in super::super) fn in_words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.max_records_per_second.map(|records| format!("{records} records/s")));
        words.push(format!("{} s a statement", self.statement_timeout_seconds));
        words.push(format!("{} s for a lock", self.lock_timeout_seconds));
        words.extend(self.max_replica_lag_seconds.map(|lag| format!("replicas {lag} s behind")));
        words.extend(self.max_connections_percent.map(|percent| format!("{percent} % of the connections")));
        words.join(", ")
    }
}
