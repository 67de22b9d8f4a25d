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
        let with_port = |host: &str| match host.rsplit_once(':') {
            // An address of IPv6 stands in brackets where it has a port.
            Some((name, _)) if !name.contains(':') || name.ends_with(']') => host.to_owned(),
            Some(_) if !host.starts_with('[') => format!("[{host}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let hosts: Vec<_> = host.split(',').map(|host| with_port(host.trim())).collect();
        write!(f, "{username}@{}/{database}", hosts.join(","))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_host_is_shown_with_its_port() {
        for (host, shown) in [
            ("db", "u@db:5432/d"),
            ("db-1,db-2:6432", "u@db-1:5432,db-2:6432/d"),
            ("::1", "u@[::1]:5432/d"),
            ("[::1]:6432, [::2],a", "u@[::1]:6432,[::2]:5432,a:5432/d"),
            ("/run/postgresql", "u@/run/postgresql:5432/d"),
        ] {
            let connection =
                json!({"host": host, "port": 5432, "database": "d", "username": "u", "tls": {"mode": "prefer"}});
            let connection: Connection = serde_json::from_value(connection).expect("a connection");
            assert_eq!(connection.to_string(), shown);
        }
    }
}
