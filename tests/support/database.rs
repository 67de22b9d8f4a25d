//! A customer's database, on a real server.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use sequin::demo::postgres::{Stop, ThrowawayPostgres};
use sequin_actors::{
    model::TableName,
    postgres::{create_table_sql, setup_sql},
};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::model::{Row, Table};

/// The password of every user that a test makes for us.
pub(crate) const PASSWORD: &str = "it's a \\ \"password\" §";

/// The schema that a customer makes for us.
pub(crate) const SCHEMA: &str = "sequin";

/// A trigger that makes each statement that writes to a table of our schema take longer: by so many seconds, an SQL
/// expression. `drop trigger slow` makes an end of it.
pub(crate) fn slow_writes(table: &str, seconds: &str) -> String {
    format!(
        "create or replace function sequin.be_slow() returns trigger language plpgsql as
           $$ begin perform pg_catalog.pg_sleep({seconds}); return null; end $$;
         create trigger slow before insert or delete on sequin.{table}
           for each statement execute function sequin.be_slow()"
    )
}

/// When each version, by record and position, was last written.
pub(crate) type Written = HashMap<(Uuid, i64), SystemTime>;

/// The server that all tests of this process share, each with databases of its own.
static SHARED: LazyLock<Arc<ThrowawayPostgres>> = LazyLock::new(|| start_server(&[]));

fn start_server(settings: &[(&str, &str)]) -> Arc<ThrowawayPostgres> {
    Arc::new(ThrowawayPostgres::with_settings(settings).expect("a PostgreSQL server"))
}

/// A database of a customer who followed the set-up: with a schema for us, and a user with the rights of the set-up.
pub(crate) struct Database {
    pub(crate) server: Arc<ThrowawayPostgres>,
    pub(crate) name: String,
    /// The user that we connect as.
    pub(crate) user: String,
    /// The customer's own session. Not to be used after its server was stopped.
    pub(crate) owner: Client,
}

impl Database {
    /// A new database on the server that tests share.
    pub(crate) async fn create() -> Self {
        Self::create_on(Arc::clone(&SHARED)).await
    }

    /// A new database on a server that no other test has.
    pub(crate) async fn on_own_server() -> Self {
        Self::on_server_with(&[]).await
    }

    /// The same, with further settings, name and value.
    pub(crate) async fn on_server_with(settings: &[(&str, &str)]) -> Self {
        Self::create_on(start_server(settings)).await
    }

    async fn create_on(server: Arc<ThrowawayPostgres>) -> Self {
        let name = format!("db_{}", Uuid::new_v4().simple());
        let user = name.replace("db_", "user_");
        let postgres = connect(&server.url("postgres")).await;
        postgres.batch_execute(&format!("create database {name}")).await.expect("a database");
        let owner = connect(&server.url(&name)).await;
        owner.batch_execute(&with_password(&setup_sql(&name, &user, SCHEMA))).await.expect("the set-up");
        Self { server, name, user, owner }
    }

    /// What the customer tells us to connect with.
    pub(crate) fn connection(&self) -> Value {
        self.connection_by(self.server.port())
    }

    /// The same, by way of another port.
    pub(crate) fn connection_by(&self, port: u16) -> Value {
        json!({
            "host": "127.0.0.1", "port": port, "database": self.name, "username": self.user, "password": PASSWORD,
        })
    }

    /// Stops the server as a crash does.
    pub(crate) fn crash(&self) {
        tokio::task::block_in_place(|| self.server.stop(Stop::Immediate));
    }

    /// Starts the server again; the customer opens a new session.
    pub(crate) async fn recover(&mut self) {
        tokio::task::block_in_place(|| self.server.start_again()).expect("the server again");
        self.owner = self.connect().await;
    }

    /// Another session of the customer.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_to(&self.name).await
    }

    /// A session of the customer with another database of the server.
    pub(crate) async fn connect_to(&self, database: &str) -> Client {
        connect(&self.server.url(database)).await
    }

    /// Runs the customer's statements.
    pub(crate) async fn run(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Ends the sessions that the user whom we connect as has there; returns how many there were.
    pub(crate) async fn end_our_sessions(&self) -> i64 {
        let user = &self.user;
        let end = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = '{user}'");
        self.ask(&end).await
    }

    /// Makes a table in our schema as it should be.
    pub(crate) async fn make_table(&self, table: &str) {
        self.run(&create_table_sql(&TableName { schema: SCHEMA.into(), table: table.into() })).await;
    }

    /// Asks a question that has one answer.
    pub(crate) async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.owner.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// How many rows a table of our schema has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.ask(&format!("select count(*) from {SCHEMA}.{table}")).await
    }

    /// What a table of our schema holds.
    pub(crate) async fn table(&self, table: &str) -> Table {
        read_table(&self.owner, table).await
    }

    /// When each row of a table of our schema was last written.
    pub(crate) async fn written(&self, table: &str) -> Written {
        let sql = format!("select sequin_id, updated_idx, updated_at from {SCHEMA}.{table}");
        let rows = self.owner.query(&sql, &[]).await.expect("the rows");
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
    }
}

/// Puts the password where the set-up leaves its choice to the customer.
pub(crate) fn with_password(setup_sql: &str) -> String {
    assert!(setup_sql.contains("'CHOOSE_A_PASSWORD'"), "{setup_sql}");
    setup_sql.replace("'CHOOSE_A_PASSWORD'", &format!("'{}'", PASSWORD.replace('\'', "''")))
}

/// What a table of our schema holds, as this session sees it.
pub(crate) async fn read_table(session: &Client, table: &str) -> Table {
    let sql = format!(
        "select sync_id, collection_id, upstream_id, sequin_id, payload::text, updated_idx from {SCHEMA}.{table}"
    );
    let rows = session.query(&sql, &[]).await.expect("the rows");
    let rows = rows.iter().map(|row| {
        let payload = serde_json::from_str(row.get(4)).expect("JSON");
        let held = Row { sequin_id: row.get(3), payload, updated_idx: row.get(5) };
        ((row.get(0), row.get(1), row.get(2)), held)
    });
    rows.collect::<BTreeMap<_, _>>()
}

/// Opens a session; its connection ends with it.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a session");
    tokio::spawn(async move { drop(connection.await) });
    client
}
