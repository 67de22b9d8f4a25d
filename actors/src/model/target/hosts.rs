//! The hosts of a connection: one, or several of which the first that takes writes is the one.

use std::net::{IpAddr, Ipv6Addr};

use super::{super::FieldError, Connection};

/// How many hosts may stand for one database: a primary and its replicas.
const MOST: usize = 16;

/// One place at which a database may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A host name, an address without brackets, or the directory of a Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl HostPort {
    /// Whether it is the directory of a Unix socket, on the node's own machine.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let whole = |host: &str| Ok(Self { host: host.into(), port: default_port });
        if text.is_empty() {
            return Err("has nothing where a host should be".into());
        }
        if text.len() > 255 || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("takes hosts of 1 to 255 bytes, without spaces".into());
        }
        if text.starts_with('/') || text.parse::<IpAddr>().is_ok() {
            return whole(text);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(|| format!("{text:?} lacks its ]"))?;
                address.parse::<Ipv6Addr>().map_err(|_| format!("{text:?} is no IPv6 address in brackets"))?;
                match (rest, rest.strip_prefix(':')) {
                    ("", _) => return whole(address),
                    (_, Some(port)) => (address, port),
                    _ => return Err(format!("{text:?} has more than a port after its ]")),
                }
            }
            None => match text.split_once(':') {
                None => return whole(text),
                Some(("", _)) => return Err(format!("{text:?} has a port and no host")),
                Some(parts) => parts,
            },
        };
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self { host: host.into(), port }),
            _ => Err(format!("{text:?} has no port from 1 to 65535 after its host")),
        }
    }
}

impl Connection {
    /// Where the database may be, in the order in which it is looked for.
    pub fn hosts(&self) -> Result<Vec<HostPort>, FieldError> {
        let hosts = self.host.split(',').map(|host| HostPort::parse(host.trim(), self.port));
        let hosts = hosts.collect::<Result<Vec<_>, _>>().and_then(|hosts| match hosts.len() {
            0..=MOST => Ok(hosts),
            more => Err(format!("takes at most {MOST} hosts, not {more}")),
        });
        hosts.map_err(|message| FieldError::new("connection.host", message))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Tls, *};

    fn hosts(host: &str) -> Result<Vec<(String, u16)>, String> {
        let connection = Connection {
            host: host.into(),
            port: 5432,
            database: "app".into(),
            username: "sequin".into(),
            password: None,
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        };
        let hosts = connection.hosts().map_err(|error| error.message)?;
        Ok(hosts.into_iter().map(|HostPort { host, port }| (host, port)).collect())
    }

    #[test]
    fn a_host_is_a_name_an_address_or_a_directory_each_perhaps_with_a_port_of_its_own() {
        let list = "db-1, db-2:6432,10.0.0.1:1,[::1]:5433,[fd00::1],::2,/var/run/postgresql";
        let expected = [
            ("db-1", 5432),
            ("db-2", 6432),
            ("10.0.0.1", 1),
            ("::1", 5433),
            ("fd00::1", 5432),
            ("::2", 5432),
            ("/var/run/postgresql", 5432),
        ];
        assert_eq!(hosts(list), Ok(expected.map(|(host, port)| (host.to_owned(), port)).into()));
    }

    #[test]
    fn what_is_no_host_is_refused_and_named() {
        for wrong in
            ["", "a,,b", "a:", "a:0", "a:65536", "a:b:c", ":5432", "[::1", "[a]:1", "[::1]5", "a b", "a\nb", "a:1:2"]
        {
            let error = hosts(wrong).expect_err(wrong);
            assert!(error.starts_with("has ") || error.starts_with("takes ") || error.starts_with('"'), "{error}");
        }
        assert_eq!(hosts(&["h"; 17].join(",")), Err("takes at most 16 hosts, not 17".into()));
    }
}
