//! How a document is written down: MessagePack with named fields, behind the version of its kind; and what can't be read
//! of it.
//!
//! While a cluster is upgraded, nodes of two releases read and write the same documents. A field that is missing is taken
//! for its default (`#[serde(default)]`), and one that is not known is passed over, and lost if the document is written
//! again: so a field that may be lost is just added. One that may not, or a value that an older release can't read, such as
//! a new variant of an enum, raises the version of the kind ([`Document::VERSION`](super::Document::VERSION)): an older node
//! then leaves the document alone, and says that it has to be upgraded. Only what is put, whatever is there, it writes over:
//! what was observed, by the one who observes now.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Entry, KeyringError};

/// The version that every kind begins with.
pub(super) const FIRST: u8 = 1;

/// A document that is there, and can't be read. It is no reason to take it for deleted, or to do without any other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} can't be read: {cause}: {}", .cause.fix())]
pub struct Unreadable {
    /// Where it lies: its kind and its id.
    pub key: String,
    /// What is wrong with it.
    pub cause: UnreadableCause,
}

/// Why a document can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableCause {
    /// It was written by a newer version of this program.
    #[error("it is of version {is}, but this node reads up to version {reads}")]
    Newer {
        /// Its version.
        is: u8,
        /// The highest that can be read.
        reads: u8,
    },
    /// A secret in it can't be opened.
    #[error("{0}")]
    Sealed(KeyringError),
    /// It is damaged.
    #[error("it is damaged ({0})")]
    Malformed(String),
}

impl Unreadable {
    pub(super) fn malformed(key: &str, what: &impl ToString) -> Self {
        Self { key: key.into(), cause: UnreadableCause::Malformed(what.to_string()) }
    }

    /// The id that it is known by, within its owner if it has one.
    pub fn id(&self) -> &str {
        self.key.rsplit_once('/').map_or(self.key.as_str(), |(_, id)| id)
    }
}

impl UnreadableCause {
    /// What to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Newer { .. } => "upgrade the node",
            Self::Sealed(_) => "start the node with the key that it was sealed under",
            Self::Malformed(_) => "restore the control store from a backup",
        }
    }
}

/// What stands in the store for every document.
#[derive(Serialize, Deserialize)]
struct Wrapped<T> {
    v: u8,
    doc: T,
}

/// The part of it that every version of this program can read.
#[derive(Deserialize)]
struct Version {
    v: u8,
}

pub(super) fn encode<T: Serialize>(version: u8, doc: T) -> Vec<u8> {
    rmp_serde::to_vec_named(&Wrapped { v: version, doc }).expect("writing to memory can't fail")
}

pub(super) fn decode<T: DeserializeOwned>(version: u8, entry: &Entry) -> Result<T, Unreadable> {
    let malformed = |error: rmp_serde::decode::Error| Unreadable::malformed(&entry.key, &error);
    let Version { v } = rmp_serde::from_slice(&entry.value).map_err(malformed)?;
    if v > version {
        let cause = UnreadableCause::Newer { is: v, reads: version };
        return Err(Unreadable { key: entry.key.clone(), cause });
    }
    let Wrapped { doc, .. } = rmp_serde::from_slice(&entry.value).map_err(malformed)?;
    Ok(doc)
}
