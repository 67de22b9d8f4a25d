//! What three nodes at rest say to NATS, and hear of it: with no targets, with some whose database answers, and with many
//! whose database does not.

use std::{
    fs,
    time::{Duration, Instant},
};

use sequin_actors::model::{Target, TargetId};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    Size,
    fleet::Fleet,
    nats::Nats,
    ours::target,
    report::{Figure, Goal},
    server::Server,
};

const NODES: usize = 3;

/// A target takes a session of the database, and a session of PostgreSQL a process of 2 MB: more would not fit on this machine.
const WELL: usize = 2000;

/// All that there are to be; their database can't be reached.
const UNREACHABLE: usize = 10_000;

/// How long everything must have been as it is.
const SETTLED: Duration = Duration::from_secs(45);

/// How long it is counted: several times as long as what comes most seldom takes to come again.
const COUNTED: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Each server answers what it has counted on a port that it chooses.
const MONITORING: &str = "http: \"127.0.0.1:-1\"";

const MONITORED: &str = "Starting http monitor on ";

/// One round: it is long, and what it counts differs little between rounds.
pub(crate) async fn measure(size: Size) -> Vec<Figure> {
    if size.round > 0 {
        return Vec::new();
    }
    let connections = (WELL + 200).to_string();
    let server = Server::start_with(&[("max_connections", &connections), ("shared_buffers", "64MB")]).await;
    let well = target(&server.postgres);
    let mut unreachable = well.clone();
    // Nobody listens there.
    unreachable.connection.port = 1;
    let none = at_rest(&well, 0, "").await;
    let some = at_rest(&well, WELL, "healthy").await;
    let many = at_rest(&unreachable, UNREACHABLE, "unhealthy").await;
    let figure =
        |what, unit, ours, none| Figure { what, unit, ours, beside: Some(("without targets", none)), goal: Goal::None };
    let rows = |[to, from, bytes, between]: [&'static str; 4], said: Said| {
        [
            figure(to, "messages/s", said.in_messages, none.in_messages),
            figure(from, "messages/s", said.out_messages, none.out_messages),
            figure(bytes, "KiB/s", said.bytes / 1024.0, none.bytes / 1024.0),
            figure(between, "KiB/s", said.between_bytes / 1024.0, none.between_bytes / 1024.0),
        ]
    };
    let of_some = [
        "2,000 targets that answer: from three nodes to NATS",
        "2,000 targets that answer: from NATS to them",
        "2,000 targets that answer: both ways",
        "2,000 targets that answer: from NATS server to NATS server",
    ];
    let of_many = [
        "10,000 targets that don't answer: from three nodes to NATS",
        "10,000 targets that don't answer: from NATS to them",
        "10,000 targets that don't answer: both ways",
        "10,000 targets that don't answer: from NATS server to NATS server",
    ];
    [rows(of_some, some), rows(of_many, many)].into_iter().flatten().collect()
}

/// What the servers have heard from their clients, and said to them and to each other.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    in_messages: f64,
    out_messages: f64,
    bytes: f64,
    between_bytes: f64,
}

/// What is said in a second, on average, when so many targets of one kind are as they are to be.
async fn at_rest(like: &Target, targets: usize, state: &str) -> Said {
    let mut fleet = Fleet::on(Nats::start_with(NODES, MONITORING, ""));
    let named = |n| Target { id: TargetId::generate(), name: format!("target-{n}"), ..like.clone() };
    fleet.provide(&(0..targets).map(named).collect::<Vec<_>>(), &[]).await;
    let began = Instant::now();
    for number in 0..NODES {
        fleet.join(&format!("node-{number}")).await;
    }
    fleet.shares(NODES, targets).await;
    eprintln!("{targets} targets: owned after {:?}", began.elapsed());
    loop {
        let is_so = |target: &Value| target["state"] == state;
        let found = fleet.nodes[0].all("/v1/targets").await.into_iter().filter(is_so).count();
        if found == targets {
            break;
        }
        eprintln!("  {found} are {state} after {:?}", began.elapsed());
        sleep(LOOK_EVERY).await;
    }
    sleep(SETTLED).await;
    let (before, cpu) = (said(&fleet.nats).await, spent(&fleet));
    let counting = Instant::now();
    sleep(COUNTED).await;
    let (after, cpu) = (said(&fleet.nats).await, spent(&fleet).saturating_sub(cpu));
    let seconds = counting.elapsed().as_secs_f64();
    let memory: Vec<String> = fleet.nodes.iter().map(|node| format!("{:.0}", node.memory_mib("VmRSS"))).collect();
    let of_a_core = 100.0 * cpu.as_secs_f64() / seconds;
    eprintln!("  the nodes: {} MiB, {of_a_core:.1} % of a core together", memory.join(", "));
    let per_second = |of: fn(&Said) -> f64| (of(&after) - of(&before)) / seconds;
    let said = Said {
        in_messages: per_second(|said| said.in_messages),
        out_messages: per_second(|said| said.out_messages),
        bytes: per_second(|said| said.bytes),
        between_bytes: per_second(|said| said.between_bytes),
    };
    eprintln!("  {said:?}");
    said
}

fn spent(fleet: &Fleet) -> Duration {
    fleet.nodes.iter().map(super::node::Node::cpu).sum()
}

/// What all servers have counted up to now: <https://docs.nats.io/running-a-nats-service/nats_admin/monitoring>.
async fn said(nats: &Nats) -> Said {
    let mut all = Said::default();
    for number in 0..NODES {
        let log = fs::read_to_string(nats.place(number).join("log")).expect("its log");
        let address = log.split(MONITORED).nth(1).and_then(|rest| rest.split_whitespace().next());
        let url = format!("http://{}/varz", address.expect("where it is monitored"));
        let answer = reqwest::get(url).await.expect("an answer").bytes().await.expect("a body");
        let counted: Value = serde_json::from_slice(&answer).expect("JSON");
        let count = |name: &str| counted[name].as_f64().expect("a count");
        all.in_messages += count("in_client_msgs");
        all.out_messages += count("out_client_msgs");
        all.bytes += count("in_client_bytes") + count("out_client_bytes");
        all.between_bytes += count("out_bytes") - count("out_client_bytes");
    }
    all
}
