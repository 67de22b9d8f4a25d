//! Backfills: into an empty table, and over every row of a full one.

use std::time::Duration;

use sequin_actors::model::TableName;

use super::{
    SYNCS, Size,
    bare::{Bare, Batches, CONNECTIONS},
    cpu::{Spent, idle},
    ours::Ours,
    psql::Psql,
    report::{Figure, Goal},
    rows::Rows,
    server::{Server, sql},
};

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut ours = Ours::open(directory.path(), &server.postgres).await;
    let table = server.table("ours").await;

    eprintln!("making {records} records, and publishing them");
    let (mut psql, mut bare) = (Psql::new(directory.path()), Bare::default());
    let rows = Rows::new(records, SYNCS, |record, idx| {
        psql.push(record, idx);
        bare.push(record, idx);
    });
    ours.publish(rows).await;
    let batches = bare.finish();
    idle(&server.postgres).await;

    eprintln!("loading them");
    let mut limits = Limits::default();
    if round.is_multiple_of(2) {
        limits = load_otherwise(&server, &batches, &mut psql).await;
    }
    let before = Spent::now(&server.postgres);
    let created = ours.backfill("creates", &table).await;
    let our_cpu = Spent::now(&server.postgres).our_percentage_since(before);
    server.settle().await;
    if !round.is_multiple_of(2) {
        limits = load_otherwise(&server, &batches, &mut psql).await;
    }
    check(&server, &table, records).await;

    eprintln!("publishing an update of each, and bringing those");
    let mut bare = Bare::default();
    let rows = Rows::new(records, SYNCS, |record, idx| bare.push(record, idx + records));
    ours.publish(rows).await;
    let batches = bare.finish();
    server.settle().await;
    idle(&server.postgres).await;
    let mut upserted = Duration::MAX;
    if round.is_multiple_of(2) {
        upserted = upsert_otherwise(&server, &batches, records).await;
    }
    let updated = ours.backfill("updates", &table).await;
    server.settle().await;
    if !round.is_multiple_of(2) {
        upserted = upsert_otherwise(&server, &batches, records).await;
    }
    assert_updated(&server, &table, records).await;

    let rate = |took: Duration| rate(records, took);
    let figure = |what, unit, ours, beside, goal| Figure { what, unit, ours, beside, goal };
    let (backfill, updates) = ("a backfill into an empty table", "a backfill that updates every row");
    vec![
        figure(
            backfill,
            "rows/s",
            rate(created),
            Some(("two `psql \\copy`", rate(limits.psql))),
            Goal::TimesAtLeast(1.0),
        ),
        figure(
            backfill,
            "rows/s",
            rate(created),
            Some(("bare binary COPY", rate(limits.copy))),
            Goal::TimesAtLeast(0.8),
        ),
        figure("our share of the CPU time of a backfill", "%", our_cpu, None, Goal::AtMost(20.0)),
        figure(updates, "rows/s", rate(updated), Some(("bare set-wise SQL", rate(upserted))), Goal::TimesAtLeast(0.9)),
    ]
}

#[derive(Default)]
struct Limits {
    psql: Duration,
    copy: Duration,
}

/// Loads the same rows by the server's client, and by a bare program.
async fn load_otherwise(server: &Server, batches: &Batches, psql: &mut Psql) -> Limits {
    let mut limits = Limits { copy: Duration::MAX, ..Limits::default() };
    let table = server.table("psql").await;
    server.settle().await;
    limits.psql = psql.load(&server.postgres, &table);
    for connections in CONNECTIONS {
        let table = server.table(&format!("bare{connections}")).await;
        server.settle().await;
        let took = batches.copy(server, &table, connections).await;
        eprintln!("  binary COPY over {connections} connections: {took:?}");
        limits.copy = limits.copy.min(took);
    }
    server.settle().await;
    limits
}

/// Updates every row of the tables that were loaded otherwise.
async fn upsert_otherwise(server: &Server, batches: &Batches, records: u64) -> Duration {
    let mut best = Duration::MAX;
    for connections in CONNECTIONS {
        let table = TableName { schema: "bench".into(), table: format!("bare{connections}") };
        let took = batches.upsert(server, &table, connections).await;
        assert_updated(server, &table, records).await;
        server.settle().await;
        eprintln!("  set-wise SQL over {connections} connections: {took:?}");
        best = best.min(took);
    }
    best
}

/// A figure counts only if all have loaded the same.
async fn check(server: &Server, ours: &TableName, records: u64) {
    for other in ["psql", "bare2"] {
        let row = server
            .client
            .query_one(
                &format!(
                    "select count(*), count(*) filter (where o.payload = y.payload and o.updated_idx = y.updated_idx
                        and o.upstream_id = y.upstream_id and o.upstream_updated_at = y.upstream_updated_at)
                     from {} o full join bench.{other} y using (sequin_id, sync_id)",
                    sql(ours)
                ),
                &[],
            )
            .await
            .expect("the counts");
        let (rows, same): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!((rows.unsigned_abs(), same.unsigned_abs()), (records, records), "both tables hold the same rows");
    }
}

async fn assert_updated(server: &Server, table: &TableName, records: u64) {
    let changed = format!("select count(*) from {} where updated_idx > $1", sql(table));
    let changed: i64 = server.client.query_one(&changed, &[&records.cast_signed()]).await.expect("a count").get(0);
    assert_eq!(changed.unsigned_abs(), records, "every row was updated");
}

#[expect(clippy::cast_precision_loss, reason = "a rate is shown to three digits")]
pub(crate) fn rate(records: u64, took: Duration) -> f64 {
    records as f64 / took.as_secs_f64()
}
