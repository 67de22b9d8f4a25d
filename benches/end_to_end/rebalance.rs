//! A third node joins two that share 1,000 targets: how long it takes until it has its part, and how long records wait
//! meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Consumer, Filter, TableName, Target, TargetId},
    postgres::create_table_sql,
};
use tokio::time::sleep;
use tokio_postgres::Row;

use super::{
    Size,
    fleet::{Fleet, Traffic, median_and_worst},
    footprint::sync,
    nats::Nats,
    ours::{consumer, target},
    report::{Figure, Goal},
    server::{SCHEMA, Server, sql},
};

const TARGETS: usize = 1000;

/// Every tenth target has a consumer, to which records come all the time.
const CONSUMERS: usize = 100;

/// How long there is between two records: each consumer gets one a second.
const EVERY: Duration = Duration::from_millis(10);

/// How long it is after the last change that no more is expected.
const QUIET: Duration = Duration::from_secs(10);

/// How often it is looked who has what.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long records come before the node does.
const BEFORE: Duration = Duration::from_secs(10);

/// All targets are one server, which needs room for their pools, and says when each row was committed.
const SETTINGS: &[(&str, &str)] = &[("max_connections", "4200"), ("track_commit_timestamp", "on")];

pub(crate) async fn measure(_: Size) -> Vec<Figure> {
    let server = Server::start_with(SETTINGS).await;
    let mut fleet = Fleet::on(Nats::start_cluster());
    let consumers = provide(&server, &fleet).await;
    let began = Instant::now();
    for name in ["node-0", "node-1"] {
        fleet.join(name).await;
    }
    fleet.shares(2, TARGETS).await;
    let owned = began.elapsed();
    let mut traffic = Traffic { syncs: CONSUMERS, every: EVERY, sent: Vec::new() };
    let first = &fleet.nodes[0];
    let live = async || first.all("/v1/consumers").await.iter().filter(|found| found["state"] == "live").count();
    while live().await < CONSUMERS {
        sleep(LOOK_EVERY).await;
    }
    eprintln!("two nodes: all is owned after {owned:?}, and live after {:?}", began.elapsed());
    traffic.until(first, sleep(BEFORE)).await;
    let before = traffic.sent.len();
    let began = Instant::now();
    let newcomer = traffic.until(first, fleet.start("node-2")).await;
    let ready = began.elapsed();
    let shared = traffic.until(first, until_shared(&fleet, began)).await;
    eprintln!("the third is ready after {ready:?}, and has its part after {shared:?}");
    let visible = wait_for_all(&server, &consumers, &traffic).await;
    drop(newcomer);
    let late = |numbers: Range<usize>| {
        let late = |number: usize| (visible[&number] - traffic.sent[number].acknowledged_at).as_seconds_f64();
        median_and_worst(numbers.map(late).collect())
    };
    let (in_peace, meanwhile) = (late(0..before), late(before..traffic.sent.len()));
    let figure = |what, ours| Figure { what, unit: "s", ours, beside: None, goal: Goal::None };
    vec![
        figure("two nodes start with 1,000 targets: all are owned", owned.as_secs_f64()),
        figure("a third node starts: it is ready", ready.as_secs_f64()),
        figure("a third node starts: it has its part of 1,000 targets", shared.as_secs_f64()),
        Figure {
            beside: Some(("before", in_peace[0])),
            ..figure("meanwhile, from acknowledged to visible: median", meanwhile[0])
        },
        Figure {
            beside: Some(("before", in_peace[1])),
            ..figure("meanwhile, from acknowledged to visible: slowest", meanwhile[1])
        },
    ]
}

/// Makes the tables, and what is to run.
async fn provide(server: &Server, fleet: &Fleet) -> Vec<Consumer> {
    let like = target(&server.postgres);
    let named = |n| Target { id: TargetId::generate(), name: format!("target-{n}"), ..like.clone() };
    let targets: Vec<Target> = (0..TARGETS).map(named).collect();
    let consumer_of = |n: usize| {
        let table = TableName { schema: SCHEMA.into(), table: format!("t{n}") };
        consumer(&format!("consumer-{n}"), targets[n * TARGETS / CONSUMERS].id, Filter::Sync(sync(n)), &table)
    };
    let consumers: Vec<Consumer> = (0..CONSUMERS).map(consumer_of).collect();
    let tables: Vec<_> = consumers.iter().map(|consumer| create_table_sql(&consumer.table)).collect();
    server.client.batch_execute(&tables.join(";")).await.expect("tables");
    fleet.provide(&targets, &consumers).await;
    consumers
}

/// How long it took until the last change of who has what, after which three nodes have all of it, each its part.
async fn until_shared(fleet: &Fleet, began: Instant) -> Duration {
    let (mut last, mut changed) = (BTreeMap::new(), began.elapsed());
    loop {
        let looked = began.elapsed();
        let seen = fleet.seen_by(&fleet.nodes[0]).await;
        if seen != last {
            eprintln!("  {looked:?}: {:?}", seen.values().map(|of| of[0].targets).collect::<Vec<_>>());
            (last, changed) = (seen, looked);
        }
        let owned: Vec<usize> = last.values().flatten().map(|seen| seen.targets).collect();
        let is_shared = owned.len() == 3 && owned.iter().all(|&owned| owned > TARGETS / 6);
        if is_shared && owned.iter().sum::<usize>() == TARGETS && looked > changed + QUIET {
            return changed;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until everything that was sent is in its table, and returns when each was committed.
async fn wait_for_all(server: &Server, consumers: &[Consumer], traffic: &Traffic) -> HashMap<usize, DateTime<Utc>> {
    let of = |consumer: &Consumer| {
        format!("select upstream_id, pg_xact_commit_timestamp(xmin) from {}", sql(&consumer.table))
    };
    let all = consumers.iter().map(of).collect::<Vec<_>>().join(" union all ");
    loop {
        let rows = server.client.query(&all, &[]).await.expect("rows");
        if rows.len() == traffic.sent.len() {
            let number = |row: &Row| row.get::<_, String>(0).parse().expect("a number");
            return rows.iter().map(|row| (number(row), row.get(1))).collect();
        }
        sleep(LOOK_EVERY).await;
    }
}
