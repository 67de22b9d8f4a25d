//! Live: how long it takes from the acknowledgement of a publication until its rows are visible, with a record every
//! 10 ms, and at half the rate that can be kept up. What is beside it: a statement that writes the same row, and its
//! commit.

use std::{
    iter, thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use sequin::demo::crm::Crm;
use sequin_actors::model::{SequinId, TableName};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_postgres::{Client, Statement, types::ToSql};

use super::{
    SYNCS, Size,
    bulk::rate,
    node::Node,
    report::{Figure, Goal},
    rows::{SEED, parse},
    server::{Server, sql},
};

/// A record, or a row beside it, this often, and how many of each: ten seconds' worth.
const EVERY: Duration = Duration::from_millis(10);
const SINGLE: usize = 1000;

/// How many records one request has while as much as possible is published, and how many requests are under way.
const REQUEST: u64 = 500;
const CONCURRENT: usize = 4;

/// How many records one request has at half that rate, and for how long that lasts.
const PACED_REQUEST: u64 = 250;
const PACED_FOR: Duration = Duration::from_secs(10);

/// How long to rest between two looks for a row: less than what is measured, and enough to leave most of a core to those
/// who do the work. It counts against us.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// The same for those that look side by side, while there is more to do.
const LOOK_EVERY_OF_MANY: Duration = Duration::from_millis(2);

/// What is not there after this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let (table, beside) = (server.table("ours").await, server.table("bare").await);
    let node = Node::start().await;
    node.forward_to(&server.postgres, &table).await;
    let table = Looker::at(&server, &table).await;
    let mut traffic = Traffic { crm: Crm::new(SEED, SYNCS), probes: Crm::new(SEED + 1, SYNCS) };

    eprintln!("publishing {SINGLE} records one by one, and writing as many rows");
    let probes: Vec<_> = (0..SINGLE).map(|_| traffic.probe()).collect();
    let mut bare = Vec::new();
    if round.is_multiple_of(2) {
        bare = insert_each(&server, &beside, &probes).await;
    }
    let live = publish_each(&node, &table, &probes).await;
    if !round.is_multiple_of(2) {
        bare = insert_each(&server, &beside, &probes).await;
    }

    eprintln!("publishing {records} records, and as many changes as fast as possible");
    let new = traffic.requests(records, REQUEST, |crm| crm.backfill(1).next());
    publish_fast(&node, &table, new).await;
    let changes = traffic.requests(records, REQUEST, |crm| Some(crm.next_change().line));
    let most = rate(records, publish_fast(&node, &table, changes).await);

    eprintln!("publishing half of {most:.0} a second, for {PACED_FOR:?}");
    let pace = Duration::from_secs(2 * PACED_REQUEST).div_f64(most);
    let requests = u64::try_from(PACED_FOR.as_nanos() / pace.as_nanos()).expect("not many");
    let changes = traffic.requests(requests * PACED_REQUEST, PACED_REQUEST, |crm| Some(crm.next_change().line));
    let paced = publish_paced(&node, &table, changes, pace).await;

    let figure = |what, ours, beside, goal| Figure { what, unit: "ms", ours, beside, goal };
    let statement = |took| Some(("an upsert and its commit", took));
    let (at_100, at_half) = (Spread::of(live), Spread::of(paced));
    let bare = Spread::of(bare);
    vec![
        figure("visible, 100 records/s: median", at_100.median, statement(bare.median), Goal::TimesAtMost(2.0)),
        figure("visible, 100 records/s: p99", at_100.p99, statement(bare.p99), Goal::TimesAtMost(4.0)),
        Figure {
            what: "changes published and brought at once",
            unit: "records/s",
            ours: most,
            beside: None,
            goal: Goal::None,
        },
        figure("visible, half of that rate: median", at_half.median, None, Goal::None),
        figure("visible, half of that rate: p99", at_half.p99, None, Goal::AtMost(250.0)),
    ]
}

/// What is published: the records of the CRM, and some of another one that nobody ever changes, to be looked for.
struct Traffic {
    crm: Crm,
    probes: Crm,
}

/// A record to look for.
struct Probe {
    line: String,
    id: SequinId,
}

/// A publication, whose last record is to be looked for.
struct Request {
    lines: Bytes,
    probe: SequinId,
}

impl Traffic {
    fn probe(&mut self) -> Probe {
        let line = self.probes.backfill(1).next().expect("a record");
        Probe { id: parse(&line).record().sequin_id, line }
    }

    /// Makes requests of so many records together, each of which has `in_each`.
    fn requests(
        &mut self,
        records: u64,
        in_each: u64,
        mut next: impl FnMut(&mut Crm) -> Option<String>,
    ) -> Vec<Request> {
        let others = usize::try_from(in_each - 1).expect("not many");
        let mut request = || {
            let mut lines: Vec<_> = iter::from_fn(|| next(&mut self.crm)).take(others).collect();
            let probe = self.probe();
            lines.push(probe.line);
            Request { lines: lines.join("\n").into(), probe: probe.id }
        };
        (0..records.div_ceil(in_each)).map(|_| request()).collect()
    }
}

/// Looks for rows.
struct Looker {
    client: Client,
    look: Statement,
}

impl Looker {
    async fn at(server: &Server, table: &TableName) -> Self {
        let client = server.session().await;
        let look = format!("select 1 from {} where sequin_id = $1", sql(table));
        let look = client.prepare(&look).await.expect("a statement");
        Self { client, look }
    }

    /// Waits for a row; rests by `rest` after each look that did not find it.
    async fn until_visible(&self, id: SequinId, mut rest: impl AsyncFnMut()) {
        let deadline = Instant::now() + PATIENCE;
        while self.client.query_opt(&self.look, &[&id.0]).await.expect("a look").is_none() {
            assert!(Instant::now() < deadline, "{id} is not there after {PATIENCE:?}");
            rest().await;
        }
    }
}

/// Publishes a record at a time; returns how long each took from its acknowledgement until its row was visible.
async fn publish_each(node: &Node, table: &Looker, probes: &[Probe]) -> Vec<Duration> {
    let mut next = every(EVERY);
    let mut took = Vec::new();
    for probe in probes {
        next.tick().await;
        node.publish(probe.line.clone().into()).await;
        let acknowledged = Instant::now();
        // A timer of the runtime is not fine enough; nobody else wants this thread.
        table.until_visible(probe.id, async || thread::sleep(LOOK_EVERY)).await;
        took.push(acknowledged.elapsed());
    }
    took
}

/// Writes a row at a time; returns how long each took.
async fn insert_each(server: &Server, table: &TableName, probes: &[Probe]) -> Vec<Duration> {
    let client = server.session().await;
    let upsert = format!(
        "insert into {} as t select $1::uuid, $2::uuid, $3, $4::text::jsonb, $5, $6, $7::text::jsonb, $8::bigint,
             $9::timestamptz, $10::timestamptz, now(), now()
         on conflict (sequin_id) do update set payload = excluded.payload, updated_idx = excluded.updated_idx,
             upstream_updated_at = excluded.upstream_updated_at, updated_at = now()
         where t.updated_idx < excluded.updated_idx",
        sql(table)
    );
    let upsert = client.prepare(&upsert).await.expect("a statement");
    let mut next = every(EVERY);
    let mut took = Vec::new();
    for (idx, probe) in (1i64..).zip(probes) {
        let line = parse(&probe.line);
        let row = line.record();
        let values: [&(dyn ToSql + Sync); 10] = [
            &row.sequin_id.0,
            &row.sync_id.0,
            &row.sync_external_id,
            &row.sync_metadata,
            &row.collection_id,
            &row.upstream_id,
            &row.payload,
            &idx,
            &row.upstream_updated_at,
            &row.upstream_created_at,
        ];
        next.tick().await;
        let began = Instant::now();
        assert_eq!(client.execute(&upsert, &values).await.expect("inserted"), 1);
        took.push(began.elapsed());
    }
    took
}

/// A tick each `period`, and none to make up for those that were missed.
fn every(period: Duration) -> Interval {
    let mut next = interval(period);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    next
}

/// Publishes as fast as possible; returns how long it took until everything was visible.
async fn publish_fast(node: &Node, table: &Looker, requests: Vec<Request>) -> Duration {
    let began = Instant::now();
    let published = stream::iter(&requests).map(|request| node.publish(request.lines.clone()));
    published.buffer_unordered(CONCURRENT).collect::<Vec<_>>().await;
    // The last ones, so that each writer has some of them.
    let last = requests.iter().rev().take(20);
    join_all(last.map(|request| table.until_visible(request.probe, rest))).await;
    began.elapsed()
}

/// Begins to publish a request after each `pace`, whatever the others do; returns how long each took from its
/// acknowledgement until its last row was visible.
async fn publish_paced(node: &Node, table: &Looker, requests: Vec<Request>, pace: Duration) -> Vec<Duration> {
    let began = tokio::time::Instant::now();
    let visible = (0u32..).zip(requests).map(async |(number, request)| {
        sleep_until(began + pace * number).await;
        node.publish(request.lines).await;
        let acknowledged = Instant::now();
        table.until_visible(request.probe, rest).await;
        acknowledged.elapsed()
    });
    join_all(visible).await
}

async fn rest() {
    sleep(LOOK_EVERY_OF_MANY).await;
}

/// What most take at most, and what nearly all do, in milliseconds.
struct Spread {
    median: f64,
    p99: f64,
}

impl Spread {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let below = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1000.0;
        let slowest = took.last().expect("some");
        eprintln!("  median {:.2} ms, p99 {:.2} ms, slowest {slowest:?}", below(50), below(99));
        Self { median: below(50), p99: below(99) }
    }
}
