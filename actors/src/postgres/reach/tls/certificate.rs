//! What a certificate says of itself, in words.

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use rustls::pki_types::UnixTime;
use x509_cert::{
    der::{Decode, Encode},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// How many of a certificate's names are told.
const NAMES: usize = 5;

/// How much of a name is told, in characters: whoever made it can have written anything, at any length.
const NAME: usize = 100;

/// A certificate that could be read.
pub(super) struct Certificate(x509_cert::Certificate);

impl Certificate {
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        x509_cert::Certificate::from_der(der).ok().map(Self)
    }

    /// Whose it is, who signed it, and until when it is valid.
    pub(super) fn describe(der: &[u8]) -> String {
        Self::of(der).map_or_else(|| "one that can't be read".into(), |certificate| certificate.in_words())
    }

    pub(super) fn in_words(&self) -> String {
        let signed = if self.is_self_signed() { "itself".into() } else { self.issuer() };
        format!("{}, signed by {signed}, valid until {}", self.subject(), moment(self.not_after()))
    }

    /// Whose it is: by its subject, or, as modern ones have none, by its names.
    pub(super) fn subject(&self) -> String {
        let subject = self.0.tbs_certificate.subject.to_string();
        if subject.is_empty() { self.names_in_words().unwrap_or_else(|| "of nobody".into()) } else { told(&subject) }
    }

    pub(super) fn issuer(&self) -> String {
        told(&self.0.tbs_certificate.issuer.to_string())
    }

    pub(super) fn is_self_signed(&self) -> bool {
        self.0.tbs_certificate.subject == self.0.tbs_certificate.issuer
    }

    /// Whether it is in X.509's first version, which knows no names of hosts.
    pub(super) fn is_of_version_1(&self) -> bool {
        self.0.tbs_certificate.version == x509_cert::Version::V1
    }

    pub(super) fn not_before(&self) -> Duration {
        self.0.tbs_certificate.validity.not_before.to_unix_duration()
    }

    pub(super) fn not_after(&self) -> Duration {
        self.0.tbs_certificate.validity.not_after.to_unix_duration()
    }

    pub(super) fn is_valid_at(&self, now: UnixTime) -> bool {
        let now = now.as_secs();
        self.not_before().as_secs() <= now && now <= self.not_after().as_secs()
    }

    /// Its public key, in DER.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        self.0.tbs_certificate.subject_public_key_info.to_der().ok()
    }

    /// The hosts that it is for.
    pub(super) fn names_in_words(&self) -> Option<String> {
        let names = self.0.tbs_certificate.get::<SubjectAltName>().ok().flatten()?.1.0;
        let names: Vec<_> = names.iter().filter_map(host).collect();
        let more = names.len().saturating_sub(NAMES);
        let first = names.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
        match more {
            _ if first.is_empty() => None,
            0 => Some(first),
            more => Some(format!("{first} and {more} more")),
        }
    }
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(told(name.as_str())),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Without what would break a line.
fn told(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(NAME).collect()
}

/// A moment, as people read it.
pub(super) fn moment(since_epoch: Duration) -> String {
    let seconds = i64::try_from(since_epoch.as_secs()).ok();
    let moment: Option<DateTime<Utc>> = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    moment
        .map_or_else(|| "a time that can't be read".into(), |moment| moment.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}
