//! The whole way of a record, beside what PostgreSQL itself can do: each figure of ours with its limit, from the same
//! run on the same machine.
//!
//! `cargo bench --bench end_to_end -- [CHAPTER…] [--records N] [--rounds N] [--json FILE]`. What the figures mean is in
//! `benches/README.md`.

#[path = "end_to_end/bare.rs"]
mod bare;
#[path = "end_to_end/bloat.rs"]
mod bloat;
#[path = "end_to_end/bulk.rs"]
mod bulk;
#[path = "end_to_end/cluster.rs"]
mod cluster;
#[path = "end_to_end/cpu.rs"]
mod cpu;
#[path = "end_to_end/failover.rs"]
mod failover;
#[path = "end_to_end/fleet.rs"]
mod fleet;
#[path = "end_to_end/footprint.rs"]
mod footprint;
#[path = "end_to_end/heartbeats.rs"]
mod heartbeats;
#[path = "end_to_end/latency.rs"]
mod latency;
#[path = "../tests/support/nats.rs"]
#[expect(dead_code, reason = "tests also do to the servers what no bench does")]
mod nats;
#[path = "end_to_end/network.rs"]
mod network;
#[path = "end_to_end/node.rs"]
mod node;
#[path = "end_to_end/ours.rs"]
mod ours;
#[path = "end_to_end/peers.rs"]
mod peers;
#[path = "end_to_end/psql.rs"]
mod psql;
#[path = "end_to_end/publishing.rs"]
mod publishing;
#[path = "end_to_end/rebalance.rs"]
mod rebalance;
#[path = "end_to_end/receiver.rs"]
mod receiver;
#[path = "end_to_end/report.rs"]
mod report;
#[path = "end_to_end/rows.rs"]
mod rows;
#[path = "end_to_end/scale.rs"]
mod scale;
#[path = "end_to_end/server.rs"]
mod server;
#[path = "../tests/support/sshd.rs"]
#[expect(dead_code, reason = "tests also do to the servers what no bench does")]
mod sshd;
#[path = "end_to_end/telemetry.rs"]
mod telemetry;

use std::{path::PathBuf, process::exit};

use report::{Figure, Report};

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many records, when it is not said.
const RECORDS: u64 = 300_000;

/// How many times all of it is done, when it is not said, each time on a new server: no machine is quiet.
const ROUNDS: usize = 3;

/// How many syncs they belong to, where a chapter does not say otherwise.
const SYNCS: u32 = 2000;

/// What is measured together, by name.
const CHAPTERS: &[(&str, Chapter)] = &[
    ("bulk", |size| Box::pin(bulk::measure(size))),
    ("latency", |size| Box::pin(latency::measure(size))),
    ("publishing", |size| Box::pin(publishing::measure(size))),
    ("bloat", |size| Box::pin(bloat::measure(size))),
    ("footprint", |size| Box::pin(footprint::measure(size))),
    ("telemetry", |size| Box::pin(telemetry::measure(size))),
    ("network", |size| Box::pin(network::measure(size))),
    ("peers", |size| Box::pin(peers::measure(size))),
    ("scale", |size| Box::pin(scale::measure(size))),
    ("cluster", |size| Box::pin(cluster::measure(size))),
    ("failover", |size| Box::pin(failover::measure(size))),
    ("heartbeats", |size| Box::pin(heartbeats::measure(size))),
    ("rebalance", |size| Box::pin(rebalance::measure(size))),
];

/// One round of a chapter: the same figures each time, in the same order.
type Chapter = fn(Size) -> std::pin::Pin<Box<dyn Future<Output = Vec<Figure>>>>;

/// How much there is to do in one round.
#[derive(Clone, Copy)]
struct Size {
    records: u64,
    /// Which round it is, from 0: what goes first in one goes last in the next.
    round: usize,
}

struct Arguments {
    records: u64,
    rounds: usize,
    json: Option<PathBuf>,
    chapters: Vec<&'static (&'static str, Chapter)>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { records: RECORDS, rounds: ROUNDS, json: None, chapters: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
            match word.as_str() {
                "--json" => parsed.json = Some(value()?.into()),
                // Cargo's own.
                "--bench" => {}
                "--records" => parsed.records = number(&value()?)?,
                "--rounds" => parsed.rounds = usize::try_from(number(&value()?)?).map_err(|error| error.to_string())?,
                name => match CHAPTERS.iter().find(|chapter| chapter.0 == name) {
                    Some(chapter) => parsed.chapters.push(chapter),
                    None => return Err(unknown(name)),
                },
            }
        }
        if parsed.chapters.is_empty() {
            parsed.chapters = CHAPTERS.iter().collect();
        }
        Ok(parsed)
    }
}

fn number(word: &str) -> Result<u64, String> {
    let number = word.replace('_', "").parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{word}: not a number above 0"))
}

fn unknown(word: &str) -> String {
    let chapters: Vec<_> = CHAPTERS.iter().map(|(name, _)| *name).collect();
    format!("{word}: takes --records N, --rounds N, --json FILE, and of the chapters: {}", chapters.join(", "))
}

fn main() {
    let arguments = Arguments::parse().unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(2);
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut report = Report::default();
    for (name, chapter) in arguments.chapters {
        for round in 0..arguments.rounds {
            eprintln!("{name}: round {} of {}", round + 1, arguments.rounds);
            report.add(runtime.block_on(chapter(Size { records: arguments.records, round })));
        }
    }
    println!("\n{}", report.markdown());
    if let Some(path) = arguments.json {
        std::fs::write(path, report.json()).expect("the file is written");
    }
}
