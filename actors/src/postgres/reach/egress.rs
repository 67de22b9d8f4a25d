//! What a node may do to get to a database: where it connects to, and which files it reads.

use std::path::PathBuf;

use crate::model::{DeniedNetworks, NetworkError, parse_network};

/// How a node gets out to customers' databases.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Where it doesn't connect to, whatever a target says.
    pub denied: DeniedNetworks,
    /// The directory in which a target may name a file with its password; `None` where none may.
    pub secrets_directory: Option<PathBuf>,
    /// The addresses that databases see it come from, to be shown to those who have a firewall.
    pub addresses: Vec<String>,
}

impl Egress {
    /// Addresses and networks to be shown, separated by commas.
    pub fn parse_addresses(text: &str) -> Result<Vec<String>, NetworkError> {
        let addresses: Vec<_> = text.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
        addresses.iter().try_for_each(|address| parse_network(address).map(drop))?;
        Ok(addresses.into_iter().map(ToOwned::to_owned).collect())
    }
}
