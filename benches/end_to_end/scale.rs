//! How the time of a backfill grows: with its rows, with the number of syncs that they belong to, and with what else the
//! stream holds.

use std::time::Duration;

use sequin::demo::crm::Crm;
use sequin_actors::model::{Filter, SyncId};
use tempfile::TempDir;

use super::{
    Size,
    bulk::rate,
    ours::Ours,
    report::{Figure, Goal},
    rows::{Rows, SEED, lines, parse},
    server::{Server, sql},
};

/// How many syncs "many" are.
const MANY: u32 = 5000;

/// How many syncs a stream holds of which one is forwarded.
const OTHERS: u32 = 1000;

/// One row in so many is in the small backfills, and belongs to the sync that is forwarded alone.
const PART: u64 = 10;

/// How often a small backfill is done: one alone takes less than a second, which says little.
const REPEATED: u32 = 5;

/// A stream to bring to a table.
struct Source {
    ours: Ours,
    _directory: TempDir,
}

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let few = records / PART;
    eprintln!("publishing {records} and {few} records of one sync, of {MANY}, and of one among {OTHERS}");
    let one_sync = Source::of(&server, lines(records, 1)).await;
    let many_syncs = Source::of(&server, lines(records, MANY)).await;
    let tenth = Source::of(&server, lines(few, MANY)).await;
    let alone = Source::of(&server, own(few)).await;
    let among = Source::of(&server, among_others(few)).await;
    let own_sync = Filter::Sync(SyncId(parse(&own(1).next().expect("a record")).record().sync_id.0));

    eprintln!("bringing them");
    let mut took = [Duration::ZERO; 5];
    let mut order = [0, 1, 2, 3, 4];
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    for source in order {
        took[source] = match source {
            0 => one_sync.bring(&server, None, 1).await,
            1 => many_syncs.bring(&server, None, 1).await,
            2 => tenth.bring(&server, None, REPEATED).await,
            3 => alone.bring(&server, Some(&own_sync), REPEATED).await,
            _ => among.bring(&server, Some(&own_sync), REPEATED).await,
        };
    }
    let [one_sync, many_syncs, tenth, alone, among] = took;
    let figure = |what, ours, beside, goal| Figure { what, unit: "rows/s", ours, beside: Some(beside), goal };
    vec![
        figure(
            "a backfill of all rows",
            rate(records, many_syncs),
            ("of a tenth", rate(few, tenth)),
            Goal::TimesWithin(0.9, 1.1),
        ),
        figure(
            "a backfill of 5,000 syncs",
            rate(records, many_syncs),
            ("of one", rate(records, one_sync)),
            Goal::TimesWithin(0.95, 1.05),
        ),
        figure(
            "a sync of a stream of 1,000",
            rate(few, among),
            ("of a stream of its own", rate(few, alone)),
            Goal::TimesAtLeast(0.9),
        ),
    ]
}

/// The records of the sync that is forwarded alone.
fn own(records: u64) -> impl Iterator<Item = String> {
    let mut crm = Crm::new(SEED + 1, 1);
    (0..records).filter_map(move |_| crm.backfill(1).next())
}

/// The same, each among those of others.
fn among_others(records: u64) -> impl Iterator<Item = String> {
    let mut others = Crm::new(SEED, OTHERS - 1);
    own(records).flat_map(move |line| others.backfill(PART - 1).chain([line]).collect::<Vec<_>>())
}

impl Source {
    async fn of(server: &Server, lines: impl Iterator<Item = String> + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ours = Ours::open(directory.path(), &server.postgres).await;
        ours.publish(Rows::of(lines)).await;
        Self { ours, _directory: directory }
    }

    /// Brings it to an empty table, so many times; returns how long that took each time.
    async fn bring(&self, server: &Server, filter: Option<&Filter>, times: u32) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            let table = server.table("ours").await;
            server.settle().await;
            let once = match filter {
                Some(filter) => self.ours.backfill_some("scale", filter.clone(), &table).await,
                None => self.ours.backfill("scale", &table).await,
            };
            eprintln!("  {once:?}");
            took += once;
            server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
        }
        took / times
    }
}
