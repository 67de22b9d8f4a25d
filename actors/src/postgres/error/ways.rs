//! Faults on the way to a database: of addresses, of several servers, and of bastions.

use std::{fmt, net::IpAddr};

use super::{
    Fault,
    kinds::{Kind, NO_SUCH_HOST, kind},
};
use crate::postgres::error::Verdict::Target;

const ADDRESS_DENIED: Kind = kind(
    Target,
    "address_denied",
    "the operator of this service forbids connections to this network, as SEQUIN_DENY_TARGET_CIDRS says",
    "give a host with an address outside of it, or ask the operator to allow the network",
);

impl Fault {
    /// A host has no address.
    pub(in crate::postgres) fn host_not_found(host: &str, error: &str) -> Self {
        Self::new(NO_SUCH_HOST, None, format!("{host}: {error}"))
    }

    /// Nobody may connect to where a host is.
    pub(in crate::postgres) fn address_denied(host: &str, addresses: &[IpAddr]) -> Self {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Self::new(ADDRESS_DENIED, None, format!("{host} is at {}, which may not be connected to", addresses.join(", ")))
    }

    /// The same, as that of one server among others.
    pub(in crate::postgres) fn of(self, server: &dyn fmt::Display) -> Self {
        let Self { summary, .. } = self;
        Self { summary: format!("{server}: {summary}"), ..self }
    }

    /// Why none of several ways led there: what the one says that came furthest, and what happened on each.
    pub(in crate::postgres) fn of_all(faults: Vec<Self>) -> Self {
        let summaries: Vec<_> = faults.iter().map(|fault| fault.summary.as_str()).collect();
        let summary = summaries.join("; ");
        // The first of those that came as far.
        let furthest = faults.into_iter().rev().max_by_key(Self::progress);
        furthest.map_or_else(|| Self::internal("there was no way to try"), |fault| Self { summary, ..fault })
    }

    /// Whether a server knows us not, or not by what we showed.
    pub(in crate::postgres) fn is_of_credentials(&self) -> bool {
        self.sqlstate.as_deref().is_some_and(|sqlstate| sqlstate.starts_with("28"))
    }

    /// How far one came.
    fn progress(&self) -> u8 {
        match self.code {
            _ if self.sqlstate.is_some() => 3,
            "read_only" => 2,
            "host_not_found" | "address_denied" => 0,
            _ => 1,
        }
    }
}
