//! What changes leave behind in a table, by how full its pages were made: how many updates found room on the page of their
//! row (HOT, which needs no new entry in the index), and how much the table has grown.

use sequin::demo::crm::Crm;

use super::{
    SYNCS, Size,
    node::Node,
    report::{Figure, Goal},
    rows::SEED,
    server::{Server, sql},
};

/// The fillfactors that are compared; the first is the server's own default, the second that of our statement.
const FILLFACTORS: [(u8, [&str; 2]); 3] = [
    (100, ["HOT of all updates, fillfactor 100", "growth of the table, fillfactor 100"]),
    (90, ["HOT of all updates, fillfactor 90", "growth of the table, fillfactor 90"]),
    (80, ["HOT of all updates, fillfactor 80", "growth of the table, fillfactor 80"]),
];

const RECORDS: u64 = 20_000;

/// Three for each record, as over a busy day: two thirds are updates, a quarter creates.
const CHANGES: usize = 60_000;

/// How many changes arrive together.
const TOGETHER: usize = 100;

/// The server's housekeeper, as it is by default but for how often it looks: a day is over in a minute here.
const AUTOVACUUM: &[(&str, &str)] = &[("autovacuum", "on"), ("autovacuum_naptime", "1s")];

/// Measures it in the first round only: it counts, and takes no times.
pub(crate) async fn measure(Size { round, .. }: Size) -> Vec<Figure> {
    if round > 0 {
        return Vec::new();
    }
    let mut figures = Vec::new();
    for (fillfactor, [hot, growth]) in FILLFACTORS {
        let after = changed(fillfactor).await;
        let figure = |what, ours, goal| Figure { what, unit: "%", ours, beside: None, goal };
        figures.push(figure(hot, after.hot, if fillfactor == 90 { Goal::AtLeast(90.0) } else { Goal::None }));
        figures.push(figure(growth, after.growth, Goal::None));
    }
    figures
}

struct Changed {
    /// Percent of the updates.
    hot: f64,
    /// Percent of a table of the server's default fillfactor that holds as many rows and no garbage.
    growth: f64,
}

async fn changed(fillfactor: u8) -> Changed {
    let server = Server::start_with(AUTOVACUUM).await;
    let table = server.table("changed").await;
    let name = sql(&table);
    let set = format!("alter table {name} set (fillfactor = {fillfactor})");
    server.client.batch_execute(&set).await.expect("a fillfactor");
    let node = Node::start().await;
    let mut crm = Crm::new(SEED, SYNCS);
    let lines: Vec<_> = crm.backfill(RECORDS).collect();
    node.publish(lines.join("\n").into()).await;
    node.forward_to(&server.postgres, &table).await;

    let changes: Vec<_> = (0..CHANGES).map(|_| crm.next_change().line).collect();
    let mut last = 0;
    for changes in changes.chunks(TOGETHER) {
        last = node.publish(changes.join("\n").into()).await;
    }
    node.reaches(last).await;
    drop(node);

    let compact = format!("create table bench.compact (like {name}); insert into bench.compact select * from {name}");
    server.client.batch_execute(&compact).await.expect("copied");
    let counts = format!(
        "select 100.0::float8 * n_tup_hot_upd / n_tup_upd,
                100.0::float8 * (pg_table_size('{name}') - pg_table_size('bench.compact')) / pg_table_size('bench.compact')
         from pg_stat_all_tables where relid = '{name}'::regclass"
    );
    let counts = server.client.query_one(&counts, &[]).await.expect("the counts");
    Changed { hot: counts.get(0), growth: counts.get(1) }
}
