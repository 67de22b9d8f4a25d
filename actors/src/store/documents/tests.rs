//! Documents, in a store of SQLite: written, read, named, renamed and deleted.

use std::collections::HashSet;

use chrono::{TimeDelta, Utc};
use uuid::Uuid;

use super::*;
use crate::{
    model::{
        Bastion, CollectionKey, CollectionVersion, Connection, Idx, Limits, Metadata, Secret, SyncId, Target, TargetId,
        Tls,
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
