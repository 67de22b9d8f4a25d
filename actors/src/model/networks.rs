//! Networks that nobody may make us connect to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Networks that no database, bastion or webhook may be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedNetworks(Vec<IpNet>);

/// What stands for no network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no network such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError(String);

/// An address is a network of its own.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| NetworkError(text.to_owned()))
}

impl DeniedNetworks {
    /// Nobody is denied.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// These, and others too.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Whether nobody may connect there. An IPv4 address is the same one within IPv6, also where a gateway translates it, and
    /// the address of no host leads to this one.
    pub fn deny(&self, address: IpAddr) -> bool {
        let address = match address.to_canonical() {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        let translated = match address {
            IpAddr::V6(address) => translated(address),
            IpAddr::V4(_) => None,
        };
        self.0
            .iter()
            .any(|network| network.contains(&address) || translated.is_some_and(|inner| network.contains(&inner)))
    }
}

/// The IPv4 address that a gateway makes of one of `64:ff9b::/96` (RFC 6052).
fn translated(address: Ipv6Addr) -> Option<IpAddr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into())
}

/// Link-local addresses, and those at which clouds tell a machine its secrets.
impl Default for DeniedNetworks {
    fn default() -> Self {
        let host = |address: IpAddr| IpNet::from(address);
        let link_local = ["169.254.0.0/16", "fe80::/10"].map(|network| network.parse().expect("a network"));
        let metadata = [
            host(Ipv4Addr::new(100, 100, 100, 200).into()),
            host(Ipv4Addr::new(168, 63, 129, 16).into()),
            host(Ipv4Addr::new(192, 0, 0, 192).into()),
            host(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into()),
        ];
        Self(link_local.into_iter().chain(metadata).collect())
    }
}

/// Networks, separated by commas; an empty text for none.
impl FromStr for DeniedNetworks {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty());
        networks.map(parse_network).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(networks: &DeniedNetworks, address: &str) -> bool {
        networks.deny(address.parse().expect("an address"))
    }

    #[test]
    fn by_default_nobody_connects_to_link_local_and_metadata_addresses_in_whatever_form() {
        let networks = DeniedNetworks::default();
        for denied in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200"] {
            assert!(deny(&networks, denied), "{denied}");
        }
        for allowed in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "1.1.1.1"] {
            assert!(!deny(&networks, allowed), "{allowed}");
        }
    }

    #[test]
    fn networks_are_given_by_commas_and_what_is_none_is_named() {
        let networks: DeniedNetworks = "10.0.0.0/8, 127.0.0.1,fd00::/8".parse().expect("networks");
        let denied = ["10.1.2.3", "127.0.0.1", "fd00::1"].map(|address| deny(&networks, address));
        let allowed = ["127.0.0.2", "169.254.169.254"].map(|address| deny(&networks, address));
        assert_eq!((denied, allowed), ([true; 3], [false; 2]));
        assert!(!deny(&"".parse().expect("none"), "169.254.169.254"));
        assert_eq!("10.0.0.0/8,nets".parse::<DeniedNetworks>(), Err(NetworkError("nets".into())));
    }
}
