//! What telemetry costs: a node that tells all that it can of itself, one that tells what it does by default, and one that tells
//! nothing, in turns. Each is published to over HTTP, brings that by a backfill, and then what is published meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sequin::demo::crm::Crm;
use sequin_actors::model::TableName;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::{
    SYNCS, Size,
    bulk::rate,
    node::{Node, to},
    publishing::{self, REQUEST},
    receiver::{Received, Receiver},
    report::{Figure, Goal},
    rows::{SEED, parse, requests},
    server::{Server, sql},
};

/// How often a node is scraped.
const SCRAPED_EVERY: Duration = Duration::from_secs(1);

/// How many records a request has while they are brought as they come, and which part of all these are.
const LIVE_REQUEST: usize = 100;
pub(crate) const LIVE_PART: u64 = 4;

/// How many of the last records are looked for: those of the requests that may have been under way together.
const LAST: usize = 4 * LIVE_REQUEST;

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a node tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Its metrics, exported and scraped each second, its logs, and a span of everything that has one: as much as there is.
    Everything,
    /// The same, with the spans that the default sampler takes.
    ByDefault,
    Nothing,
}

use Telling::{ByDefault, Everything, Nothing};

/// What the nodes of a round tell, one after the other and then backwards, so that what drifts does so for all.
const TURNS: [[Telling; 3]; 3] =
    [[Everything, ByDefault, Nothing], [ByDefault, Nothing, Everything], [Nothing, Everything, ByDefault]];

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let traffic = Traffic::of(records);
    // Whoever comes first has a server to warm up.
    traffic.pass(Nothing, &server).await;

    let [mut everything, mut by_default, mut nothing] = [Passes::default(); 3];
    let turns = TURNS[round % TURNS.len()];
    for telling in turns.into_iter().chain(turns.into_iter().rev()) {
        let passes = match telling {
            Everything => &mut everything,
            ByDefault => &mut by_default,
            Nothing => &mut nothing,
        };
        passes.add(traffic.pass(telling, &server).await);
    }
    let of_everything = [
        "publishing over HTTP, with metrics, logs and every span",
        "a backfill of that, likewise",
        "published and brought at once, likewise",
        "CPU time of the node for all of that",
    ];
    let of_default = [
        "publishing over HTTP, with telemetry by default",
        "a backfill of that, likewise by default",
        "published and brought at once, likewise by default",
        "CPU time of the node for all of that, by default",
    ];
    let figures = [(of_everything, everything, Goal::None), (of_default, by_default, Goal::TimesAtLeast(0.98))];
    figures.into_iter().flat_map(|(what, passes, goal)| passes.beside(nothing, what, records, goal)).collect()
}

/// How long it took, and the CPU time of the node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passes {
    published: Duration,
    pub(crate) backfill: Duration,
    pub(crate) live: Duration,
    pub(crate) cpu: Duration,
}

impl Passes {
    pub(crate) fn add(&mut self, Self { published, backfill, live, cpu }: Self) {
        self.published += published;
        self.backfill += backfill;
        self.live += live;
        self.cpu += cpu;
    }

    /// Two passes of each, beside as many `without`.
    fn beside(self, without: Self, what: [&'static str; 4], records: u64, goal: Goal) -> [Figure; 4] {
        let figure = |what, unit, [with, without]: [f64; 2], goal| Figure {
            what,
            unit,
            ours: with,
            beside: Some(("without", without)),
            goal,
        };
        let rates = |what, records, took: [Duration; 2]| {
            figure(what, "records/s", took.map(|took| rate(2 * records, took)), goal)
        };
        let [published, backfill, live, cpu] = what;
        [
            rates(published, records, [self.published, without.published]),
            rates(backfill, records, [self.backfill, without.backfill]),
            rates(live, records / LIVE_PART, [self.live, without.live]),
            figure(cpu, "s", [self.cpu, without.cpu].map(|cpu| cpu.as_secs_f64()), Goal::None),
        ]
    }
}

/// What is published: records to be there before there is a consumer, and others while there is one.
pub(crate) struct Traffic {
    before: Vec<Bytes>,
    live: Vec<Bytes>,
    last: Vec<Uuid>,
}

impl Traffic {
    pub(crate) fn of(records: u64) -> Self {
        let lines: Vec<_> = Crm::new(SEED + 1, SYNCS).backfill(records / LIVE_PART).collect();
        let last = lines.iter().rev().take(LAST).map(|line| parse(line).record().sequin_id.0);
        Self {
            before: requests(records, SYNCS, REQUEST),
            live: lines.chunks(LIVE_REQUEST).map(|lines| lines.join("\n").into()).collect(),
            last: last.collect(),
        }
    }

    /// Has a new node do all of it, which tells this of itself.
    async fn pass(&self, telling: Telling, server: &Server) -> Passes {
        let table = server.table("telemetry").await;
        server.settle().await;
        let receiver = Receiver::start();
        let mut node = Node::start_with(&telling.settings(&receiver)).await;
        let connection = to(&server.postgres);
        let passes = tokio::select! {
            passes = self.through(&node, server, &connection, &table) => passes,
            () = scrape(&node), if telling != Nothing => unreachable!("it goes on for ever"),
        };
        node.signal("TERM");
        node.end().await;
        telling.check(&receiver.received());
        server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
        eprintln!("{telling:?}: {passes:?}, {:?}", receiver.received());
        passes
    }

    /// Has a new node do all of it, which is told so how to reach the server.
    pub(crate) async fn through(&self, node: &Node, server: &Server, connection: &Value, table: &TableName) -> Passes {
        let before = node.cpu();
        let published = publishing::publish(node, &self.before).await;
        node.forward_by(connection, table).await;
        let backfill = backfill_of(node).await;

        let look = format!("select count(*) from {} where sequin_id = any($1)", sql(table));
        let look = server.client.prepare(&look).await.expect("a statement");
        let there = async || server.client.query_one(&look, &[&self.last]).await.expect("a count").get::<_, i64>(0);
        let began = Instant::now();
        publishing::publish(node, &self.live).await;
        while usize::try_from(there().await) != Ok(self.last.len()) {
            sleep(LOOK_EVERY).await;
        }
        Passes { published, backfill, live: began.elapsed(), cpu: node.cpu().saturating_sub(before) }
    }
}

/// How long the node says that its backfill took.
async fn backfill_of(node: &Node) -> Duration {
    let consumer = node.get("/v1/consumers/bench").await;
    let at = |field: &str| -> DateTime<Utc> {
        consumer["backfill"][field].as_str().and_then(|text| text.parse().ok()).expect("a time")
    };
    (at("finished_at") - at("started_at")).to_std().expect("in this order")
}

/// Scrapes it for ever.
async fn scrape(node: &Node) {
    let mut every = interval(SCRAPED_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        assert!(node.metrics().await.contains("\nsequin_targets_owned"), "the metrics of an engine");
    }
}

impl Telling {
    fn settings(self, receiver: &Receiver) -> Vec<(&'static str, &str)> {
        let exported = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ];
        match self {
            Everything => [&exported[..], &[("OTEL_TRACES_SAMPLER", "parentbased_always_on")]].concat(),
            ByDefault => exported.into(),
            Nothing => vec![("SEQUIN_METRICS", "off")],
        }
    }

    /// A figure counts only if it is of what it says.
    fn check(self, received: &Received) {
        let &Received { exports_of_metrics, spans, linked_spans, log_records } = received;
        let has_come = [exports_of_metrics > 0, log_records > 0];
        assert_eq!(has_come, [self != Nothing; 2], "{self:?}: {received:?}");
        // Of few requests, the default sampler may take none.
        assert!(self != Everything || (spans > 0 && linked_spans > 0), "{self:?}: {received:?}");
        assert!(self != Nothing || spans == 0, "{self:?}: {received:?}");
    }
}
