//! What every control store must do. A backend passes the whole suite, against the real thing.

use std::time::Duration;

use super::{Event, Revision, Store, StoreError, Watch};

async fn value(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    store.get(key).await.expect("an answer").map(|entry| entry.value)
}

fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict { .. }))
}

async fn next(watch: &mut dyn Watch) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    event.expect("an event within 20 s").expect("the store is there")
}

async fn told_until_current(watch: &mut dyn Watch) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        match next(watch).await {
            Event::Put(entry) => keys.push(entry.key),
            Event::Deleted { key } => panic!("{key} deleted before the watch is current"),
            Event::Current => return keys,
        }
    }
}

pub(super) async fn a_key_is_created_once(store: &dyn Store) {
    store.create("a/1", b"one".into()).await.expect("created");
    assert!(is_conflict(&store.create("a/1", b"two".into()).await));
    assert_eq!(value(store, "a/1").await.expect("a value"), b"one");
    assert_eq!(value(store, "a/2").await, None);
}

pub(super) async fn an_update_must_name_the_revision_that_is_there(store: &dyn Store) {
    let first = store.create("a/1", b"one".into()).await.expect("created");
    let second = store.update("a/1", b"two".into(), first).await.expect("updated");
    assert!(first < second);
    assert!(is_conflict(&store.update("a/1", b"three".into(), first).await));
    assert!(is_conflict(&store.update("a/9", b"three".into(), first).await));
    let entry = store.get("a/1").await.expect("an answer").expect("a value");
    assert_eq!((entry.value.as_slice(), entry.revision), (b"two".as_slice(), second));
}

pub(super) async fn a_deleted_key_may_be_created_again_at_a_higher_revision(store: &dyn Store) {
    let first = store.create("a/1", b"one".into()).await.expect("created");
    assert!(is_conflict(&store.delete("a/1", Some(Revision(first.0 + 1))).await));
    store.delete("a/1", Some(first)).await.expect("deleted");
    store.delete("a/1", None).await.expect("deleting what is not there is no error");
    assert_eq!(value(store, "a/1").await, None);
    assert!(store.create("a/1", b"two".into()).await.expect("created") > first);
    assert!(is_conflict(&store.update("a/1", b"three".into(), first).await));
}

pub(super) async fn a_put_writes_whatever_is_there(store: &dyn Store) {
    let first = store.put("s/1", b"one".into()).await.expect("put");
    let second = store.put("s/1", b"two".into()).await.expect("put");
    assert!(first < second);
    assert_eq!(value(store, "s/1").await.expect("a value"), b"two");
}

pub(super) async fn keys_are_listed_by_prefix_in_order_in_pages(store: &dyn Store) {
    for key in ["b/2", "a/1", "b/1", "b/3", "bb/1", "b", "c/1"] {
        store.create(key, key.into()).await.expect("created");
    }
    let keys = async |after, limit| {
        let entries = store.list("b/", after, limit).await.expect("a list");
        entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 10).await, ["b/1", "b/2", "b/3"]);
    assert_eq!(keys(None, 2).await, ["b/1", "b/2"]);
    assert_eq!(keys(Some("b/2"), 2).await, ["b/3"]);
}

pub(super) async fn a_watch_tells_what_is_there_and_then_what_changes(store: &dyn Store) {
    store.create("w/1", b"one".into()).await.expect("created");
    store.create("x/1", b"other".into()).await.expect("created");
    let mut watch = store.watch("w/").await.expect("a watch");
    assert_eq!(told_until_current(&mut *watch).await, ["w/1"]);
    store.put("x/1", b"still other".into()).await.expect("put");
    let revision = store.put("w/2", b"two".into()).await.expect("put");
    store.delete("w/1", None).await.expect("deleted");
    match next(&mut *watch).await {
        Event::Put(entry) => assert_eq!((entry.key.as_str(), entry.revision), ("w/2", revision)),
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&mut *watch).await, Event::Deleted { key: "w/1".into() });
}

pub(super) async fn a_watch_that_nobody_reads_for_long_still_tells_the_last_of_each_key(store: &dyn Store) {
    store.create("w/gone", b"here".into()).await.expect("created");
    let mut watch = store.watch("w/").await.expect("a watch");
    assert_eq!(told_until_current(&mut *watch).await, ["w/gone"]);
    for round in 0..3000u32 {
        store.put("w/busy", round.to_be_bytes().into()).await.expect("put");
    }
    store.delete("w/gone", None).await.expect("deleted");
    let (mut busy_is_last, mut gone_is_gone) = (false, false);
    while !(busy_is_last && gone_is_gone) {
        match next(&mut *watch).await {
            Event::Put(entry) if entry.key == "w/busy" => busy_is_last = entry.value == 2999u32.to_be_bytes(),
            Event::Deleted { key } => gone_is_gone = key == "w/gone",
            Event::Put(_) | Event::Current => {}
        }
    }
}

pub(super) async fn of_many_who_update_at_once_each_wins_in_turn(store: &dyn Store) {
    store.create("n", vec![0]).await.expect("created");
    let add_ten = async || {
        for _ in 0..10 {
            loop {
                let entry = store.get("n").await.expect("an answer").expect("a value");
                match store.update("n", vec![entry.value[0] + 1], entry.revision).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    tokio::join!(add_ten(), add_ten(), add_ten());
    assert_eq!(value(store, "n").await.expect("a value"), [30]);
}

/// Makes a test of each point of the contract; `$open` is a future of a fresh store.
macro_rules! suite {
    ($open:expr) => {
        $crate::store::contract::suite!($open;
            a_key_is_created_once,
            an_update_must_name_the_revision_that_is_there,
            a_deleted_key_may_be_created_again_at_a_higher_revision,
            a_put_writes_whatever_is_there,
            keys_are_listed_by_prefix_in_order_in_pages,
            a_watch_tells_what_is_there_and_then_what_changes,
            a_watch_that_nobody_reads_for_long_still_tells_the_last_of_each_key,
            of_many_who_update_at_once_each_wins_in_turn,
        );
    };
    ($open:expr; $($point:ident,)*) => {
        $(
            #[tokio::test]
            async fn $point() {
                let store = $open.await;
                $crate::store::contract::$point(&*store).await;
            }
        )*
    };
}
pub(crate) use suite;
