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
mod tests {
    use std::collections::HashSet;

    use chrono::{TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;
    use crate::{
        model::{
            Bastion, CollectionKey, CollectionVersion, Connection, Idx, Limits, Metadata, Secret, SyncId, Target,
            TargetId, Tls,
        },
        store::SqliteStore,
    };

    pub(super) async fn documents() -> (tempfile::TempDir, Documents) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        (directory, Documents::new(Arc::new(store), Arc::new(keyring)))
    }

    pub(super) fn target(name: &str) -> Target {
        Target {
            id: TargetId::generate(),
            name: name.into(),
            connection: Connection {
                host: "db.example.com".into(),
                port: 5432,
                database: "app".into(),
                username: "sequin".into(),
                password: Some(Secret::new("hunter2")),
                password_file: None,
                tls: Tls { client_key_pem: Some(Secret::new("hunter2")), ..Tls::default() },
                bastion: Some(Bastion {
                    host: "bastion.example.com".into(),
                    port: 22,
                    username: "tunnel".into(),
                    private_key: Some(Secret::new("hunter2")),
                    passphrase: Some(Secret::new("hunter2")),
                    password: Some(Secret::new("hunter2")),
                    host_key: Some("ssh-ed25519 AAAA".into()),
                    trust_on_first_use: false,
                }),
            },
            pool_size: 4,
            limits: Limits::default(),
            metadata: Metadata::new(),
            created_at: Utc::now(),
            updated_at: Utc::now(),
        }
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_written_and_secrets_lie_sealed() {
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
    async fn a_resource_that_is_renamed_gives_its_name_back_and_takes_none_that_is_taken() {
        let (_directory, documents) = documents().await;
        let (first, second) = (target("app"), target("other"));
        let revision = documents.create(&first, Utc::now()).await.expect("created");
        documents.create(&second, Utc::now()).await.expect("created");
        let renamed = |name: &str| Target { name: name.into(), ..first.clone() };
        let update = async |to: &Target, at| documents.update_named(&first, to, at, Utc::now()).await;
        assert!(matches!(update(&renamed("other"), revision).await, Err(DocumentsError::NameTaken { .. })));
        let stale = update(&renamed("main"), Revision(revision.0 + 100)).await;
        assert!(matches!(stale, Err(DocumentsError::Store(StoreError::Conflict { .. }))));
        documents.create(&target("main"), Utc::now()).await.expect("who was refused has not kept the name");
        update(&renamed("third"), revision).await.expect("renamed");
        assert_eq!(documents.id_of_name::<Target>("third").await.expect("read"), Some(first.id));
        documents.create(&target("app"), Utc::now()).await.expect("free again");
    }

    #[tokio::test]
    async fn of_two_who_rename_a_resource_alike_the_one_who_is_refused_takes_its_name_not_away() {
        let (_directory, documents) = documents().await;
        let before = target("app");
        let revision = documents.create(&before, Utc::now()).await.expect("created");
        let after = Target { name: "main".into(), ..before.clone() };
        documents.update_named(&before, &after, revision, Utc::now()).await.expect("renamed");
        let late = documents.update_named(&before, &after, revision, Utc::now()).await;
        assert!(matches!(late, Err(DocumentsError::Store(StoreError::Conflict { .. }))));
        assert_eq!(documents.id_of_name::<Target>("main").await.expect("read"), Some(before.id));
    }

    #[tokio::test]
    async fn a_name_claimed_by_somebody_who_died_is_free_again_after_a_while_also_if_the_clock_was_set_back() {
        let (_directory, documents) = documents().await;
        for (name, then) in [("one", -TimeDelta::hours(1)), ("two", TimeDelta::days(365))] {
            let (died, second) = (target(name), target(name));
            let revision = documents.create(&died, Utc::now() + then).await.expect("created");
            documents.delete::<Target>(died.id, Some(revision)).await.expect("as if it had not been written");
            documents.create(&second, Utc::now()).await.expect("created");
        }
    }

    #[tokio::test]
    async fn what_is_written_while_everything_is_deleted_is_left_alone() {
        let (_directory, documents) = documents().await;
        let sync = SyncId(Uuid::from_u128(1));
        let id = |collection: &str| CollectionKey::of(sync, collection);
        let write = async |collection: &str| {
            let version = CollectionVersion::beginning(collection, 1, Idx(1));
            documents.put(id(collection), &version).await.expect("written");
        };
        let delete = async |collection: &str| {
            documents.delete::<CollectionVersion>(id(collection), None).await.expect("deleted");
        };
        let prefix = prefix_of::<CollectionVersion>(sync);
        for collection in ["stays", "goes", "went", "comes back"] {
            write(collection).await;
        }
        let listed = documents.entries_under(&prefix).await.expect("a list");
        write("stays").await;
        delete("went").await;
        delete("comes back").await;
        write("comes back").await;
        documents.delete_as_they_were(listed).await.expect("deleted");
        let left = documents.entries_under(&prefix).await.expect("a list");
        let left: HashSet<_> = left.into_iter().map(|entry| entry.key).collect();
        assert_eq!(left, ["stays", "comes back"].map(|collection| key::<CollectionVersion>(id(collection))).into());
    }

    #[tokio::test]
    async fn a_document_that_cannot_be_read_is_told_for_what_it_is_and_hides_no_other() {
        let (_directory, documents) = documents().await;
        let (readable, newer, sealed) = (target("a"), target("b"), target("c"));
        documents.create(&readable, Utc::now()).await.expect("created");
        // A map of v, which is 9, and doc, which is nil.
        documents.store.create(&key::<Target>(newer.id), b"\x82\xa1v\x09\xa3doc\xc0".into()).await.expect("created");
        let other_key = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let elsewhere = Documents::new(Arc::clone(&documents.store), Arc::new(other_key));
        elsewhere.create(&sealed, Utc::now()).await.expect("created");

        let is_of_version_9 = |unreadable: &Unreadable| unreadable.cause == UnreadableCause::Newer { is: 9, reads: 1 };
        match documents.get::<Target>(newer.id).await {
            Err(DocumentsError::Unreadable(unreadable)) => assert!(is_of_version_9(&unreadable), "{unreadable}"),
            other => panic!("{other:?}"),
        }
        let all = documents.all::<Target>().await.expect("a list");
        let listed = documents.list::<Target>(None, 10).await.expect("a list");
        assert_eq!(listed.len(), 3);
        let mut watch = documents.watch::<Target>().await.expect("a watch");
        for _ in 0..3 {
            match watch.next().await.expect("an event") {
                DocumentEvent::Put(id, _) => assert_eq!(id, readable.id),
                DocumentEvent::Unreadable(id, unreadable) if id == newer.id => assert!(is_of_version_9(&unreadable)),
                DocumentEvent::Unreadable(id, unreadable) => {
                    assert_eq!((id, unreadable.id()), (sealed.id, sealed.id.to_string().as_str()));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(watch.next().await.expect("an event"), DocumentEvent::Current);
        let (found, unreadable): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        assert_eq!((found, unreadable.len()), (vec![Ok(readable)], 2));
    }

    #[tokio::test]
    async fn a_store_knows_the_key_that_its_secrets_are_sealed_under() {
        let (_directory, documents) = documents().await;
        documents.check_key().await.expect("the first key is the right one");
        documents.check_key().await.expect("and stays so");
        let other_key = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let elsewhere = Documents::new(Arc::clone(&documents.store), Arc::new(other_key));
        assert!(matches!(elsewhere.check_key().await, Err(DocumentsError::WrongKey)));
    }
}
