//! The documents in the store: where each lies, and what can be done with it.
//!
//! Secrets are sealed before they are written. One that can't be read is told apart from one that is not there, and
//! stands in nobody's way: a list goes on after it, and so does a watch.

mod audit_log;
mod key_check;
mod kinds;
mod names;
mod only_one;
mod rotation;
#[cfg(test)]
mod skew;
mod wire;

use std::{fmt::Display, marker::PhantomData, str::FromStr, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use self::wire::{decode, encode};
use super::{Entry, Event, Keyring, KeyringError, Revision, Store, StoreError, Watch};

pub use names::Named;
pub use only_one::OnlyOne;
pub use rotation::Resealed;
pub use wire::{Unreadable, UnreadableCause};

/// A document that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is there, and can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The keyring is not the one of this store.
    #[error("the secrets in the control store were sealed under another encryption key")]
    WrongKey,
    /// Another resource has the name.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
}

/// A kind of document: where it lies, and what of it is written down.
pub trait Document: Sized + Send + Sync {
    /// The kind, which its keys begin with.
    const KIND: &'static str;
    /// The version that is written, and the highest that is read. `wire.rs` says when it has to be raised.
    const VERSION: u8 = wire::FIRST;
    /// What a document is known by.
    type Id: Copy + Display + FromStr + Send + Sync;
    /// What is written down.
    type Stored: Serialize + DeserializeOwned + Send;

    /// As it is written down, its secrets sealed.
    fn to_stored(&self, keyring: &Keyring) -> Self::Stored;
    /// As it was before it was written down.
    fn from_stored(stored: Self::Stored, keyring: &Keyring) -> Result<Self, KeyringError>;
}

/// A document, and the revision that a change to it has to name.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned<T> {
    /// The document.
    pub value: T,
    /// Its revision.
    pub revision: Revision,
}

/// The typed view of a store.
#[derive(Clone)]
pub struct Documents {
    store: Arc<dyn Store>,
    keyring: Arc<Keyring>,
}

impl Documents {
    /// Documents in `store`, their secrets sealed by `keyring`.
    pub fn new(store: Arc<dyn Store>, keyring: Arc<Keyring>) -> Self {
        Self { store, keyring }
    }

    /// Reads a document.
    pub async fn get<T: Document>(&self, id: T::Id) -> Result<Option<Versioned<T>>, DocumentsError> {
        let entry = self.store.get(&key::<T>(id)).await?;
        Ok(entry.map(|entry| self.read(&entry)).transpose()?)
    }

    /// Reads the documents after `after`, in the order of their ids, at most `limit`, those that can't be read included.
    pub async fn list<T: Document>(
        &self,
        after: Option<T::Id>,
        limit: usize,
    ) -> Result<Vec<Result<Versioned<T>, Unreadable>>, DocumentsError> {
        self.list_under(&prefix::<T>(), after, limit).await
    }

    /// Reads the documents that belong to `owner`, whose id theirs begin with, likewise.
    pub async fn list_of<T: Document>(
        &self,
        owner: impl Display,
        after: Option<T::Id>,
        limit: usize,
    ) -> Result<Vec<Result<Versioned<T>, Unreadable>>, DocumentsError> {
        self.list_under(&prefix_of::<T>(owner), after, limit).await
    }

    /// Reads all documents of a kind, those that can't be read included.
    pub async fn all<T: Document>(&self) -> Result<Vec<Result<T, Unreadable>>, DocumentsError> {
        let found = self.all_versioned::<T>().await?.into_iter();
        Ok(found.map(|found| found.map(|found| found.value)).collect())
    }

    /// Reads all documents of a kind with their revisions, those that can't be read included.
    pub async fn all_versioned<T: Document>(&self) -> Result<Vec<Result<Versioned<T>, Unreadable>>, DocumentsError> {
        let entries = self.entries_under(&prefix::<T>()).await?;
        Ok(entries.iter().map(|entry| self.read(entry)).collect())
    }

    /// Reads all documents that belong to `owner`, those that can't be read included.
    pub async fn all_of<T: Document>(
        &self,
        owner: impl Display,
    ) -> Result<Vec<Result<Versioned<T>, Unreadable>>, DocumentsError> {
        let entries = self.entries_under(&prefix_of::<T>(owner)).await?;
        Ok(entries.iter().map(|entry| self.read(entry)).collect())
    }

    /// Writes a document that must not be there.
    pub async fn insert<T: Document>(&self, id: T::Id, value: &T) -> Result<Revision, DocumentsError> {
        Ok(self.store.create(&key::<T>(id), self.write(value)).await?)
    }

    /// Writes a document that must be at `revision`.
    pub async fn update<T: Document>(
        &self,
        id: T::Id,
        value: &T,
        revision: Revision,
    ) -> Result<Revision, DocumentsError> {
        Ok(self.store.update(&key::<T>(id), self.write(value), revision).await?)
    }

    /// Writes a document, whatever is there: for what has one writer.
    pub async fn put<T: Document>(&self, id: T::Id, value: &T) -> Result<Revision, DocumentsError> {
        Ok(self.store.put(&key::<T>(id), self.write(value)).await?)
    }

    /// Deletes a document; with a revision, only if it is at that one.
    pub async fn delete<T: Document>(&self, id: T::Id, revision: Option<Revision>) -> Result<(), DocumentsError> {
        Ok(self.store.delete(&key::<T>(id), revision).await?)
    }

    /// Deletes all documents that belong to `owner`, whether they can be read or not. What somebody writes meanwhile stays:
    /// it is none of those that were to go.
    pub async fn delete_all_of<T: Document>(&self, owner: impl Display) -> Result<(), DocumentsError> {
        let entries = self.entries_under(&prefix_of::<T>(owner)).await?;
        self.delete_as_they_were(entries).await
    }

    async fn delete_as_they_were(&self, entries: Vec<Entry>) -> Result<(), DocumentsError> {
        for Entry { key, revision, .. } in entries {
            match self.store.delete(&key, Some(revision)).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Watches all documents of a kind.
    pub async fn watch<T: Document>(&self) -> Result<DocumentWatch<T>, DocumentsError> {
        let watch = self.store.watch(&prefix::<T>()).await?;
        Ok(DocumentWatch { watch, documents: self.clone(), kind: PhantomData })
    }

    async fn list_under<T: Document>(
        &self,
        prefix: &str,
        after: Option<T::Id>,
        limit: usize,
    ) -> Result<Vec<Result<Versioned<T>, Unreadable>>, DocumentsError> {
        let after = after.map(key::<T>);
        let entries = self.store.list(prefix, after.as_deref(), limit).await?;
        Ok(entries.iter().map(|entry| self.read(entry)).collect())
    }

    async fn entries_under(&self, prefix: &str) -> Result<Vec<Entry>, DocumentsError> {
        // All of them are wanted: few pages are faster than many.
        const PAGE: usize = 10_000;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map(|entry| entry.key.as_str());
            let page = self.store.list(prefix, after, PAGE).await?;
            let is_last = page.len() < PAGE;
            entries.extend(page);
            if is_last {
                return Ok(entries);
            }
        }
    }

    fn write<T: Document>(&self, value: &T) -> Vec<u8> {
        encode(T::VERSION, value.to_stored(&self.keyring))
    }

    fn read<T: Document>(&self, entry: &Entry) -> Result<Versioned<T>, Unreadable> {
        let sealed = |error| Unreadable { key: entry.key.clone(), cause: UnreadableCause::Sealed(error) };
        let value = T::from_stored(decode(T::VERSION, entry)?, &self.keyring).map_err(sealed)?;
        Ok(Versioned { value, revision: entry.revision })
    }
}

/// What happened to the documents of a kind.
#[derive(Clone, Debug, PartialEq)]
pub enum DocumentEvent<T, Id> {
    /// It was there when the watch began, or was written since.
    Put(Id, Versioned<T>),
    /// So it was too, but it can't be read.
    Unreadable(Id, Unreadable),
    /// It was deleted.
    Deleted(Id),
    /// Everything that was there when the watch began has been told.
    Current,
}

/// A watch over the documents of a kind.
pub struct DocumentWatch<T> {
    watch: Box<dyn Watch>,
    documents: Documents,
    kind: PhantomData<fn() -> T>,
}

impl<T: Document> DocumentWatch<T> {
    /// Waits for the next event. A key that holds no id is an error, and the next call goes on after it.
    pub async fn next(&mut self) -> Result<DocumentEvent<T, T::Id>, DocumentsError> {
        Ok(match self.watch.next().await? {
            Event::Put(entry) => {
                let id = id_of::<T>(&entry.key)?;
                match self.documents.read(&entry) {
                    Ok(found) => DocumentEvent::Put(id, found),
                    Err(unreadable) => DocumentEvent::Unreadable(id, unreadable),
                }
            }
            Event::Deleted { key } => DocumentEvent::Deleted(id_of::<T>(&key)?),
            Event::Current => DocumentEvent::Current,
        })
    }
}

fn prefix<T: Document>() -> String {
    format!("{}/", T::KIND)
}

fn prefix_of<T: Document>(owner: impl Display) -> String {
    format!("{}{owner}/", prefix::<T>())
}

fn key<T: Document>(id: T::Id) -> String {
    format!("{}/{id}", T::KIND)
}

fn id_of<T: Document>(key: &str) -> Result<T::Id, Unreadable> {
    let id = key.strip_prefix(&prefix::<T>()).and_then(|id| id.parse().ok());
    id.ok_or_else(|| Unreadable::malformed(key, &"its key holds no id"))
}

#[cfg(test)]
mod tests;
