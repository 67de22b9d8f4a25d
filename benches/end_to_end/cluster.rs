//! What it costs that the stream lies on NATS: backfills and publishing, on one NATS server and on three that keep each
//! record three times, beside the embedded stream and a bare program.

use std::time::Duration;

use super::{
    SYNCS, Size,
    bare::{Bare, Batches, CONNECTIONS},
    bulk::rate,
    cpu::idle,
    fleet::Fleet,
    nats::Nats,
    node::Node,
    ours::Ours,
    publishing::{REQUEST, publish},
    report::{Figure, Goal},
    rows::{Rows, requests},
    server::{Server, sql},
};

/// Where the stream lies: in an order that each round takes from another end.
const EMBEDDED: usize = 0;
const ONE_SERVER: usize = 1;
const THREE_SERVERS: usize = 2;

pub(crate) async fn measure(size: Size) -> Vec<Figure> {
    let mut figures = backfills(size).await;
    figures.extend(publications(size).await);
    figures
}

async fn backfills(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let (one, three) = (Nats::start(), Nats::start_cluster());
    let mut streams = [
        Ours::open(directory.path(), &server.postgres).await,
        Ours::open_on(&one, &server.postgres).await,
        Ours::open_on(&three, &server.postgres).await,
    ];
    eprintln!("publishing {records} records to each of three streams");
    let mut bare = Bare::default();
    streams[EMBEDDED].publish(Rows::new(records, SYNCS, |record, idx| bare.push(record, idx))).await;
    for stream in &mut streams[ONE_SERVER..] {
        stream.publish(Rows::new(records, SYNCS, |_, _| {})).await;
    }
    let batches = bare.finish();
    idle(&server.postgres).await;

    eprintln!("bringing them to a table, and the same backwards");
    // Once for the server to make the files of its log, which it uses again from then on.
    bring(&server, &streams[EMBEDDED], records).await;
    let mut order = [EMBEDDED, ONE_SERVER, THREE_SERVERS];
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    let mut took = [Duration::ZERO; 3];
    let mut copied = copy(&server, &batches).await;
    for &stream in order.iter().chain(order.iter().rev()) {
        took[stream] += bring(&server, &streams[stream], records).await;
    }
    copied += copy(&server, &batches).await;
    let [embedded, one, three] = took.map(|took| rate(2 * records, took));
    let copied = rate(2 * records, copied);
    let figure = |what, ours, beside| Figure { what, unit: "rows/s", ours, beside: Some(beside), goal: Goal::None };
    let (of_one, of_three) = ("a backfill from one NATS server", "a backfill from three NATS servers");
    vec![
        figure(of_one, one, ("from the embedded stream", embedded)),
        figure(of_one, one, ("bare binary COPY", copied)),
        figure(of_three, three, ("from the embedded stream", embedded)),
        figure(of_three, three, ("bare binary COPY", copied)),
    ]
}

/// Brings it to an empty table.
async fn bring(server: &Server, stream: &Ours, records: u64) -> Duration {
    let table = server.table("ours").await;
    server.settle().await;
    let took = stream.backfill("cluster", &table).await;
    let count = format!("select count(*) from {}", sql(&table));
    let rows: i64 = server.client.query_one(&count, &[]).await.expect("a count").get(0);
    assert_eq!(rows.unsigned_abs(), records, "all of them are there");
    server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
    eprintln!("  {took:?}");
    took
}

/// Copies the same rows by a program that does nothing else, over as many connections as suit it best.
async fn copy(server: &Server, batches: &Batches) -> Duration {
    let mut best = Duration::MAX;
    for connections in CONNECTIONS {
        let table = server.table("bare").await;
        server.settle().await;
        best = best.min(batches.copy(server, &table, connections).await);
        server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
    }
    eprintln!("  bare: {best:?}");
    best
}

async fn publications(Size { records, round }: Size) -> Vec<Figure> {
    eprintln!("making {records} lines, and publishing each twice to each of three");
    let requests = requests(records, SYNCS, REQUEST);
    let mut took = [[Duration::ZERO; 2]; 3];
    let order = if round.is_multiple_of(2) { [0, 1, 2] } else { [2, 1, 0] };
    for place in order {
        let mut fleet = None;
        let alone;
        let node = match place {
            EMBEDDED => {
                alone = Node::start().await;
                &alone
            }
            servers => {
                let fleet =
                    fleet.insert(Fleet::on(if servers == ONE_SERVER { Nats::start() } else { Nats::start_cluster() }));
                fleet.join("node-0").await;
                &fleet.nodes[0]
            }
        };
        for took in &mut took[place] {
            *took = publish(node, &requests).await;
        }
        eprintln!("  {:?}", took[place]);
    }
    let [embedded, one, three] = took.map(|took| took.map(|took| rate(records, took)));
    let figure = |what, ours, beside| {
        let beside = Some(("to the embedded stream", beside));
        Figure { what, unit: "records/s", ours, beside, goal: Goal::None }
    };
    vec![
        figure("publishing new records to one NATS server", one[0], embedded[0]),
        figure("publishing new records to three NATS servers", three[0], embedded[0]),
        figure("publishing replacements to one NATS server", one[1], embedded[1]),
        figure("publishing replacements to three NATS servers", three[1], embedded[1]),
    ]
}
