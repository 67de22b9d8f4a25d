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
    pub fn is_of_credentials(&self) -> bool {
        self.sqlstate.as_deref().is_some_and(|sqlstate| sqlstate.starts_with("28"))
    }

    /// Whether it may come from a password, a key or a certificate that is another by now.
    pub fn may_be_of_old_settings(&self) -> bool {
        const OF_SETTINGS: [&str; 4] =
            ["bastion_auth_failed", "bastion_host_key", "host_key_unconfirmed", "client_certificate_refused"];
        self.is_of_credentials() || OF_SETTINGS.contains(&self.code)
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

const BASTION_UNREACHABLE: Kind = kind(
    Target,
    "bastion_unreachable",
    "no SSH server answers at the bastion's address, or a firewall turns us away",
    "check that the bastion runs, its host and port, and its firewall",
);
const BASTION_HOST_KEY: Kind = kind(
    Target,
    "bastion_host_key",
    "the bastion was set up anew, or something else pretends to be it",
    "ask whoever runs the bastion: if the key is really its own, set the target's connection.bastion.host_key to it",
);
const HOST_KEY_UNCONFIRMED: Kind = kind(
    Target,
    "host_key_unconfirmed",
    "the target does not say by which key its bastion is known, and nothing is told to a host that anybody could be",
    "compare the key with that of the bastion (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), and set the target's \
     connection.bastion.host_key to it",
);
const BASTION_AUTH_FAILED: Kind = kind(
    Target,
    "bastion_auth_failed",
    "the bastion does not know this user, or not by this key or password",
    "correct the user, the key or the password of connection.bastion, or add the key to the user's authorized_keys there",
);
const BASTION_REFUSED: Kind = kind(
    Target,
    "bastion_refused",
    "the bastion lets us in, and does not let us through to the database",
    "allow it there: AllowTcpForwarding in sshd_config, and permitopen and restrict in authorized_keys",
);
const UNREACHABLE_FROM_BASTION: Kind = kind(
    Target,
    "bastion_refused",
    "the bastion can't connect to the database: it does not run, its host or port are not right as seen from the bastion, or a \
     firewall is between the two",
    "check that the database runs, the target's host and port as the bastion sees them, and the database's firewall",
);
const BASTION_CLOSED: Kind = kind(
    Target,
    "bastion_closed",
    "the bastion, or something on the way to it, ended the connection",
    "nothing, if it passes: another one is made; else look at the bastion's log, and at MaxStartups and MaxSessions there",
);
const BASTION_ALGORITHMS: Kind = kind(
    Target,
    "bastion_algorithms",
    "the bastion only speaks algorithms that are broken, or we none of its own",
    "bring the bastion's SSH server up to date",
);

/// The bastion is named by `place`; `what` says what it does.
impl Fault {
    /// The same, of the host of a bastion.
    pub(in crate::postgres) fn of_the_bastion(self) -> Self {
        match self.code {
            "address_denied" => self.of(&"the bastion"),
            _ => Self::new(BASTION_UNREACHABLE, None, format!("the bastion {}", self.summary)),
        }
    }

    pub(in crate::postgres) fn bastion_unreachable(place: &str, what: &str) -> Self {
        Self::new(BASTION_UNREACHABLE, None, format!("the bastion {place} can't be reached: {what}"))
    }

    pub(in crate::postgres) fn bastion_host_key(place: &str, what: &str) -> Self {
        Self::new(BASTION_HOST_KEY, None, format!("the bastion {place} is not to be believed: {what}"))
    }

    pub(in crate::postgres) fn host_key_unconfirmed(place: &str, key: &str, fingerprint: &str) -> Self {
        let summary = format!("the bastion {place} shows the key {key} ({fingerprint}), which nobody has confirmed");
        Self::new(HOST_KEY_UNCONFIRMED, None, summary)
    }

    pub(in crate::postgres) fn bastion_auth_failed(place: &str, what: &str) -> Self {
        Self::new(BASTION_AUTH_FAILED, None, format!("the bastion {place} turns us away: {what}"))
    }

    pub(in crate::postgres) fn bastion_algorithms(place: &str, what: &str) -> Self {
        Self::new(BASTION_ALGORITHMS, None, format!("the bastion {place} is too old: {what}"))
    }

    pub(in crate::postgres) fn bastion_closed(place: &str, what: &str) -> Self {
        Self::new(BASTION_CLOSED, None, format!("the bastion {place} ended the connection: {what}"))
    }

    /// It was asked for a stream to `server`.
    pub(in crate::postgres) fn bastion_refused(place: &str, server: &str, what: &str) -> Self {
        Self::new(BASTION_REFUSED, None, format!("the bastion {place} does not let us through to {server}: {what}"))
    }

    /// It tried to connect to `server`, and could not.
    pub(in crate::postgres) fn unreachable_from_bastion(place: &str, server: &str) -> Self {
        Self::new(UNREACHABLE_FROM_BASTION, None, format!("the bastion {place} can't connect to {server}"))
    }

    /// It is there, and still tries to connect to `server`.
    pub(in crate::postgres) fn unanswered_behind_bastion(place: &str, server: &str) -> Self {
        let summary = format!("the bastion {place} can't connect to {server}: nothing answers there");
        Self::new(UNREACHABLE_FROM_BASTION, None, summary)
    }
}
