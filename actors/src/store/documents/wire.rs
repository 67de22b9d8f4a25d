//! How a document is written down: MessagePack with named fields, behind a version; and what can't be read of it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Entry, KeyringError};

/// The version that this code writes, and the highest it reads.
const VERSION: u8 = 1;

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
    #[error("it is of version {0}, but this node reads up to version {VERSION}")]
    Newer(u8),
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
            Self::Newer(_) => "upgrade the node",
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

pub(super) fn encode<T: Serialize>(doc: T) -> Vec<u8> {
    rmp_serde::to_vec_named(&Wrapped { v: VERSION, doc }).expect("writing to memory can't fail")
}

pub(super) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, Unreadable> {
    let malformed = |error: rmp_serde::decode::Error| Unreadable::malformed(&entry.key, &error);
    let Version { v } = rmp_serde::from_slice(&entry.value).map_err(malformed)?;
    if v > VERSION {
        return Err(Unreadable { key: entry.key.clone(), cause: UnreadableCause::Newer(v) });
    }
    let Wrapped { doc, .. } = rmp_serde::from_slice(&entry.value).map_err(malformed)?;
    Ok(doc)
}
