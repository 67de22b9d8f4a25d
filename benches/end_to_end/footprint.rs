//! Many consumers on many targets in one process: what they take while nothing happens, and whether one that is flooded
//! keeps the others waiting.

use std::{
    collections::HashMap,
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use sequin::demo::crm::PROVIDER;
use sequin_actors::{
    model::{Consumer, Filter, SyncId, Target, TargetId},
    postgres::create_table_sql,
    store::{Documents, Keyring, SqliteStore},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    SYNCS, Size,
    bare::{Bare, Batches},
    node::Node,
    ours::{consumer, target},
    report::{Figure, Goal},
    rows::Rows,
    server::{Server, sql},
};

const TARGETS: usize = 1000;
const CONSUMERS: usize = 10_000;

/// Those that get records in the second part, one a target.
const ACTIVE: usize = 1000;

/// Long enough that what is done once in five minutes has its part in it.
const IDLE: Duration = Duration::from_secs(60);

/// How often all are looked at: that is a lot to list.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long after the last record it counts as idle.
const SETTLED: Duration = Duration::from_secs(20);

/// How long peace is measured.
const PEACE: Duration = Duration::from_secs(20);

/// The trickle: so many records, each of another sync, so often. Each of the active gets one every two seconds.
const TRICKLE: usize = 10;
const TRICKLE_INTERVAL: Duration = Duration::from_millis(20);

/// The flood: what the API takes at once, so many times.
const FLOOD: usize = 5000;
const FLOODS: usize = 40;

/// As many as a consumer has writers.
const FLOOD_CONNECTIONS: usize = 3;

/// Who is flooded: none of those of the trickle, but on one of their targets.
const FLOODED: usize = CONSUMERS - 1;

/// All targets are one server: it needs room for their pools. And it says when each row was committed.
const SETTINGS: &[(&str, &str)] = &[("max_connections", "4200"), ("track_commit_timestamp", "on")];

/// One round: it is long, and what it counts differs little between rounds, so there is nothing in those that follow.
pub(crate) async fn measure(size: Size) -> Vec<Figure> {
    if size.round > 0 {
        return Vec::new();
    }
    let server = Server::start_with(SETTINGS).await;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    eprintln!("making {CONSUMERS} tables and consumers");
    let key = Keyring::generate_base64();
    let consumers = prepare(&server, &data, &key).await;

    let began = Instant::now();
    let node = Node::start_on(&data, &key).await;
    until_all(&node, "live", |consumer| consumer["state"] == "live").await;
    let started = began.elapsed();
    eprintln!("all are live after {started:?}, with {:.0} MiB; a record for each", node.memory_mib("VmRSS"));
    for syncs in (0..CONSUMERS).collect::<Vec<_>>().chunks(FLOOD) {
        node.publish(syncs.iter().map(|&sync| line(sync, "first", 0)).collect::<String>().into()).await;
    }
    until_all(&node, "through", |consumer| consumer["applied"]["upserts"] == 1).await;

    eprintln!("nothing, for {IDLE:?}");
    tokio::time::sleep(SETTLED).await;
    let (before, began) = (node.cpu(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let cpu = 100.0 * node.cpu().saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    let (idle, peak) = (node.memory_mib("VmRSS"), node.memory_mib("VmHWM"));
    eprintln!("{cpu:.1} % of a core, {idle:.0} MiB, {peak:.0} MiB at most");

    until_all(&node, "well", |consumer| consumer["health"]["status"] == "healthy").await;
    let [peace, flood, bare_flood] = fairness(&server, &node, &consumers).await;
    let figure = |what, unit, ours, goal| Figure { what, unit, ours, beside: None, goal };
    vec![
        figure("10,000 consumers on 1,000 targets: started", "s", started.as_secs_f64(), Goal::None),
        figure("10,000 idle consumers: memory", "MiB", idle, Goal::AtMost(1024.0)),
        figure("10,000 idle consumers: peak since their start", "MiB", peak, Goal::AtMost(1024.0)),
        figure("10,000 idle consumers: CPU, of one core", "%", cpu, Goal::AtMost(5.0)),
        Figure {
            beside: Some(("in peace", peace)),
            ..figure(
                "1,000 active, another flooded: p99 from acknowledged to visible",
                "ms",
                flood,
                Goal::TimesAtMost(2.0),
            )
        },
        Figure {
            beside: Some(("while a bare program floods the server", bare_flood)),
            ..figure("the same", "ms", flood, Goal::None)
        },
    ]
}

/// Makes the tables, and the documents in the data directory: a sync, a consumer and a table each.
async fn prepare(server: &Server, data: &Path, key: &str) -> Vec<Consumer> {
    std::fs::create_dir(data).expect("a directory");
    let store = SqliteStore::open(&data.join("control.db")).await.expect("a store");
    let documents = Documents::new(Arc::new(store), Arc::new(Keyring::from_base64(key).expect("a key")));
    let target_of = |n| Target { id: TargetId::generate(), name: format!("target-{n}"), ..target(&server.postgres) };
    let targets: Vec<_> = (0..TARGETS).map(target_of).collect();
    let consumer_of = |n: usize| {
        let target = targets[n % TARGETS].id;
        let table = sequin_actors::model::TableName { schema: "bench".into(), table: format!("t{n}") };
        consumer(&format!("consumer-{n}"), target, Filter::Sync(sync(n)), &table)
    };
    let consumers: Vec<_> = (0..CONSUMERS).map(consumer_of).collect();
    for some in consumers.chunks(100) {
        let tables: Vec<_> = some.iter().map(|consumer| create_table_sql(&consumer.table)).collect();
        server.client.batch_execute(&tables.join(";")).await.expect("tables");
    }
    let now = Utc::now();
    for made in join_all(targets.iter().map(|target| documents.create(target, now))).await {
        made.expect("a target");
    }
    for made in join_all(consumers.iter().map(|consumer| documents.create(consumer, now))).await {
        made.expect("a consumer");
    }
    server.settle().await;
    consumers
}

/// A sync, by number.
pub(crate) fn sync(number: usize) -> SyncId {
    SyncId(Uuid::from_u128(number as u128 + 1))
}

/// A record, as it is published.
pub(crate) fn line(sync_number: usize, collection: &str, number: usize) -> String {
    let record = json!({
        "provider": PROVIDER,
        "sync_id": sync(sync_number).0,
        "collection_id": collection,
        "upstream_id": number.to_string(),
        "payload": { "name": "a contact", "note": "x".repeat(600) },
    });
    format!("{record}\n")
}

async fn until_all(node: &Node, what: &str, is: impl Fn(&Value) -> bool) {
    loop {
        let done = node.all("/v1/consumers").await.into_iter().filter(&is).count();
        eprintln!("  {done} are {what}, {:.0} MiB, {:?} of CPU", node.memory_mib("VmRSS"), node.cpu());
        if done == CONSUMERS {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The 99th percentile of the time from acknowledged to visible, in milliseconds: in peace, while one is flooded, and while
/// somebody else floods the server for as long, and the node knows nothing of it.
async fn fairness(server: &Server, node: &Node, consumers: &[Consumer]) -> [f64; 3] {
    let flood = |part: usize| (0..FLOOD).map(|n| line(FLOODED, "flood", part * FLOOD + n)).collect::<String>();
    let floods: Vec<_> = (0..FLOODS).map(flood).collect();
    let mut trickle = Trickle::default();
    eprintln!("a trickle for {ACTIVE} of them");
    trickle.run(node, tokio::time::sleep(PEACE / 4)).await;
    let in_peace = trickle.run(node, tokio::time::sleep(PEACE)).await;
    let (cpu, began) = (node.cpu(), Instant::now());
    let in_flood = trickle.run(node, bring(node, floods, &consumers[FLOODED])).await;
    let took = began.elapsed();
    eprintln!(
        "flooded for {took:?}, with {:?} of CPU; {:.0} MiB",
        node.cpu().saturating_sub(cpu),
        node.memory_mib("VmHWM")
    );
    let mut bare = Bare::default();
    Rows::new((FLOOD * FLOODS) as u64, SYNCS, |record, idx| bare.push(record, idx)).for_each(drop);
    let bare = bare.finish();
    tokio::time::sleep(SETTLED).await;
    let in_bare_flood = trickle.run(node, flood_server(server, &bare, took)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let visible = commit_times(server, consumers).await;
    let latencies = |numbers: Range<usize>| {
        let of = |number| (visible[&number] - trickle.acknowledged[&number]).as_seconds_f64() * 1000.0;
        let mut all: Vec<f64> = numbers.map(of).collect();
        all.sort_by(f64::total_cmp);
        let at = |percent: usize| all[(all.len() - 1) * percent / 100];
        eprintln!(
            "  {} records: p50 {:.1}, p90 {:.1}, p99 {:.1}, p100 {:.1} ms",
            all.len(),
            at(50),
            at(90),
            at(99),
            at(100)
        );
        at(99)
    };
    [in_peace, in_flood, in_bare_flood].map(latencies)
}

/// Copies rows to the server for so long.
async fn flood_server(server: &Server, rows: &Batches, time: Duration) {
    let began = Instant::now();
    let mut copied = 0;
    while began.elapsed() < time {
        let table = server.table(&format!("flood_{copied}")).await;
        rows.copy(server, &table, FLOOD_CONNECTIONS).await;
        copied += 1;
    }
    eprintln!("the server flooded {copied} times in {:?}", began.elapsed());
}

/// Publishes the flood, and waits until all of it is in the table.
async fn bring(node: &Node, floods: Vec<String>, consumer: &Consumer) {
    for flood in floods {
        node.publish(flood.into()).await;
    }
    let all = 1 + FLOOD * FLOODS;
    while node.get(&format!("/v1/consumers/{}", consumer.id)).await["applied"]["upserts"] != all {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Records that come all the time, a new one each.
#[derive(Default)]
struct Trickle {
    next: usize,
    /// When each was acknowledged.
    acknowledged: HashMap<usize, DateTime<Utc>>,
}

impl Trickle {
    /// Publishes until `end`, in its rhythm whatever the answers take, and returns which records those were.
    async fn run(&mut self, node: &Node, end: impl Future<Output = ()>) -> Range<usize> {
        let first = self.next;
        let mut rhythm = tokio::time::interval(TRICKLE_INTERVAL);
        let mut publications = JoinSet::new();
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = rhythm.tick() => {
                    let numbers = self.next..self.next + TRICKLE;
                    self.next = numbers.end;
                    let lines: String = numbers.clone().map(|number| line(number % ACTIVE, "trickle", number)).collect();
                    let published = node.publish(lines.into());
                    publications.spawn(async move {
                        published.await;
                        (numbers, Utc::now())
                    });
                }
            }
        }
        for (numbers, acknowledged_at) in publications.join_all().await {
            self.acknowledged.extend(numbers.map(|number| (number, acknowledged_at)));
        }
        first..self.next
    }
}

/// When each record of the trickle was committed, asked of the server afterwards: that takes nothing of the machine
/// meanwhile. (The server takes the time just before it waits for its disk, in peace as in the flood.)
async fn commit_times(server: &Server, consumers: &[Consumer]) -> HashMap<usize, DateTime<Utc>> {
    let mut times = HashMap::new();
    for consumer in &consumers[..ACTIVE] {
        let rows = format!(
            "select upstream_id, pg_xact_commit_timestamp(xmin) from {} where collection_id = 'trickle'",
            sql(&consumer.table)
        );
        for row in server.client.query(&rows, &[]).await.expect("rows") {
            times.insert(row.get::<_, String>(0).parse().expect("a number"), row.get(1));
        }
    }
    times
}
