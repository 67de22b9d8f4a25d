//! What every record stream must do. A backend passes the whole suite, against the real thing.

use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use super::{PageLimit, RecordReader, RecordStream, StreamError, SyncQuery};
use crate::model::{Filter, Idx, Op, Page, Provider, Publication, RecordFields, SequinId, SyncId, decode};

const WHOLE: PageLimit = PageLimit { records: 10_000, bytes: 64 << 20 };

pub(crate) fn sync(number: u128) -> SyncId {
    SyncId(Uuid::from_u128(number))
}

fn hubspot() -> Filter {
    Filter::Provider(Provider::parse("hubspot").expect("a slug"))
}

fn fields<'a>(provider: &'a str, sync_number: u128, op: Op, upstream_id: &'a str) -> RecordFields<'a> {
    RecordFields {
        op,
        provider,
        sync_id: sync(sync_number),
        sync_external_id: (op == Op::Upsert).then_some("acme"),
        sync_metadata: (op == Op::Upsert).then_some(r#"{"plan":"pro"}"#),
        collection_id: "contact",
        upstream_id,
        sequin_id: None,
        payload: Some("{}"),
        upstream_created_at: None,
        upstream_updated_at: None,
    }
}

fn publication(all: Vec<RecordFields<'_>>) -> Publication {
    let mut publication = Publication::default();
    for fields in all {
        let (provider, record) = fields.check(Utc::now()).expect("good fields");
        publication.push(&provider, &record).expect("a sync of one provider");
    }
    publication
}

pub(crate) fn upserts(provider: &str, sync: u128, upstream_ids: &[&str]) -> Publication {
    publication(upstream_ids.iter().map(|id| fields(provider, sync, Op::Upsert, id)).collect())
}

pub(crate) async fn publish(stream: &dyn RecordStream, provider: &str, sync: u128, upstream_ids: &[&str]) -> Idx {
    stream.publish(upserts(provider, sync, upstream_ids)).await.expect("accepted").last
}

pub(crate) async fn delete(stream: &dyn RecordStream, sync: u128, upstream_id: &str) -> Idx {
    let all = vec![fields("hubspot", sync, Op::Delete, upstream_id)];
    stream.publish(publication(all)).await.expect("accepted").last
}

fn shown(page: &Page) -> Vec<String> {
    let show = |entry| {
        let record = decode(page.envelope(entry)).expect("an envelope");
        let gone = if record.op == Op::Delete { "-" } else { "" };
        format!("{gone}{}", record.upstream_id)
    };
    page.entries().iter().map(show).collect()
}

async fn next(reader: &mut dyn RecordReader) -> Page {
    let wait = async {
        loop {
            reader.ready().await.expect("the stream is there");
            let page = reader.read(WHOLE).await.expect("the stream is there");
            if !page.entries().is_empty() {
                return page;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("records to read within 20 s")
}

async fn all(stream: &dyn RecordStream, filter: &Filter, after: Idx) -> Vec<String> {
    let mut reader = stream.reader(filter, after);
    let mut found = Vec::new();
    let head = stream.head(filter).await.expect("a head");
    let mut reached = after;
    while reached < head {
        reader.ready().await.expect("the stream is there");
        let page = reader.read(PageLimit { records: 3, bytes: 1 << 20 }).await.expect("a page");
        assert!(page.entries().len() <= 3);
        reached = page.read_to();
        found.extend(shown(&page));
    }
    found
}

pub(super) async fn what_was_published_is_read_in_order_in_pages(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a", "b", "c", "d"]).await;
    publish(stream, "hubspot", 2, &["e", "f", "g", "h"]).await;
    publish(stream, "stripe", 3, &["x"]).await;
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    assert_eq!(all(stream, &Filter::Sync(sync(2)), Idx::START).await, ["e", "f", "g", "h"]);
    assert!(all(stream, &Filter::Sync(sync(9)), Idx::START).await.is_empty());
}

pub(super) async fn positions_increase_and_reading_goes_on_after_any_of_them(stream: &dyn RecordStream) {
    let first = publish(stream, "hubspot", 1, &["a", "b"]).await;
    let second = publish(stream, "hubspot", 1, &["c"]).await;
    assert!(Idx::START < first && first < second);
    assert_eq!(all(stream, &hubspot(), first).await, ["c"]);
    assert!(all(stream, &hubspot(), second).await.is_empty());
}

pub(super) async fn only_the_last_version_of_a_record_is_read(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a", "b", "a", "c"]).await;
    publish(stream, "hubspot", 1, &["b"]).await;
    publish(stream, "hubspot", 2, &["b"]).await;
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["a", "c", "b", "b"]);
    assert_eq!(stream.lag(&hubspot(), Idx::START).await.expect("a lag").records, 4);
}

pub(super) async fn a_delete_is_a_version_and_so_is_what_comes_after(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a", "b"]).await;
    delete(stream, 1, "a").await;
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["b", "-a"]);
    publish(stream, "hubspot", 1, &["a"]).await;
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["b", "a"]);
}

pub(super) async fn a_page_holds_one_record_however_large_and_no_more_than_its_bytes(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a", "b", "c"]).await;
    let mut reader = stream.reader(&hubspot(), Idx::START);
    let page = reader.read(PageLimit { records: 10, bytes: 1 }).await.expect("a page");
    assert_eq!(shown(&page), ["a"]);
    let page = reader.read(PageLimit { records: 10, bytes: page.size() * 2 }).await.expect("a page");
    assert_eq!(shown(&page), ["b", "c"]);
}

pub(super) async fn a_page_knows_when_its_oldest_record_was_published(stream: &dyn RecordStream) {
    let position = publish(stream, "hubspot", 1, &["a"]).await;
    publish(stream, "hubspot", 1, &["b", "c"]).await;
    let oldest = async |after| stream.lag(&hubspot(), after).await.expect("a lag").oldest_published_at;
    let mut reader = stream.reader(&hubspot(), Idx::START);
    for (after, records) in [(Idx::START, 1), (position, 2)] {
        let page = reader.read(PageLimit { records, bytes: WHOLE.bytes }).await.expect("a page");
        assert_eq!((page.entries().len(), page.published_at()), (records, oldest(after).await));
    }
    assert_eq!(reader.read(WHOLE).await.expect("a page").published_at(), None, "it is empty");
}

pub(super) async fn the_latest_version_of_a_record_is_found_by_its_key(stream: &dyn RecordStream) {
    let record = |id: &str| SequinId::derive(sync(1), "contact", id);
    assert_eq!(stream.latest(sync(1), record("a")).await.expect("an answer"), None);
    publish(stream, "hubspot", 1, &["a", "b"]).await;
    let last = publish(stream, "hubspot", 1, &["a"]).await;
    let gone = delete(stream, 1, "b").await;
    let found = stream.latest(sync(1), record("a")).await.expect("an answer").expect("a version");
    assert_eq!((found.idx, decode(&found.envelope).expect("an envelope").upstream_id), (last, "a"));
    let found = stream.latest(sync(1), record("b")).await.expect("an answer").expect("a tombstone");
    assert_eq!((found.idx, decode(&found.envelope).expect("an envelope").op), (gone, Op::Delete));
    assert_eq!(stream.latest(sync(2), record("a")).await.expect("an answer"), None);
    stream.purge(sync(1), None).await.expect("purged");
    assert_eq!(stream.latest(sync(1), record("a")).await.expect("an answer"), None);
}

pub(super) async fn what_replaces_a_version_is_left_out_where_another_one_counts(stream: &dyn RecordStream) {
    let old = publish(stream, "hubspot", 1, &["a"]).await;
    let counts = publish(stream, "hubspot", 1, &["b"]).await;
    publish(stream, "hubspot", 1, &["a"]).await;
    let mut replacing = Publication::default();
    for (op, id, version) in [
        (Op::Delete, "a", old),
        (Op::Delete, "b", counts),
        (Op::Upsert, "c", counts),
        (Op::Delete, "d", Idx(counts.0 + 1)),
    ] {
        let (provider, record) = fields("hubspot", 1, op, id).check(Utc::now()).expect("good fields");
        replacing.push_replacing(&provider, &record, version).expect("a sync of one provider");
    }
    let again = replacing.clone();
    assert_eq!(stream.publish(replacing).await.expect("accepted").left_out, 3);
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["a", "-b"]);
    assert_eq!(stream.publish(again).await.expect("accepted").left_out, 4);
    assert_eq!(stream.lag(&hubspot(), Idx::START).await.expect("a lag").records, 2);
}

pub(super) async fn lag_counts_what_matches_beyond_a_position_and_knows_its_age(stream: &dyn RecordStream) {
    let before = Utc::now();
    let first = publish(stream, "hubspot", 1, &["a", "b", "c"]).await;
    publish(stream, "hubspot", 2, &["d", "a"]).await;
    publish(stream, "hubspot", 1, &["a"]).await;
    let provider = stream.lag(&hubspot(), Idx::START).await.expect("a lag");
    assert_eq!(provider.records, 5);
    let oldest = provider.oldest_published_at.expect("an age");
    assert!(before - chrono::Duration::seconds(1) <= oldest && oldest <= Utc::now());
    assert_eq!(stream.lag(&hubspot(), first).await.expect("a lag").records, 3);
    assert_eq!(stream.lag(&Filter::Sync(sync(1)), Idx::START).await.expect("a lag").records, 3);
    assert_eq!(stream.lag(&Filter::Sync(sync(1)), first).await.expect("a lag").records, 1);
    let head = stream.head(&hubspot()).await.expect("a head");
    let none = stream.lag(&hubspot(), head).await.expect("a lag");
    assert_eq!((none.records, none.oldest_published_at), (0, None));
}

pub(super) async fn lag_is_exact_at_any_position_of_a_long_stream(stream: &dyn RecordStream) {
    let ids: Vec<String> = (0..9000).map(|n| n.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    publish(stream, "hubspot", 1, &ids).await;
    publish(stream, "hubspot", 1, &ids[100..4300]).await;
    let lag = async |after| stream.lag(&hubspot(), Idx(after)).await.expect("a lag").records;
    let first = stream.reader(&hubspot(), Idx::START).read(WHOLE).await.expect("a page").entries()[0].idx.0 - 1;
    assert_eq!(lag(first).await, 9000);
    assert_eq!(lag(first + 50).await, 8950);
    assert_eq!(lag(first + 4300).await, 8900);
    assert_eq!(lag(first + 8999).await, 4201);
    assert_eq!(lag(first + 9000).await, 4200);
    assert_eq!(lag(first + 13_199).await, 1);
}

pub(super) async fn a_waiting_reader_is_woken_by_what_matches_alone(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a"]).await;
    let mut of_provider = stream.reader(&hubspot(), Idx::START);
    let mut of_sync = stream.reader(&Filter::Sync(sync(2)), Idx::START);
    assert_eq!(shown(&next(&mut *of_provider).await), ["a"]);
    assert!(of_sync.read(WHOLE).await.expect("a page").entries().is_empty());
    let (page, ()) = tokio::join!(next(&mut *of_provider), async {
        publish(stream, "hubspot", 1, &["b"]).await;
    });
    assert_eq!(shown(&page), ["b"]);
    let woken = tokio::time::timeout(Duration::from_millis(50), of_sync.ready()).await;
    assert!(woken.is_err(), "a reader of sync 2 is woken by sync 1");
    let (page, ()) = tokio::join!(next(&mut *of_sync), async {
        publish(stream, "hubspot", 2, &["c"]).await;
    });
    assert_eq!(shown(&page), ["c"]);
}

pub(super) async fn a_publication_with_a_sync_of_another_provider_is_refused_whole(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a"]).await;
    let mixed = publication(vec![fields("stripe", 2, Op::Upsert, "b"), fields("stripe", 1, Op::Upsert, "c")]);
    match stream.publish(mixed).await {
        Err(StreamError::SyncOfAnotherProvider { record, provider, .. }) => {
            assert_eq!((record, provider.as_str()), (1, "hubspot"));
        }
        other => panic!("accepted: {other:?}"),
    }
    assert!(stream.sync(sync(2)).await.expect("an answer").is_none());
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["a"]);
}

pub(super) async fn syncs_and_providers_appear_with_their_first_record(stream: &dyn RecordStream) {
    publish(stream, "stripe", 3, &["x"]).await;
    publish(stream, "hubspot", 1, &["a", "b"]).await;
    delete(stream, 1, "a").await;
    let last = publish(stream, "hubspot", 2, &["c"]).await;
    let providers = stream.providers().await.expect("providers");
    assert_eq!(providers.iter().map(Provider::as_str).collect::<Vec<_>>(), ["hubspot", "stripe"]);
    let first = stream.sync(sync(1)).await.expect("an answer").expect("a sync");
    assert_eq!((first.provider.as_str(), first.records, first.external_id.as_deref()), ("hubspot", 1, Some("acme")));
    assert_eq!(first.metadata, r#"{"plan":"pro"}"#);
    assert_eq!(stream.sync(sync(2)).await.expect("an answer").expect("a sync").last_updated_idx, last);
    let page = |after, limit| stream.syncs(SyncQuery { provider: None, after, limit });
    let listed = page(None, 2).await.expect("syncs");
    assert_eq!(listed.iter().map(|sync| sync.id).collect::<Vec<_>>(), [sync(1), sync(2)]);
    assert_eq!(page(Some(sync(2)), 2).await.expect("syncs").len(), 1);
    let of_stripe = SyncQuery { provider: Provider::parse("stripe").ok(), after: None, limit: 10 };
    assert_eq!(stream.syncs(of_stripe).await.expect("syncs").len(), 1);
}

pub(super) async fn a_purged_sync_leaves_nothing_and_may_come_back(stream: &dyn RecordStream) {
    publish(stream, "hubspot", 1, &["a", "b"]).await;
    let last = publish(stream, "hubspot", 2, &["c", "d", "c"]).await;
    assert!(stream.purge(sync(2), None).await.expect("purged") >= 2);
    assert_eq!(stream.purge(sync(2), None).await.expect("purged"), 0);
    assert_eq!(stream.sync(sync(2)).await.expect("an answer"), None);
    let listed = stream.syncs(SyncQuery { limit: 10, ..SyncQuery::default() }).await.expect("syncs");
    assert_eq!(listed.iter().map(|sync| sync.id).collect::<Vec<_>>(), [sync(1)]);
    let of_sync = Filter::Sync(sync(2));
    assert_eq!(stream.head(&of_sync).await.expect("a head"), last, "who has read it has not read too far");
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["a", "b"]);
    assert_eq!(stream.lag(&hubspot(), Idx::START).await.expect("a lag").records, 2);
    assert!(publish(stream, "hubspot", 2, &["c"]).await > last);
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["a", "b", "c"]);
}

pub(super) async fn a_purged_collection_leaves_the_others_of_its_sync_and_those_of_other_syncs(
    stream: &dyn RecordStream,
) {
    let many: Vec<String> = (0..5000).map(|number| format!("contact-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    publish(stream, "hubspot", 1, &many).await;
    publish(stream, "hubspot", 2, &["other"]).await;
    let deal = |id| RecordFields { collection_id: "deal", ..fields("hubspot", 1, Op::Upsert, id) };
    stream.publish(publication(["one", "two", "one"].map(deal).into())).await.expect("accepted");
    assert!(stream.purge(sync(1), Some("contact")).await.expect("purged") >= 5000);
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["other", "two", "one"]);
    assert_eq!(stream.lag(&hubspot(), Idx::START).await.expect("a lag").records, 3);
    assert_eq!(stream.purge(sync(1), Some("contact")).await.expect("purged"), 0);
    assert_eq!(stream.purge(sync(7), Some("contact")).await.expect("purged"), 0);
    publish(stream, "hubspot", 1, &["contact-7"]).await;
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["other", "two", "one", "contact-7"]);
}

pub(super) async fn a_tombstone_is_dropped_once_it_is_old_and_every_matching_consumer_passed_it(
    stream: &dyn RecordStream,
) {
    publish(stream, "hubspot", 1, &["a", "b"]).await;
    let tombstone = delete(stream, 1, "a").await;
    publish(stream, "hubspot", 1, &["c"]).await;
    let later = Utc::now() + chrono::Duration::seconds(5);
    let long_ago = later - chrono::Duration::days(1);
    // As when the clock jumps: what somebody still needs is old, and is kept all the same.
    let in_a_year = later + chrono::Duration::days(365);
    let behind = (Filter::Sync(sync(1)), Idx(tombstone.0 - 1));
    let passed = (hubspot(), tombstone);
    let elsewhere = (Filter::Sync(sync(7)), Idx::START);
    let drop_tombstones = async |before, passed: &[_]| stream.drop_tombstones(before, passed).await.expect("dropped");
    assert_eq!(drop_tombstones(later, &[passed.clone(), behind.clone()]).await, 0);
    assert_eq!(drop_tombstones(in_a_year, &[passed.clone(), behind]).await, 0);
    assert_eq!(drop_tombstones(long_ago, std::slice::from_ref(&passed)).await, 0);
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["b", "-a", "c"]);
    assert_eq!(drop_tombstones(later, &[passed, elsewhere]).await, 1);
    assert_eq!(all(stream, &hubspot(), Idx::START).await, ["b", "c"]);
    assert_eq!(stream.lag(&hubspot(), Idx::START).await.expect("a lag").records, 2);
}

pub(super) async fn a_stream_is_the_same_from_its_first_record_on_whatever_becomes_of_them(stream: &dyn RecordStream) {
    let identity = async |filter: Filter| stream.identity(&filter).await.expect("an answer");
    assert_eq!(identity(hubspot()).await, None);
    assert_eq!(identity(Filter::Sync(sync(1))).await, None);
    publish(stream, "hubspot", 1, &["a", "b"]).await;
    let first = identity(hubspot()).await.expect("an identity");
    assert_eq!(identity(Filter::Sync(sync(1))).await, Some(first));
    publish(stream, "hubspot", 1, &["a"]).await;
    publish(stream, "hubspot", 2, &["c"]).await;
    delete(stream, 1, "b").await;
    stream.purge(sync(1), None).await.expect("purged");
    for filter in [hubspot(), Filter::Sync(sync(1)), Filter::Sync(sync(2))] {
        assert_eq!(identity(filter).await, Some(first));
    }
    assert_eq!(identity(Filter::Sync(sync(7))).await, None);
    assert_eq!(identity(Filter::Provider(Provider::parse("stripe").expect("a slug"))).await, None);
}

pub(super) async fn publishers_at_the_same_time_all_find_their_records_in_the_stream(stream: &dyn RecordStream) {
    let publisher = async |number: u128| {
        for round in 0..20 {
            let id = format!("{number}-{round}");
            publish(stream, "hubspot", number, &[&id]).await;
        }
    };
    tokio::join!(publisher(1), publisher(2), publisher(3));
    assert_eq!(all(stream, &hubspot(), Idx::START).await.len(), 60);
    assert_eq!(stream.lag(&hubspot(), Idx::START).await.expect("a lag").records, 60);
}

/// Makes a test of each point of the contract; `$open` is a future of a fresh stream.
macro_rules! suite {
    ($open:expr) => {
        $crate::stream::contract::suite!($open;
            what_was_published_is_read_in_order_in_pages,
            positions_increase_and_reading_goes_on_after_any_of_them,
            only_the_last_version_of_a_record_is_read,
            a_delete_is_a_version_and_so_is_what_comes_after,
            a_page_holds_one_record_however_large_and_no_more_than_its_bytes,
            a_page_knows_when_its_oldest_record_was_published,
            the_latest_version_of_a_record_is_found_by_its_key,
            what_replaces_a_version_is_left_out_where_another_one_counts,
            lag_counts_what_matches_beyond_a_position_and_knows_its_age,
            lag_is_exact_at_any_position_of_a_long_stream,
            a_waiting_reader_is_woken_by_what_matches_alone,
            a_publication_with_a_sync_of_another_provider_is_refused_whole,
            syncs_and_providers_appear_with_their_first_record,
            a_purged_sync_leaves_nothing_and_may_come_back,
            a_purged_collection_leaves_the_others_of_its_sync_and_those_of_other_syncs,
            a_tombstone_is_dropped_once_it_is_old_and_every_matching_consumer_passed_it,
            a_stream_is_the_same_from_its_first_record_on_whatever_becomes_of_them,
            publishers_at_the_same_time_all_find_their_records_in_the_stream,
        );
    };
    ($open:expr; $($point:ident,)*) => {
        $(
            #[tokio::test]
            async fn $point() {
                let stream = $open.await;
                $crate::stream::contract::$point(&*stream).await;
            }
        )*
    };
}
pub(crate) use suite;
