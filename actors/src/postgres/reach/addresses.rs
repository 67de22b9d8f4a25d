//! Which servers a target names, and which addresses their names have now.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{net::lookup_host, time::timeout};

use crate::{model::DeniedNetworks, postgres::error::Fault};

/// The most servers that a target may name.
const MOST_SERVERS: usize = 8;

/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One of the servers that a target names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// A name or an address, and a port.
    Network { host: String, port: u16 },
    /// The directory in which a server on this machine has its socket, and the port that is a part of the socket's name.
    Socket { directory: PathBuf, port: u16 },
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Network { host, port } => write!(f, "{host}:{port}"),
            Self::Socket { directory, port } => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

impl Server {
    /// Whether it was named by this address.
    pub(super) fn is_at(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network { host, .. } if host.parse() == Ok(address))
    }

    /// What `connection.host` names: servers separated by commas, with `port` for those that name none.
    pub(super) fn parse_all(hosts: &str, port: u16) -> Result<Vec<Self>, String> {
        let servers = hosts.split(',').map(|host| Self::parse(host.trim(), port)).collect::<Result<Vec<_>, _>>()?;
        if servers.len() > MOST_SERVERS {
            return Err(format!("takes at most {MOST_SERVERS} servers"));
        }
        Ok(servers)
    }

    fn parse(text: &str, port: u16) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Socket { directory: text.into(), port });
        }
        let is_address = text.parse::<Ipv6Addr>().is_ok();
        let (host, named) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => (host, rest.strip_prefix(':').or(none(rest))),
            None if is_address => (text, Some("")),
            None => text.split_once(':').map_or((text, Some("")), |(host, port)| (host, none(port).xor(Some(port)))),
            Some(_) => (text, None),
        };
        let port = match named {
            Some("") => Some(port),
            Some(named) => named.parse().ok().filter(|port| *port != 0),
            None => None,
        };
        let is_name = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "[]/@%".contains(c));
        match port {
            Some(port) if is_name => Ok(Self::Network { host: host.to_owned(), port }),
            _ => Err(format!(
                "{text:?} is no server: takes a name, an address, or the directory of a Unix socket, and several with commas \
                 between them, each perhaps with its port, as in db-1,db-2:6432,[::1]:5433"
            )),
        }
    }
}

/// Nothing, where there is nothing.
fn none(text: &str) -> Option<&str> {
    text.is_empty().then_some(text)
}

/// The addresses that a host has now and that may be connected to, in the order in which to try them.
///
/// What is returned is what has to be connected to: another look at the name might find another address.
pub(super) async fn resolve(host: &str, port: u16, denied: &DeniedNetworks) -> Result<Vec<SocketAddr>, Fault> {
    let found = match timeout(RESOLVE_TIMEOUT, lookup_host((host, port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(Fault::host_not_found(host, &error.to_string())),
        Err(_) => return Err(Fault::timed_out(&format!("looking up the address of {host}"))),
    };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(Fault::host_not_found(host, "it has no address"));
    }
    let (refused, allowed): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| denied.deny(address.ip()));
    if allowed.is_empty() {
        let refused: Vec<_> = refused.iter().map(SocketAddr::ip).collect();
        return Err(Fault::address_denied(host, &refused));
    }
    Ok(allowed)
}

/// Whether a socket of this machine may be used: it leads where the loopback address does.
pub(super) fn check_socket(server: &Server, denied: &DeniedNetworks) -> Result<(), Fault> {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    if denied.deny(loopback) { Err(Fault::address_denied(&server.to_string(), &[loopback])) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(hosts: &str) -> Result<Vec<String>, String> {
        Ok(Server::parse_all(hosts, 5432)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn servers_are_names_and_addresses_and_sockets_each_perhaps_with_a_port() {
        let hosts = "db-1, db-2.example.com:6432,10.0.0.1,[::1]:5433,[fd00::1],fd00::2,/var/run/postgresql";
        let expected = [
            "db-1:5432",
            "db-2.example.com:6432",
            "10.0.0.1:5432",
            "[::1]:5433",
            "[fd00::1]:5432",
            "[fd00::2]:5432",
            "/var/run/postgresql/.s.PGSQL.5432",
        ];
        assert_eq!(parsed(hosts), Ok(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn what_is_no_server_is_named() {
        for wrong in
            ["", "a,,b", "db:", "db:0", "db:x", "db:99999", "[::1", "[db]:1", "[::1]x", "a b", "u@db", ":1", "a/b"]
        {
            let refused = parsed(wrong).expect_err(wrong);
            assert!(refused.contains("is no server"), "{wrong}: {refused}");
        }
        assert!(parsed(&["db"; 9].join(",")).expect_err("too many").contains("at most 8"));
    }

    #[tokio::test]
    async fn a_name_of_which_every_address_is_denied_is_not_connected_to_and_the_addresses_are_named() {
        let denied = "127.0.0.0/8,::1".parse().expect("networks");
        let fault = resolve("localhost", 5432, &denied).await.expect_err("denied");
        assert_eq!(fault.code, "address_denied");
        assert!(fault.summary.contains("localhost") && fault.summary.contains("127.0.0.1"), "{fault}");
    }

    #[tokio::test]
    async fn of_several_addresses_only_those_that_are_denied_are_left_out() {
        let denied = "::1".parse().expect("networks");
        let allowed = resolve("localhost", 5432, &denied).await.expect("an address");
        assert_eq!(allowed, ["127.0.0.1:5432".parse().expect("an address")]);
    }

    #[tokio::test]
    async fn whatever_means_this_machine_is_denied_with_the_loopback_address() {
        let denied: DeniedNetworks = "127.0.0.0/8,::1,169.254.0.0/16".parse().expect("networks");
        for host in ["0.0.0.0", "::", "::ffff:127.0.0.1", "127.1", "64:ff9b::a9fe:a9fe", "2130706433"] {
            let fault = resolve(host, 5432, &denied).await.expect_err(host);
            assert_eq!(fault.code, "address_denied", "{host}: {fault}");
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_not_found() {
        let fault = resolve("nowhere.invalid", 5432, &DeniedNetworks::default()).await.expect_err("no address");
        assert_eq!(fault.code, "host_not_found", "{fault}");
        assert!(fault.summary.contains("nowhere.invalid"), "{fault}");
    }
}
