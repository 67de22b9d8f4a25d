//! The addresses of webhooks' hosts, without those that may not be called.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;

use crate::model::DeniedNetworks;

/// A host that may not be called.
#[derive(Debug, thiserror::Error)]
#[error("{0} is in a network that may not be connected to, as SEQUIN_DENY_TARGET_CIDRS says")]
pub(super) struct Denied(pub(super) String);

/// Resolves names as the system does.
pub(super) struct Resolver(DeniedNetworks);

impl Resolver {
    pub(super) fn new(denied: DeniedNetworks) -> Self {
        Self(denied)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let denied = self.0.clone();
        Box::pin(async move {
            // Whoever connects knows the port.
            let found: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> = found.iter().copied().filter(|address| !denied.deny(address.ip())).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(Denied(name.as_str().to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
