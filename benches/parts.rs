//! The hot parts of the way of a record, each by itself: what a change to one of them costs or gains.

use std::{hint::black_box, sync::Arc};

use bytes::BytesMut;
use chrono::DateTime;
use criterion::{BatchSize, Criterion, Throughput};
use futures_util::FutureExt;
use sequin_actors::{
    flow::{
        budget::{Budget, NodeBudget},
        coalesce::{Batch, PageInFlight, Part, Row},
        partition::partition,
        watermark::Watermark,
    },
    model::{
        ConsumerId, Idx, Op, Page, Provider, Publication, Record, SequinId, SyncId, TargetId, decode, decode_routing,
        encode,
    },
    postgres::copy_row,
};
use uuid::Uuid;

/// What one transaction of a writer takes.
const BATCH_ROWS: u64 = 5000;

/// What one page of the stream holds, of records of this size.
const PAGE_ROWS: u64 = 1250;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    envelopes(&mut criterion);
    publications(&mut criterion);
    partitions(&mut criterion);
    coalescing(&mut criterion);
    rows(&mut criterion);
    watermarks(&mut criterion);
    criterion.final_summary();
}

/// A contact of 800 bytes, as a CRM sends it.
fn payload() -> String {
    let notes = "met at the fair, wants a call back in spring; ".repeat(13);
    format!(
        r#"{{"hs_object_id":"101","email":"ann.example@example.com","firstname":"Ann","lastname":"Example","phone":"+1 555 0100","lifecyclestage":"lead","hubspot_owner_id":"77","notes":"{notes}","createdate":"2023-03-01T12:00:00Z"}}"#
    )
}

fn record<'a>(number: u128, upstream_id: &'a str, payload: &'a str) -> Record<'a> {
    let at = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
    let sync_id = SyncId(Uuid::from_u128(number % 2000));
    Record {
        op: Op::Upsert,
        sync_id,
        sync_external_id: Some("acme"),
        sync_metadata: r#"{"plan":"pro"}"#,
        collection_id: "contact",
        upstream_id,
        sequin_id: SequinId::derive(sync_id, "contact", upstream_id),
        payload,
        upstream_created_at: at,
        upstream_updated_at: at,
    }
}

fn envelopes(criterion: &mut Criterion) {
    let payload = payload();
    let record = record(1, "101", &payload);
    let mut envelope = Vec::new();
    encode(&record, None, &mut envelope);
    let mut group = criterion.benchmark_group("envelope");
    group.throughput(Throughput::Bytes(envelope.len() as u64));
    let mut out = Vec::with_capacity(2 * envelope.len());
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(black_box(&record), None, &mut out);
        });
    });
    group.bench_function("decode", |bencher| bencher.iter(|| decode(black_box(&envelope)).expect("an envelope")));
    group.bench_function("decode what routes it", |bencher| {
        bencher.iter(|| decode_routing(black_box(&envelope)).expect("an envelope"));
    });
    group.finish();
}

fn publications(criterion: &mut Criterion) {
    let payload = payload();
    let provider = Provider::parse("hubspot").expect("a slug");
    let names: Vec<String> = (0..BATCH_ROWS).map(|number| number.to_string()).collect();
    let records: Vec<_> = (0..).zip(&names).map(|(number, name)| record(number, name, &payload)).collect();
    let mut group = criterion.benchmark_group("publication");
    group.throughput(Throughput::Elements(BATCH_ROWS));
    group.bench_function("push 5,000 records of 2,000 syncs", |bencher| {
        bencher.iter(|| {
            let mut publication = Publication::default();
            for record in &records {
                publication.push(&provider, black_box(record)).expect("a sync of this provider");
            }
            publication
        });
    });
    group.finish();
}

fn partitions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("partition");
    group.throughput(Throughput::Elements(1));
    let record = SequinId(Uuid::new_v4());
    group.bench_function("of four", |bencher| bencher.iter(|| partition(black_box(record), black_box(4))));
    group.finish();
}

/// Four pages of one writer's queue, in which every tenth record comes a second time.
fn parts() -> Vec<(Arc<PageInFlight>, Vec<Row>)> {
    const AMPLE: usize = 1 << 30;
    let budget = Budget::new(NodeBudget::new(AMPLE), TargetId::generate(), ConsumerId::generate(), AMPLE);
    let payload = payload();
    let pages = (0..BATCH_ROWS).step_by(usize::try_from(PAGE_ROWS).expect("few")).map(|first| {
        let (mut page, mut rows) = (Page::default(), Vec::new());
        for (entry, number) in (0u32..).zip(first..first + PAGE_ROWS) {
            let record = record(1, &(number - u64::from(number % 10 == 9)).to_string(), &payload).sequin_id;
            page.push(Idx(number), payload.as_bytes());
            rows.push(Row { sequin_id: record, idx: Idx(number), op: Op::Upsert, entry, is_traced: false });
        }
        let permit = budget.take(page.size()).now_or_never().expect("a budget that is large enough");
        (Arc::new(PageInFlight::new(page, permit)), rows)
    });
    pages.collect()
}

fn coalescing(criterion: &mut Criterion) {
    let pages = parts();
    let queue = || -> Vec<Part> {
        let part = |(page_number, (page, rows)): (u64, &(Arc<PageInFlight>, Vec<Row>))| Part {
            page_number,
            page: Arc::clone(page),
            rows: rows.clone(),
        };
        (0..).zip(&pages).map(part).collect()
    };
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH_ROWS));
    group.bench_function("coalesce 5,000 rows", |bencher| {
        bencher.iter_batched(queue, Batch::coalesce, BatchSize::LargeInput);
    });
    group.finish();
}

/// Into a chunk that has room, as most of a chunk's rows come.
fn rows(criterion: &mut Criterion) {
    let payload = payload();
    let record = record(1, "101", &payload);
    let mut chunk = BytesMut::new();
    copy_row(&record, Idx(1), None, &mut chunk);
    let mut group = criterion.benchmark_group("row");
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    group.bench_function("encode for COPY", |bencher| {
        bencher.iter(|| {
            chunk.clear();
            copy_row(black_box(&record), black_box(Idx(1)), None, &mut chunk);
        });
    });
    group.finish();
}

/// A thousand pages of four parts each, of which sixteen are open at a time, and the oldest completes last.
fn watermarks(criterion: &mut Criterion) {
    const PAGES: u64 = 1000;
    const OPEN: u64 = 16;
    let mut group = criterion.benchmark_group("watermark");
    group.throughput(Throughput::Elements(PAGES));
    group.bench_function("1,000 pages of four parts", |bencher| {
        bencher.iter(|| {
            let mut watermark = Watermark::starting_at(Idx::START);
            for first in (0..PAGES).step_by(usize::try_from(OPEN).expect("few")) {
                let pages = first..PAGES.min(first + OPEN);
                for page in pages.clone() {
                    watermark.opened(Idx(page + 1), 4);
                }
                for page in pages.rev().flat_map(|page| [page; 4]) {
                    watermark.completed(page);
                }
            }
            assert!(watermark.is_settled());
            watermark
        });
    });
    group.finish();
}
