//! The server under test, which waits for the disk.

use sequin::demo::postgres::{Options, ThrowawayPostgres};
use sequin_actors::{model::TableName, postgres::create_table_sql};
use tokio_postgres::{Client, NoTls};

/// Room for everything in memory, and no checkpoint or vacuum of the server's in one figure and not in the other.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "2GB"),
    ("max_wal_size", "32GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("max_connections", "200"),
];

/// Where tables are made.
pub(crate) const SCHEMA: &str = "bench";

/// A PostgreSQL, and a session to look at it.
pub(crate) struct Server {
    pub(crate) postgres: ThrowawayPostgres,
    pub(crate) client: Client,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with further settings, which win.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let settings = [SETTINGS, settings].concat();
        let options = Options { durable: true, settings: &settings };
        let postgres = ThrowawayPostgres::with_options(&options).expect("PostgreSQL");
        let client = session(&postgres).await;
        Self { postgres, client }
    }

    /// One more session.
    pub(crate) async fn session(&self) -> Client {
        session(&self.postgres).await
    }

    /// Makes an empty table.
    pub(crate) async fn table(&self, name: &str) -> TableName {
        let table = TableName { schema: SCHEMA.into(), table: name.into() };
        self.client.batch_execute(&create_table_sql(&table)).await.expect("a table");
        table
    }

    /// Leaves nothing to write for whoever comes next.
    pub(crate) async fn settle(&self) {
        self.client.batch_execute("checkpoint").await.expect("a checkpoint");
    }
}

async fn session(postgres: &ThrowawayPostgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&postgres.url("postgres"), NoTls).await.expect("a session");
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// As it is written in SQL.
pub(crate) fn sql(table: &TableName) -> String {
    format!("{}.{}", table.schema, table.table)
}
