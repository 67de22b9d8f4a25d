//! How the time of a backfill grows: with its rows, with the number of syncs that they belong to, and with what else the
//! stream holds.

use std::time::Duration;

use sequin::demo::crm::{Crm, PROVIDER};
use sequin_actors::model::{Filter, Provider};
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

/// A stream to bring to a table.
struct Source {
    ours: Ours,
    filter: Filter,
    took: Vec<Duration>,
    _directory: TempDir,
}

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    let server = Server::start().await;
    let few = records / PART;
    eprintln!(
        "publishing {records} records of one sync and of {MANY}, a tenth of them, and a sync alone and among {OTHERS}"
    );
    let all = Filter::Provider(Provider::parse(PROVIDER).expect("a slug"));
    let sync = Filter::Sync(parse(&own(1).next().expect("a record")).record().sync_id);
    let mut one_sync = Source::of(&server, &all, lines(records, 1)).await;
    let mut many_syncs = Source::of(&server, &all, lines(records, MANY)).await;
    let mut tenth = Source::of(&server, &all, lines(few, MANY)).await;
    let mut alone = Source::of(&server, &sync, own(few)).await;
    let mut among = Source::of(&server, &sync, among_others(few)).await;

    eprintln!("bringing them there, and the same backwards");
    let pair = |a, b| if round.is_multiple_of(2) { [a, b] } else { [b, a] };
    let mut order = [pair(0, 1), [2; 2], [2; 2], pair(3, 4), pair(3, 4)].concat();
    order.extend(order.clone().into_iter().rev());
    let sources = [&mut one_sync, &mut many_syncs, &mut tenth, &mut alone, &mut among];
    // Once for the server to make the files of its log, which it uses again from then on.
    sources[0].bring(&server).await;
    sources[0].took.clear();
    for source in order {
        sources[source].bring(&server).await;
    }
    let (all_rows, of_one_sync) = (many_syncs.rate(records), one_sync.rate(records));
    let figure = |what, ours, beside, goal| Figure { what, unit: "rows/s", ours, beside: Some(beside), goal };
    vec![
        figure("a backfill", all_rows, ("of a tenth of the rows", tenth.rate(few)), Goal::TimesWithin(0.9, 1.1)),
        figure("a backfill of 5,000 syncs", all_rows, ("of one", of_one_sync), Goal::TimesWithin(0.95, 1.05)),
        figure(
            "a backfill of one sync among 1,000",
            among.rate(few),
            ("of one alone", alone.rate(few)),
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
    async fn of(server: &Server, filter: &Filter, lines: impl Iterator<Item = String> + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ours = Ours::open(directory.path(), &server.postgres).await;
        ours.publish(Rows::of(lines, |_, _| {})).await;
        Self { ours, filter: filter.clone(), took: Vec::new(), _directory: directory }
    }

    /// Brings it to an empty table.
    async fn bring(&mut self, server: &Server) {
        let table = server.table("scale").await;
        server.settle().await;
        self.took.push(self.ours.backfill_some("scale", self.filter.clone(), &table).await);
        server.client.batch_execute(&format!("drop table {}", sql(&table))).await.expect("dropped");
    }

    /// How fast it was brought, all times together, with so many rows each time.
    fn rate(&self, rows: u64) -> f64 {
        eprintln!("  {rows} rows in {:?}", self.took);
        rate(rows * self.took.len() as u64, self.took.iter().sum())
    }
}
