//! The whole way of a record, from the stream to a durable PostgreSQL, beside that server's own limit: two `psql \copy`
//! connections that load the same rows, in the same run.
//!
//! `cargo bench --bench end_to_end -- [--records N] [--rounds N] [--json]`. What the figures mean is in
//! `benches/README.md`.

#[path = "end_to_end/ours.rs"]
mod ours;
#[path = "end_to_end/rows.rs"]
mod rows;
#[path = "end_to_end/yardstick.rs"]
mod yardstick;

use std::{path::Path, time::Duration};

use sequin::demo::postgres::{Options, ThrowawayPostgres};
use sequin_actors::{model::TableName, postgres::create_table_sql};
use serde_json::json;
use tokio_postgres::NoTls;

use ours::Ours;
use rows::Rows;

/// How many records, when it is not said.
const RECORDS: u64 = 200_000;

/// How many times all of it is done, when it is not said, each time on a new server: no machine is quiet.
const ROUNDS: u64 = 3;

/// How many syncs they belong to.
const SYNCS: u32 = 2000;

/// The same for both; enough room that no checkpoint of the server's falls into one run and not into the other.
const SERVER: &[(&str, &str)] = &[("shared_buffers", "1GB"), ("max_wal_size", "16GB"), ("checkpoint_timeout", "1h")];

/// What the rows are loaded into: by ourselves, and by the yardstick.
const SCHEMA: &str = "bench";
const OURS: &str = "ours";
const YARDSTICK: &str = "yardstick";

/// One thing that was measured.
struct Stage {
    what: &'static str,
    /// In each round.
    took: Vec<Duration>,
}

struct Arguments {
    records: u64,
    rounds: u64,
    json: bool,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { records: RECORDS, rounds: ROUNDS, json: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || {
                let number = words.next().and_then(|number| number.replace('_', "").parse().ok());
                number.filter(|number| *number > 0).ok_or_else(|| format!("{word} takes a number"))
            };
            match word.as_str() {
                "--json" => parsed.json = true,
                // Cargo's own.
                "--bench" => {}
                "--records" => parsed.records = number()?,
                "--rounds" => parsed.rounds = number()?,
                other => return Err(format!("{other}: takes --records N, --rounds N and --json")),
            }
        }
        Ok(parsed)
    }
}

fn main() {
    let Arguments { records, rounds, json } = Arguments::parse().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut measured: Vec<Stage> = Vec::new();
    let mut row_bytes = 0;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let (stages, bytes) = runtime.block_on(Box::pin(measure(records)));
        row_bytes = bytes;
        measured.resize_with(stages.len(), || Stage { what: "", took: Vec::new() });
        for (stage, (what, took)) in measured.iter_mut().zip(stages) {
            stage.what = what;
            stage.took.push(took);
        }
    }
    if json {
        print_json(&measured, records, row_bytes);
    } else {
        print_table(&measured, records, row_bytes);
    }
}

/// Runs everything; returns what was measured, the yardstick first, and how many bytes a row of the yardstick's has.
async fn measure(records: u64) -> (Vec<(&'static str, Duration)>, u64) {
    let server = ThrowawayPostgres::with_options(&Options { durable: true, settings: SERVER }).expect("PostgreSQL");
    let directory = tempfile::tempdir().expect("a directory");
    let (client, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls).await.expect("a session");
    tokio::spawn(async move { drop(connection.await) });
    for table in [OURS, YARDSTICK] {
        client.batch_execute(&create_table_sql(&name(table))).await.expect("a table");
    }
    let settle = async || client.batch_execute("checkpoint").await.expect("a checkpoint");
    let mut ours = Ours::open(directory.path(), &server).await;

    eprintln!("making {records} records, and publishing them");
    let mut rows = Rows::create(directory.path(), records);
    let published = ours.publish(&mut rows).await;
    let row_bytes = rows.copied_bytes() / records.max(1);
    settle().await;
    eprintln!("loading them by psql");
    let copied = yardstick::load(&server, directory.path(), &format!("{SCHEMA}.{YARDSTICK}"));
    settle().await;
    eprintln!("bringing them by ourselves");
    let backfilled = ours.backfill("creates", &name(OURS)).await;
    check(&client, records).await;

    eprintln!("publishing an update of each, and bringing those");
    let updates = ours.publish(&mut Rows::update(records)).await;
    settle().await;
    let updated = ours.backfill("updates", &name(OURS)).await;
    let changed = format!("select count(*) from {SCHEMA}.{OURS} where updated_idx > $1");
    let changed: i64 = client.query_one(&changed, &[&records.cast_signed()]).await.expect("a count").get(0);
    assert_eq!(changed.unsigned_abs(), records, "every row was updated");

    let stages = vec![
        ("two `psql \\copy` into an empty table: the yardstick", copied),
        ("a backfill into an empty table", backfilled),
        ("a backfill that updates every row", updated),
        ("publishing new records", published),
        ("publishing updates", updates),
    ];
    (stages, row_bytes)
}

fn name(table: &str) -> TableName {
    TableName { schema: SCHEMA.into(), table: table.into() }
}

/// A figure counts only if both have loaded the same.
async fn check(client: &tokio_postgres::Client, records: u64) {
    let sql = format!(
        "select count(*), count(*) filter (where o.payload = y.payload and o.updated_idx = y.updated_idx
                and o.upstream_id = y.upstream_id and o.upstream_updated_at = y.upstream_updated_at)
         from {SCHEMA}.{OURS} o full join {SCHEMA}.{YARDSTICK} y using (sequin_id, sync_id)"
    );
    let row = client.query_one(&sql, &[]).await.expect("the counts");
    let (rows, same): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((rows.unsigned_abs(), same.unsigned_abs()), (records, records), "both tables hold the same rows");
}

impl Stage {
    /// The round in the middle.
    fn seconds(&self) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        took[took.len() / 2].as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate is shown to three digits")]
    fn rate(&self, records: u64) -> f64 {
        records as f64 / self.seconds()
    }
}

fn print_table(stages: &[Stage], records: u64, row_bytes: u64) {
    println!("\n{records} records of {row_bytes} bytes in {SYNCS} syncs; {} rounds\n", stages[0].took.len());
    println!("| what | seconds | rows/s | of the yardstick |\n|---|--:|--:|--:|");
    let yardstick = stages[0].rate(records);
    for stage in stages {
        let rate = stage.rate(records);
        println!("| {} | {:.2} | {rate:.0} | {:.2} |", stage.what, stage.seconds(), rate / yardstick);
    }
}

fn print_json(stages: &[Stage], records: u64, row_bytes: u64) {
    let yardstick = stages[0].rate(records);
    let stages = stages.iter().map(|stage| {
        json!({
            "what": stage.what,
            "seconds": stage.seconds(),
            "seconds_of_rounds": stage.took.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "rows_per_second": stage.rate(records),
            "of_yardstick": stage.rate(records) / yardstick,
        })
    });
    let stages: Vec<_> = stages.collect();
    println!("{}", json!({"records": records, "row_bytes": row_bytes, "syncs": SYNCS, "stages": stages}));
}

/// The file that one connection of the yardstick loads.
fn copy_file(directory: &Path, number: usize) -> std::path::PathBuf {
    directory.join(format!("{number}.copy"))
}
