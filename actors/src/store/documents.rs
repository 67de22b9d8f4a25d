//! The documents in the store: where each lies, and how it is written down.
//!
//! MessagePack with named fields, behind a version. Secrets are sealed before they are written.

mod kinds;
mod names;

use std::{fmt::Display, marker::PhantomData, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Entry, Event, Keyring, KeyringError, Revision, Store, StoreError, Watch};

pub use names::Named;

/// The version that this code writes, and the highest it reads.
const VERSION: u8 = 1;

/// A document that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret in it can't be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Another resource has the name.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// It was written by a newer version of this program.
    #[error("{key} is of version {version}, but this node reads up to version {VERSION}: upgrade the node")]
    Newer {
        /// Where it lies.
        key: String,
        /// Its version.
        version: u8,
    },
    /// It is damaged.
    #[error("{key} can't be read: {message}")]
    Malformed {
        /// Where it lies.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A kind of document: where it lies, and what of it is written down.
pub trait Document: Sized + Send + Sync {
    /// The kind, which its keys begin with.
    const KIND: &'static str;
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

impl Documents {
    /// Documents in `store`, their secrets sealed by `keyring`.
    pub fn new(store: Arc<dyn Store>, keyring: Arc<Keyring>) -> Self {
        Self { store, keyring }
    }

    /// Reads a document.
    pub async fn get<T: Document>(&self, id: T::Id) -> Result<Option<Versioned<T>>, DocumentsError> {
        let entry = self.store.get(&key::<T>(id)).await?;
        entry.map(|entry| self.read(&entry)).transpose()
    }

    /// Reads the documents after `after`, in the order of their ids, at most `limit`.
    pub async fn list<T: Document>(
        &self,
        after: Option<T::Id>,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>, DocumentsError> {
        self.list_under(&prefix::<T>(), after, limit).await
    }

    /// Reads the documents that belong to `owner`, whose id theirs begin with, likewise.
    pub async fn list_of<T: Document>(
        &self,
        owner: impl Display,
        after: Option<T::Id>,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>, DocumentsError> {
        self.list_under(&format!("{}{owner}/", prefix::<T>()), after, limit).await
    }

    async fn list_under<T: Document>(
        &self,
        prefix: &str,
        after: Option<T::Id>,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>, DocumentsError> {
        let after = after.map(key::<T>);
        let entries = self.store.list(prefix, after.as_deref(), limit).await?;
        entries.iter().map(|entry| self.read(entry)).collect()
    }

    /// Reads all documents of a kind.
    pub async fn all<T: Named>(&self) -> Result<Vec<T>, DocumentsError> {
        const PAGE: usize = 1000;
        let mut all: Vec<T> = Vec::new();
        loop {
            let page = self.list::<T>(all.last().map(Named::id), PAGE).await?;
            let is_last = page.len() < PAGE;
            all.extend(page.into_iter().map(|found| found.value));
            if is_last {
                return Ok(all);
            }
        }
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

    /// Reads all documents that belong to `owner`.
    pub async fn all_of<T: Document>(&self, owner: impl Display) -> Result<Vec<Versioned<T>>, DocumentsError> {
        let entries = self.entries_of::<T>(owner).await?;
        entries.iter().map(|entry| self.read(entry)).collect()
    }

    /// Deletes all documents that belong to `owner`, whether they can be read or not.
    pub async fn delete_all_of<T: Document>(&self, owner: impl Display) -> Result<(), DocumentsError> {
        for entry in self.entries_of::<T>(owner).await? {
            self.store.delete(&entry.key, None).await?;
        }
        Ok(())
    }

    async fn entries_of<T: Document>(&self, owner: impl Display) -> Result<Vec<Entry>, DocumentsError> {
        const PAGE: usize = 1000;
        let prefix = format!("{}{owner}/", prefix::<T>());
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map(|entry| entry.key.as_str());
            let page = self.store.list(&prefix, after, PAGE).await?;
            let is_last = page.len() < PAGE;
            entries.extend(page);
            if is_last {
                return Ok(entries);
            }
        }
    }

    /// Watches all documents of a kind.
    pub async fn watch<T: Document>(&self) -> Result<DocumentWatch<T>, DocumentsError> {
        let watch = self.store.watch(&prefix::<T>()).await?;
        Ok(DocumentWatch { watch, documents: self.clone(), kind: PhantomData })
    }

    fn write<T: Document>(&self, value: &T) -> Vec<u8> {
        encode(value.to_stored(&self.keyring))
    }

    fn read<T: Document>(&self, entry: &Entry) -> Result<Versioned<T>, DocumentsError> {
        let value = T::from_stored(decode(entry)?, &self.keyring)?;
        Ok(Versioned { value, revision: entry.revision })
    }
}

/// What happened to the documents of a kind.
#[derive(Clone, Debug, PartialEq)]
pub enum DocumentEvent<T, Id> {
    /// It was there when the watch began, or was written since.
    Put(Id, Versioned<T>),
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
    /// Waits for the next event. A document that can't be read is an error, and the next call goes on after it.
    pub async fn next(&mut self) -> Result<DocumentEvent<T, T::Id>, DocumentsError> {
        Ok(match self.watch.next().await? {
            Event::Put(entry) => DocumentEvent::Put(id_of::<T>(&entry.key)?, self.documents.read(&entry)?),
            Event::Deleted { key } => DocumentEvent::Deleted(id_of::<T>(&key)?),
            Event::Current => DocumentEvent::Current,
        })
    }
}

fn prefix<T: Document>() -> String {
    format!("{}/", T::KIND)
}

fn key<T: Document>(id: T::Id) -> String {
    format!("{}/{id}", T::KIND)
}

fn id_of<T: Document>(key: &str) -> Result<T::Id, DocumentsError> {
    let id = key.strip_prefix(&prefix::<T>()).and_then(|id| id.parse().ok());
    id.ok_or_else(|| DocumentsError::Malformed { key: key.into(), message: "the key holds no id".into() })
}

fn encode<T: Serialize>(doc: T) -> Vec<u8> {
    rmp_serde::to_vec_named(&Wrapped { v: VERSION, doc }).expect("writing to memory can't fail")
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, DocumentsError> {
    let malformed = |error: rmp_serde::decode::Error| DocumentsError::Malformed {
        key: entry.key.clone(),
        message: error.to_string(),
    };
    let Version { v } = rmp_serde::from_slice(&entry.value).map_err(malformed)?;
    if v > VERSION {
        return Err(DocumentsError::Newer { key: entry.key.clone(), version: v });
    }
    let Wrapped { doc, .. } = rmp_serde::from_slice(&entry.value).map_err(malformed)?;
    Ok(doc)
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Utc};

    use super::*;
    use crate::{
        model::{Connection, Metadata, Secret, Target, TargetId, Tls},
        store::SqliteStore,
    };

    async fn documents() -> (tempfile::TempDir, Documents) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        (directory, Documents::new(Arc::new(store), Arc::new(keyring)))
    }

    fn target(name: &str) -> Target {
        Target {
            id: TargetId::generate(),
            name: name.into(),
            connection: Connection {
                host: "db.example.com".into(),
                port: 5432,
                database: "app".into(),
                username: "sequin".into(),
                password: Some(Secret::new("hunter2")),
                tls: Tls::default(),
            },
            pool_size: 4,
            metadata: Metadata::new(),
            created_at: Utc::now(),
            updated_at: Utc::now(),
        }
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_written_and_the_password_lies_sealed() {
        let (_directory, documents) = documents().await;
        let target = target("app");
        documents.create(&target, Utc::now()).await.expect("created");
        assert_eq!(documents.get::<Target>(target.id).await.expect("read").expect("there").value, target);
        let entry = documents.store.get(&key::<Target>(target.id)).await.expect("read").expect("there");
        assert!(!entry.value.windows(7).any(|window| window == b"hunter2"));
    }

    #[tokio::test]
    async fn a_name_is_taken_once_and_free_again_after_the_delete() {
        let (_directory, documents) = documents().await;
        let (first, second) = (target("app"), target("app"));
        let revision = documents.create(&first, Utc::now()).await.expect("created");
        let taken = documents.create(&second, Utc::now()).await;
        assert!(matches!(taken, Err(DocumentsError::NameTaken { .. })));
        assert_eq!(documents.id_of_name::<Target>("app").await.expect("read"), Some(first.id));
        documents.delete_named(&first, revision).await.expect("deleted");
        documents.create(&second, Utc::now()).await.expect("created");
    }

    #[tokio::test]
    async fn a_name_claimed_by_somebody_who_died_is_free_again_after_a_while() {
        let (_directory, documents) = documents().await;
        let (died, second) = (target("app"), target("app"));
        let long_ago = Utc::now() - TimeDelta::hours(1);
        let revision = documents.create(&died, long_ago).await.expect("created");
        documents.delete::<Target>(died.id, Some(revision)).await.expect("as if it had not been written");
        documents.create(&second, Utc::now()).await.expect("created");
    }

    #[tokio::test]
    async fn a_document_of_a_newer_version_is_refused_by_its_number() {
        let (_directory, documents) = documents().await;
        let target = target("app");
        let newer = rmp_serde::to_vec_named(&Wrapped { v: 9, doc: "unheard of" }).expect("bytes");
        documents.store.create(&key::<Target>(target.id), newer).await.expect("created");
        let read = documents.get::<Target>(target.id).await;
        assert!(matches!(read, Err(DocumentsError::Newer { version: 9, .. })));
    }
}
