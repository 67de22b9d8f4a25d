//! Identifiers: each its own type, so that one can't stand where another belongs.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha1_smol::Sha1;
use uuid::{Builder, Uuid};

use super::FieldError;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A target: one customer's database.
    TargetId
);
uuid_id!(
    /// A consumer: one provider or sync, forwarded to one table.
    ConsumerId
);
uuid_id!(
    /// A sync: one customer's connection to a provider.
    SyncId
);
uuid_id!(
    /// A record, and the primary key of its row.
    SequinId
);

uuid_id!(
    /// A session: one life of a node.
    SessionId
);
uuid_id!(
    /// A provider's stream, as it was made: one that is deleted and made again, or exchanged for another, has another.
    StreamId
);
uuid_id!(
    /// A token of the Management API.
    TokenId
);
uuid_id!(
    /// An entry of the audit log. Their order is from the newest to the oldest.
    AuditId
);
uuid_id!(
    /// An incident.
    IncidentId
);
uuid_id!(
    /// A notice.
    NoticeId
);

impl TargetId {
    /// What stands among the targets for the duties of the cluster, which one node at a time has, as it has a target.
    pub const DUTIES: Self = Self(Uuid::max());

    /// A new id, in order of time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl ConsumerId {
    /// A new id, in order of time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl TokenId {
    /// A new id, in order of time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl NoticeId {
    /// A new id, in order of time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl AuditId {
    /// A new id for what happens now. It counts the time backwards, so that whoever reads in order reads the newest first.
    pub fn generate(now: DateTime<Utc>) -> Self {
        Self::at(now, Uuid::new_v4().into_bytes())
    }

    /// Before every entry that is older than `time`, and after those that are not.
    pub fn before(time: DateTime<Utc>) -> Self {
        Self::at(time, [0xff; 16])
    }

    /// 48 bits of milliseconds, 12 of microseconds, and the rest of `bytes`: a uuid of version 8, laid out like one of
    /// version 7 (<https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-8>), with the time left until its end.
    fn at(time: DateTime<Utc>, mut bytes: [u8; 16]) -> Self {
        let millis = !u64::try_from(time.timestamp_millis()).unwrap_or_default();
        let micros = 999 - (time.timestamp_subsec_micros() % 1000) as u16;
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&micros.to_be_bytes());
        Self(Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// The namespace of derived record ids; changing it would give every record a new row.
const RECORDS: Uuid = Uuid::from_u128(0x6f1b_7a52_0c5e_4c0e_9d53_8a1f_5e2c_7b10);

impl SequinId {
    /// The id of the record known by these three: the same for ever, on every node.
    ///
    /// A uuid v5 over their lengths and bytes, so that no two triples share a name.
    pub fn derive(sync: SyncId, collection_id: &str, upstream_id: &str) -> Self {
        let mut hash = Sha1::from(RECORDS.as_bytes());
        hash.update(sync.0.as_bytes());
        hash.update(&(collection_id.len() as u64).to_be_bytes());
        hash.update(collection_id.as_bytes());
        hash.update(upstream_id.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.digest().bytes()[..16]);
        Self(Builder::from_sha1_bytes(bytes).into_uuid())
    }
}

/// A position in a provider's stream: strictly increasing from 1; 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Idx(pub u64);

impl Idx {
    /// Before the first record of every stream.
    pub const START: Self = Self(0);

    /// As the `bigint` of the `updated_idx` column.
    pub fn as_bigint(self) -> i64 {
        i64::try_from(self.0).expect("a stream gives out fewer than 2^63 positions")
    }
}

impl fmt::Display for Idx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest slug.
const MAX_SLUG_BYTES: usize = 63;

/// A provider's slug, such as `hubspot`: `[a-z0-9][a-z0-9_-]{0,62}`.
///
/// It lies in place, because one comes with every record that is published.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Provider {
    /// The slug, and zeros behind it, which keep its order: no letter is less.
    bytes: [u8; MAX_SLUG_BYTES],
    length: u8,
}

impl Provider {
    /// Takes `slug` if it is one.
    pub fn parse(slug: &str) -> Result<Self, FieldError> {
        let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let rest = |b: &u8| first(b) || matches!(b, b'_' | b'-');
        match (slug.as_bytes(), u8::try_from(slug.len())) {
            (slug @ [head, tail @ ..], Ok(length))
                if slug.len() <= MAX_SLUG_BYTES && first(head) && tail.iter().all(rest) =>
            {
                let mut bytes = [0; MAX_SLUG_BYTES];
                bytes[..slug.len()].copy_from_slice(slug);
                Ok(Self { bytes, length })
            }
            _ => Err(FieldError::new(
                "provider",
                "takes 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter or digit",
            )),
        }
    }

    /// The slug.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length.into()]).expect("checked to be ASCII")
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Provider {
    type Error = FieldError;

    fn try_from(slug: String) -> Result<Self, Self::Error> {
        Self::parse(&slug)
    }
}

impl From<Provider> for String {
    fn from(provider: Provider) -> Self {
        provider.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_sequin_id_for_ever() {
        let sync = SyncId(Uuid::from_u128(7));
        let id = SequinId::derive(sync, "contact", "101");
        assert_eq!(id.to_string(), "42cfc972-87dd-5fae-9cd2-1bf1128d73a3");
    }

    #[test]
    fn no_two_triples_share_a_sequin_id_by_shifting_letters_between_fields() {
        let sync = SyncId(Uuid::from_u128(7));
        assert_ne!(SequinId::derive(sync, "ab", "c"), SequinId::derive(sync, "a", "bc"));
    }

    #[test]
    fn audit_ids_are_in_order_from_the_newest_to_the_oldest() {
        let at = |micros| DateTime::from_timestamp_micros(1_800_000_000_000_000 + micros).expect("a time");
        let times = [0, 1, 998, 999, 1000, 1001, 1_000_000_000_000_i64].map(at);
        for pair in times.windows(2) {
            let [older, newer] = [AuditId::generate(pair[0]), AuditId::generate(pair[1])];
            let line = AuditId::before(pair[1]);
            assert!(newer < line && line < older, "{pair:?}: {newer} {line} {older}");
            assert!(newer.to_string() < line.to_string() && line.to_string() < older.to_string());
        }
    }

    #[test]
    fn a_provider_is_a_slug() {
        for slug in ["hubspot", "9", "a_b-c", &"x".repeat(63)] {
            assert!(Provider::parse(slug).is_ok(), "{slug}");
        }
        for slug in ["", "-a", "_a", "HubSpot", "a.b", "a b", "é", &"x".repeat(64)] {
            assert!(Provider::parse(slug).is_err(), "{slug}");
        }
    }
}
