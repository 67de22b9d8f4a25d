//! The store of a cluster against real servers: what every store must do, and what becomes of it when servers fail.

use std::time::Instant;

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    jetstream::tests::{Nats, connect},
    store::{Event, contract},
};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(40);

/// A store on a server of its own.
struct Fixture {
    _nats: Nats,
    store: JetStreamStore,
}

impl Fixture {
    async fn open() -> Self {
        let nats = Nats::start();
        let store = open(&nats).await;
        Self { _nats: nats, store }
    }
}

impl std::ops::Deref for Fixture {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

async fn open(nats: &Nats) -> JetStreamStore {
    JetStreamStore::open(connect(nats, "c").await).await.expect("a store")
}

/// Asks the server for something of the stream below the bucket.
async fn ask(store: &JetStreamStore, what: &str, with: Value) -> Value {
    let Bucket { connection, stream, .. } = &*store.bucket;
    connection.ask(&format!("{what}.{stream}"), &with).await.expect("an answer")
}

/// The number of the server that leads the stream.
async fn leader(store: &JetStreamStore) -> usize {
    let info = ask(store, "STREAM.INFO", json!({})).await;
    let name = info["cluster"]["leader"].as_str().expect("a leader");
    name.trim_start_matches('n').parse().expect("a number")
}

/// Waits until the watch has told this of the key.
async fn until_told(watch: &mut dyn Watch, key: &str, value: Option<&[u8]>) {
    let told = async {
        loop {
            match watch.next().await.expect("the watch goes on") {
                Event::Put(entry) if entry.key == key && Some(entry.value.as_slice()) == value => return,
                Event::Deleted { key: gone } if gone == key && value.is_none() => return,
                _ => {}
            }
        }
    };
    timeout(DEADLINE, told).await.unwrap_or_else(|_| panic!("{key} is not told to be {value:?}"));
}

async fn until_current(watch: &mut dyn Watch) {
    let current = async { while watch.next().await.expect("an event") != Event::Current {} };
    timeout(DEADLINE, current).await.expect("the watch becomes current");
}

/// Waits until the store says that it is lost.
async fn until_lost(store: &JetStreamStore) {
    let begun = Instant::now();
    while !matches!(store.get("a").await, Err(StoreError::Lost(_))) {
        assert!(begun.elapsed() < DEADLINE, "the store does not notice that it is lost");
        sleep(Duration::from_millis(50)).await;
    }
}

contract::suite!(Fixture::open());

#[tokio::test]
async fn a_long_list_is_complete_and_in_order_whether_all_of_it_is_asked_for_or_a_page() {
    let fixture = Fixture::open().await;
    let keys: Vec<String> = (0..1000).map(|number| format!("a/{number:04}")).collect();
    let create = async |key: &String| fixture.create(key, key.clone().into()).await.expect("created");
    stream::iter(&keys).map(create).buffer_unordered(64).collect::<Vec<_>>().await;
    for key in &keys[600..650] {
        fixture.delete(key, None).await.expect("deleted");
    }
    let there = [&keys[..600], &keys[650..]].concat();
    let listed = async |after: Option<&str>, limit| {
        let entries = fixture.list("a/", after, limit).await.expect("a list");
        assert!(entries.iter().all(|entry| entry.value == entry.key.as_bytes()), "each has its value");
        entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 5000).await, there);
    assert_eq!(listed(None, 700).await, there[..700]);
    assert_eq!(listed(Some("a/0099"), 600).await, there[100..700]);
    assert_eq!(listed(Some("a/0590"), 20).await, there[591..611]);
}

#[tokio::test]
async fn nodes_that_open_the_store_at_once_open_the_same_one() {
    let nats = Nats::start_cluster();
    let (one, two, three) = tokio::join!(open(&nats), open(&nats), open(&nats));
    one.create("a/1", vec![1]).await.expect("created");
    for store in [&one, &two, &three] {
        assert_eq!(store.get("a/1").await.expect("an answer").expect("there").value, [1]);
        store.bucket.check().await.expect("it is the one that was opened");
    }
    assert_eq!(ask(&one, "STREAM.INFO", json!({})).await["config"]["num_replicas"], 3);
    contract::of_many_who_update_at_once_each_wins_in_turn(&two).await;
}

/// Writes a number where nobody else does. While nobody leads for long it is not known whether that happened: then what is
/// there tells.
async fn write_once(store: &JetStreamStore, number: u64, revision: Revision) -> Revision {
    loop {
        match store.update("n/1", number.to_be_bytes().into(), revision).await {
            Ok(revision) => return revision,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("it is refused: {error}"),
        }
        match store.get("n/1").await {
            Ok(Some(entry)) if entry.value == number.to_be_bytes() => return entry.revision,
            Ok(Some(entry)) => assert_eq!(entry.revision, revision),
            Ok(None) => panic!("it is gone"),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    }
}

/// The only writer of a key is never told that somebody else wrote it, though he sends again what was not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_the_loss_of_leaders_each_write_happens_once_and_a_watch_goes_on() {
    let mut nats = Nats::start_cluster();
    let (writer, other) = (open(&nats).await, open(&nats).await);
    let mut revision = writer.create("n/1", 0u64.to_be_bytes().into()).await.expect("created");
    let (written, enough) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let writing = tokio::spawn({
        let (written, enough) = (Arc::clone(&written), enough.clone());
        async move {
            while !enough.is_cancelled() {
                let number = written.load(Ordering::Relaxed) + 1;
                revision = write_once(&writer, number, revision).await;
                written.store(number, Ordering::Relaxed);
            }
            revision
        }
    });
    let mut watch = other.watch("n/").await.expect("a watch");
    for _ in 0..3 {
        let leader = leader(&other).await;
        nats.kill(leader);
        let (reached, begun) = (written.load(Ordering::Relaxed), Instant::now());
        while written.load(Ordering::Relaxed) < reached + 10 {
            assert!(begun.elapsed() < DEADLINE && !writing.is_finished(), "it is not written on");
            sleep(Duration::from_millis(10)).await;
        }
        nats.restart(leader);
    }
    enough.cancel();
    let revision = writing.await.expect("written");
    let last = written.load(Ordering::Relaxed).to_be_bytes();
    let entry = other.get("n/1").await.expect("an answer").expect("there");
    assert_eq!((entry.value.as_slice(), entry.revision), (last.as_slice(), revision));
    until_told(&mut *watch, "n/1", Some(&last)).await;
}

#[tokio::test]
async fn a_watch_goes_on_after_its_server_was_paused_and_after_it_was_started_again() {
    let mut nats = Nats::start();
    let (store, watching) = (open(&nats).await, open(&nats).await);
    store.create("w/1", b"one".into()).await.expect("created");
    let mut watch = watching.watch("w/").await.expect("a watch");
    until_current(&mut *watch).await;
    nats.signal(0, "STOP");
    let put = async {
        store.put("w/2", b"two".into()).await.expect("put");
    };
    let go_on = async {
        sleep(Duration::from_secs(5)).await;
        nats.signal(0, "CONT");
    };
    tokio::join!(put, go_on);
    until_told(&mut *watch, "w/2", Some(b"two")).await;
    nats.kill(0);
    nats.restart(0);
    store.delete("w/1", None).await.expect("deleted");
    until_told(&mut *watch, "w/1", None).await;
}

#[tokio::test]
async fn a_watch_whose_consumer_is_taken_away_makes_another_and_misses_nothing() {
    let fixture = Fixture::open().await;
    let store = &fixture.store;
    store.create("w/1", b"one".into()).await.expect("created");
    let mut watch = store.watch("w/").await.expect("a watch");
    until_current(&mut *watch).await;
    let names = ask(store, "CONSUMER.NAMES", json!({})).await;
    let name = names["consumers"][0].as_str().expect("a consumer");
    let Bucket { connection, stream, .. } = &*store.bucket;
    connection.ask::<IgnoredAny>(&format!("CONSUMER.DELETE.{stream}.{name}"), &json!({})).await.expect("deleted");
    store.delete("w/1", None).await.expect("deleted");
    store.put("w/2", b"two".into()).await.expect("put");
    until_told(&mut *watch, "w/1", None).await;
    until_told(&mut *watch, "w/2", Some(b"two")).await;
}

#[tokio::test]
async fn a_watch_that_was_cut_off_for_too_long_to_hear_of_deletions_ends() {
    let nats = Nats::start();
    let connection = connect(&nats, "c").await;
    let store = JetStreamStore::open_with_markers(connection, Duration::from_secs(2)).await.expect("a store");
    let mut watch = store.watch("w/").await.expect("a watch");
    until_current(&mut *watch).await;
    nats.signal(0, "STOP");
    let ended = timeout(DEADLINE, watch.next()).await.expect("it notices");
    nats.signal(0, "CONT");
    assert!(matches!(&ended, Err(StoreError::Unavailable(why)) if why.to_string().contains("too long")), "{ended:?}");
    assert!(matches!(watch.next().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_deleted_key_is_listed_no_more_and_its_marker_goes_by_itself() {
    let nats = Nats::start();
    let connection = connect(&nats, "c").await;
    let store = JetStreamStore::open_with_markers(connection, Duration::from_secs(1)).await.expect("a store");
    for key in ["a/1", "a/2", "a/3"] {
        store.create(key, vec![0; 10]).await.expect("created");
    }
    store.delete("a/2", None).await.expect("deleted");
    store.delete("a/4", None).await.expect("never there");
    let listed = store.list("a/", None, 2).await.expect("a list");
    assert_eq!(listed.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a/1", "a/3"]);
    let begun = Instant::now();
    while store.keys("a/").await.expect("the keys").len() > 2 {
        assert!(begun.elapsed() < DEADLINE, "the marker stays");
        sleep(Duration::from_millis(50)).await;
    }
    store.create("a/2", vec![1]).await.expect("created again");
}

#[tokio::test]
async fn a_bucket_that_is_deleted_is_lost_once_that_is_sure_and_a_watch_says_so_too() {
    let fixture = Fixture::open().await;
    let store = &fixture.store;
    let mut watch = store.watch("w/").await.expect("a watch");
    until_current(&mut *watch).await;
    ask(store, "STREAM.DELETE", json!({})).await;
    assert!(!matches!(store.bucket.check().await, Err(Failure::Lost(_))), "it is too early to be sure");
    until_lost(store).await;
    assert!(matches!(timeout(DEADLINE, watch.next()).await, Ok(Err(StoreError::Lost(_)))));
    assert!(matches!(store.put("a", vec![1]).await, Err(StoreError::Lost(_))));
}

#[tokio::test]
async fn a_bucket_that_was_made_anew_is_another_one_whatever_it_is_called() {
    let nats = Nats::start();
    let store = open(&nats).await;
    store.create("a", vec![1]).await.expect("created");
    ask(&store, "STREAM.DELETE", json!({})).await;
    let other = open(&nats).await;
    until_lost(&store).await;
    assert_eq!(other.get("a").await.expect("an answer"), None);
}

#[tokio::test]
async fn a_value_that_is_larger_than_the_server_takes_is_refused_with_the_limit() {
    let fixture = Fixture::open().await;
    let error = fixture.put("a", vec![0; 9 * 1024 * 1024]).await.expect_err("too large").to_string();
    assert!(error.contains("raise max_payload"), "{error}");
    fixture.put("a", vec![0; 1024 * 1024]).await.expect("the largest document is no problem");
}
