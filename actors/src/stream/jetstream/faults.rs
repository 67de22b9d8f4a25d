//! What becomes of publishers and readers when servers, consumers and streams are lost under them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{names::Names, *};
use crate::{
    jetstream::{
        Arrived, Cursor, NatsSettings,
        tests::{Gate, Nats, connect, settings},
    },
    model::{Op, decode},
    stream::{
        PageLimit,
        contract::{delete, publish, sync, upserts},
    },
};

/// How long anything may take that has to go on by itself.
const DEADLINE: Duration = Duration::from_secs(40);

const LIMIT: PageLimit = PageLimit { records: 500, bytes: 1 << 20 };

fn hubspot() -> Provider {
    Provider::parse("hubspot").expect("a slug")
}

async fn open(nats: &Nats) -> Arc<JetStreamStream> {
    Arc::new(JetStreamStream::open(connect(nats, "sequin").await).await.expect("a stream"))
}

/// Reads until `until` has come, and returns how often each record did.
async fn read_until(stream: Arc<JetStreamStream>, until: String) -> HashMap<String, usize> {
    let mut reader = stream.reader(&Filter::Provider(hubspot()), Idx::START);
    let (mut seen, mut last) = (HashMap::new(), Idx::START);
    while !seen.contains_key(&until) {
        reader.ready().await.expect("the reader goes on");
        let page = reader.read(LIMIT).await.expect("the reader goes on");
        for entry in page.entries() {
            assert!(entry.idx > last, "{} comes after {last}", entry.idx);
            last = entry.idx;
            let record = decode(page.envelope(entry)).expect("an envelope");
            *seen.entry(record.upstream_id.to_owned()).or_default() += 1;
        }
    }
    seen
}

/// Publishes in rounds from `rounds`, calling `at_each` before each, while somebody reads, and looks at what was read.
async fn publish_and_read(stream: Arc<JetStreamStream>, rounds: usize, mut at_each: impl AsyncFnMut(usize)) {
    let reading = tokio::spawn(read_until(Arc::clone(&stream), "the end".into()));
    let mut expected = Vec::new();
    for round in 0..rounds {
        at_each(round).await;
        let ids: Vec<String> = (0..200).map(|number| format!("{round}-{number}")).collect();
        publish(&*stream, "hubspot", 1, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        expected.extend(ids);
    }
    publish(&*stream, "hubspot", 1, &["the end"]).await;
    let seen = tokio::time::timeout(DEADLINE, reading).await.expect("the reader goes on in time").expect("a reader");
    assert_eq!(seen.len(), expected.len() + 1);
    for id in expected {
        assert_eq!(seen.get(&id), Some(&1), "{id}");
    }
    // Who asks, unlike who reads and publishes, is told that nobody answers at present.
    let began = Instant::now();
    let held = loop {
        match stream.lag(&Filter::Provider(hubspot()), Idx::START).await {
            Err(StreamError::Unavailable(_)) if began.elapsed() < DEADLINE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            outcome => break outcome.expect("a lag").records,
        }
    };
    assert_eq!(held, seen.len() as u64);
}

/// The server that leads the provider's stream.
async fn leader(stream: &JetStreamStream) -> usize {
    let info = provision::info(&stream.connection, &hubspot()).await.expect("a stream");
    let leader = info.cluster.and_then(|cluster| cluster.leader).expect("a leader");
    leader.trim_start_matches('n').parse().expect("the number of a server")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_streams_leader_loses_and_repeats_nothing() {
    let mut nats = Nats::start_cluster();
    let stream = open(&nats).await;
    let same = Arc::clone(&stream);
    publish_and_read(stream, 12, async |round| {
        if round == 4 {
            nats.kill(leader(&same).await);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_and_goes_on_loses_and_repeats_nothing() {
    let nats = Nats::start_cluster();
    let stream = open(&nats).await;
    let same = Arc::clone(&stream);
    let mut paused = None;
    publish_and_read(stream, 12, async |round| match round {
        4 => {
            let number = leader(&same).await;
            nats.signal(number, "STOP");
            paused = Some(number);
        }
        8 => nats.signal(paused.expect("one that was paused"), "CONT"),
        _ => {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_while_there_was_no_connection_does_not_arrive_once_there_is_one() {
    let nats = Nats::start_with(3, "", "no_advertise: true, ");
    let gates = [Gate::before(nats.port(0)).await, Gate::before(nats.port(1)).await, Gate::before(nats.port(2)).await];
    let servers = gates.iter().map(|gate| format!("nats://127.0.0.1:{}", gate.port())).collect();
    let through_gates = NatsSettings { servers, ..settings(&nats) };
    let connection = JetStream::connect(&through_gates, "sequin").await.expect("a connection");
    let cut_off = JetStreamStream::open(connection.clone()).await.expect("a stream");
    let other = open(&nats).await;
    // As the control store writes.
    let note = "$KV.sequin-registry.note";
    let write = async |connection: &JetStream, text: &'static [u8]| {
        connection.write(note, async_nats::HeaderMap::new(), text.into()).await
    };
    publish(&cut_off, "hubspot", 1, &["a"]).await;
    for gate in &gates {
        gate.keep_out(std::process::id());
    }
    let noticed = async {
        while !connection
            .ask::<serde::de::IgnoredAny>("INFO", &())
            .await
            .is_err_and(|error| error.to_string().contains("there is no connection"))
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, noticed).await.expect("it is noticed that there is no connection");
    let (refused, unwritten) = tokio::join!(cut_off.publish(upserts("hubspot", 1, &["a"])), write(&connection, b"old"));
    assert!(matches!(refused, Err(StreamError::Unavailable(_))), "{refused:?}");
    assert!(matches!(unwritten, Err(JetStreamError::Unanswered { .. })), "{unwritten:?}");
    publish(&*other, "hubspot", 1, &["a"]).await;
    delete(&*other, 1, "a").await;
    write(&other.connection, b"new").await.expect("written");
    for gate in &gates {
        gate.let_in(std::process::id());
    }
    // Behind what was refused, should that be on its way.
    publish(&cut_off, "hubspot", 1, &["b"]).await;
    let page = other.reader(&Filter::Provider(hubspot()), Idx::START).read(LIMIT).await.expect("a page");
    let records = page.entries().iter().map(|entry| decode(page.envelope(entry)).expect("an envelope"));
    let ops: Vec<_> = records.map(|record| (record.upstream_id.to_owned(), record.op)).collect();
    assert_eq!(ops, [("a".to_owned(), Op::Delete), ("b".to_owned(), Op::Upsert)]);
    let last = messages::last(&other.connection, "KV_sequin-registry", note).await.expect("an answer");
    assert_eq!(last.expect("a note").payload, b"new");
}

#[tokio::test]
async fn a_single_server_that_is_killed_and_started_again_keeps_what_was_acknowledged() {
    let mut nats = Nats::start();
    let stream = open(&nats).await;
    publish_and_read(stream, 6, async |round| {
        if round == 3 {
            nats.kill(0);
            nats.restart(0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_under_a_reader_is_made_again() {
    #[derive(serde::Deserialize)]
    struct Names {
        consumers: Vec<String>,
    }
    let nats = Nats::start();
    let stream = open(&nats).await;
    let connection = stream.connection.clone();
    publish_and_read(stream, 6, async |round| {
        if round == 0 {
            return;
        }
        // The one that is there, and each that was made instead.
        let all = "CONSUMER.NAMES.sequin-records-hubspot";
        let began = Instant::now();
        let consumers = loop {
            let Names { consumers } = connection.ask(all, &()).await.expect("their names");
            if !consumers.is_empty() {
                break consumers;
            }
            assert!(began.elapsed() < DEADLINE, "nobody makes another consumer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for name in consumers {
            let delete = format!("CONSUMER.DELETE.sequin-records-hubspot.{name}");
            connection.ask::<serde::de::IgnoredAny>(&delete, &()).await.expect("deleted");
        }
    })
    .await;
}

#[tokio::test]
async fn nodes_that_publish_new_syncs_at_the_same_time_agree_about_them() {
    let nats = Nats::start();
    let (one, two) = (open(&nats).await, open(&nats).await);
    let publish_all = async |stream: Arc<JetStreamStream>, node: &str| {
        for number in 0..20 {
            publish(&*stream, "hubspot", number, &[node]).await;
        }
    };
    tokio::join!(publish_all(Arc::clone(&one), "one"), publish_all(Arc::clone(&two), "two"));
    for stream in [&one, &two] {
        let listed = stream.syncs(SyncQuery { limit: 100, ..SyncQuery::default() }).await.expect("syncs");
        assert_eq!(listed.iter().map(|sync| sync.records).collect::<Vec<_>>(), [2; 20]);
    }
    // What one of them made a moment ago belongs to its provider for the other one too.
    publish(&*one, "hubspot", 99, &["a"]).await;
    let refused = two.publish(upserts("stripe", 99, &["b"])).await;
    assert!(matches!(refused, Err(StreamError::SyncOfAnotherProvider { .. })), "{refused:?}");
    let claims =
        tokio::join!(one.publish(upserts("hubspot", 100, &["a"])), two.publish(upserts("stripe", 100, &["b"])));
    assert!(claims.0.is_ok() != claims.1.is_ok(), "{claims:?}");
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_noticed_by_readers_and_made_again_beyond_its_positions() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    let filter = Filter::Provider(hubspot());
    let last = publish(&*stream, "hubspot", 1, &["a", "b", "c"]).await;
    let identity = stream.identity(&filter).await.expect("an answer");
    let mut reader = stream.reader(&filter, Idx::START);
    assert_eq!(reader.read(LIMIT).await.expect("a page").entries().len(), 3);
    let delete = "STREAM.DELETE.sequin-records-hubspot";
    stream.connection.ask::<serde::de::IgnoredAny>(delete, &()).await.expect("deleted");
    assert_eq!(stream.identity(&filter).await.expect("an answer"), None);
    let told = tokio::time::timeout(DEADLINE, reader.ready()).await.expect("noticed in time");
    assert!(matches!(told, Err(StreamError::Replaced(_))), "{told:?}");
    let next = publish(&*stream, "hubspot", 1, &["d"]).await;
    assert!(next > last, "{next} after {last}");
    let again = stream.identity(&filter).await.expect("an answer");
    assert!(again.is_some() && again != identity, "{again:?} after {identity:?}");
    let page = stream.reader(&filter, Idx::START).read(LIMIT).await.expect("a page");
    assert_eq!(page.entries().iter().map(|entry| entry.idx).collect::<Vec<_>>(), [next]);
}

#[tokio::test]
async fn a_stream_that_ends_before_what_was_read_of_it_is_not_waited_on() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    let last = publish(&*stream, "hubspot", 1, &["a"]).await;
    let mut reader = stream.reader(&Filter::Provider(hubspot()), Idx(last.0 + 1000));
    let told = tokio::time::timeout(DEADLINE, reader.ready()).await.expect("noticed in time");
    assert!(matches!(told, Err(StreamError::Replaced(_))), "{told:?}");
}

#[tokio::test]
async fn a_stream_can_be_made_that_begins_where_another_one_ended() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    assert!(stream.create_from(&hubspot(), Idx(5000)).await.expect("made"));
    assert!(!stream.create_from(&hubspot(), Idx(9000)).await.expect("left as it is"));
    assert_eq!(publish(&*stream, "hubspot", 1, &["a"]).await, Idx(5000));
}

#[tokio::test]
async fn what_is_published_again_with_its_id_is_taken_once() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    publish(&*stream, "hubspot", 1, &["a"]).await;
    let names = Names::of(&stream.connection, &hubspot());
    let mut cursor = Cursor::new(stream.connection.clone(), names.stream(), names.records(), 0);
    cursor.fetch(1, 1000).await.expect("a message");
    let Arrived { sequence, subject, headers, payload, .. } = cursor.take().expect("a message");
    let again = stream.connection.publish(subject.to_string(), headers.expect("headers"), payload).await;
    assert_eq!(again.expect("acknowledged"), sequence);
    assert_eq!(stream.head(&Filter::Provider(hubspot())).await.expect("a head"), Idx(sequence));
}

/// A payload of 3 MiB.
fn large() -> String {
    json!("x".repeat(3 << 20)).to_string()
}

fn with_payloads(records: &[(&str, &str)]) -> Publication {
    let mut publication = Publication::default();
    for &(id, payload) in records {
        let fields = crate::model::RecordFields {
            op: Op::Upsert,
            provider: "hubspot",
            sync_id: sync(1),
            sync_external_id: None,
            sync_metadata: None,
            collection_id: "contact",
            upstream_id: id,
            sequin_id: None,
            payload: Some(payload),
            upstream_created_at: None,
            upstream_updated_at: None,
        };
        let (provider, record) = fields.check(Utc::now()).expect("good fields");
        publication.push(&provider, &record).expect("a sync of one provider");
    }
    publication
}

#[tokio::test]
async fn a_reader_that_waits_hears_of_a_large_record_and_holds_it_only_once_it_reads() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    publish(&*stream, "hubspot", 1, &["a"]).await;
    let names = Names::of(&stream.connection, &hubspot());
    let mut cursor = Cursor::new(stream.connection.clone(), names.stream(), names.records(), 0);
    cursor.ready().await.expect("a message");
    cursor.fetch(10, 1000).await.expect("a message");
    assert!(cursor.take().is_some());
    // It has asked for the next one when this is given up, and the question stands.
    assert!(tokio::time::timeout(Duration::from_secs(1), cursor.ready()).await.is_err());
    stream.publish(with_payloads(&[("large", &large())])).await.expect("accepted");
    tokio::time::timeout(DEADLINE, cursor.ready()).await.expect("heard of in time").expect("a message");
    assert_eq!(cursor.bytes(), 0);
    cursor.fetch(10, 1000).await.expect("a message");
    assert!(cursor.take().is_some_and(|arrived| arrived.payload.len() > 3 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_providers_that_claim_a_sync_at_the_same_time_one_gets_it() {
    let nats = Nats::start_cluster();
    let (one, two) = (open(&nats).await, open(&nats).await);
    publish(&*one, "hubspot", 1, &["a"]).await;
    publish(&*two, "stripe", 2, &["a"]).await;
    for number in 100..200 {
        let claims = tokio::join!(
            one.publish(upserts("hubspot", number, &["a"])),
            two.publish(upserts("stripe", number, &["b"]))
        );
        assert!(claims.0.is_ok() != claims.1.is_ok(), "{number}: {claims:?}");
    }
}

#[tokio::test]
async fn a_registry_that_was_deleted_is_made_again_of_what_a_node_knows() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    publish(&*stream, "hubspot", 1, &["a"]).await;
    let delete = "STREAM.DELETE.KV_sequin-registry";
    stream.connection.ask::<serde::de::IgnoredAny>(delete, &()).await.expect("deleted");
    let began = Instant::now();
    while messages::last(&stream.connection, "KV_sequin-registry", "$KV.sequin-registry.sync.>")
        .await
        .is_ok_and(|found| found.is_none())
    {
        assert!(began.elapsed() < DEADLINE, "it is not made again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let another = open(&nats).await;
    assert!(another.sync(sync(1)).await.expect("an answer").is_some());
}

#[tokio::test]
async fn a_record_larger_than_a_page_is_read_alone_and_the_others_around_it() {
    let nats = Nats::start();
    let stream = open(&nats).await;
    let large = large();
    stream.publish(with_payloads(&[("a", "1"), ("large", &large), ("b", "2")])).await.expect("accepted");
    let mut reader = stream.reader(&Filter::Provider(hubspot()), Idx::START);
    let mut pages = Vec::new();
    while pages.iter().sum::<usize>() < 3 {
        reader.ready().await.expect("more");
        pages.push(reader.read(LIMIT).await.expect("a page").entries().len());
    }
    assert_eq!(pages, [1, 1, 1]);
}

#[tokio::test]
async fn a_server_that_takes_no_large_messages_is_refused_by_the_name_of_its_setting() {
    let nats = Nats::start_with(1, "max_payload: 1MB", "");
    let refused = JetStreamStream::open(connect(&nats, "sequin").await).await.err().expect("refused");
    assert!(refused.to_string().contains("max_payload"), "{refused}");
}
