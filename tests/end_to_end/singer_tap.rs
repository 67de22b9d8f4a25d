//! A real Singer tap, from `PyPI`, that reads from a PostgreSQL on this machine. `tests/singer.sh` installs it.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    cli::{Ran, run_with},
    eventually, holds,
    model::sync,
    setup::Setup,
};

const PROVIDER: &str = "postgres";

/// The tap, and what it was told.
struct Tap<'a> {
    program: String,
    directory: &'a Path,
}

impl<'a> Tap<'a> {
    /// A tap that reads these streams of the setup's own database: all of one at each run, what is new of the other.
    async fn new(setup: &Setup, directory: &'a Path) -> Self {
        let program = std::env::var("SINGER_TAP_POSTGRES").expect("run this by tests/singer.sh");
        let server = &setup.database.server;
        let config = json!({"host": "127.0.0.1", "port": server.port(), "user": server.superuser(),
                            "password": server.password(), "dbname": setup.database.name, "filter_schemas": "app"});
        std::fs::write(directory.join("config.json"), config.to_string()).expect("written");
        let tap = Self { program, directory };
        let mut catalog: Value = serde_json::from_str(&tap.run(&["--discover"]).await).expect("a catalog");
        for stream in catalog["streams"].as_array_mut().expect("streams") {
            let method = match stream["table_name"].as_str() {
                Some("users") => json!({"replication-method": "FULL_TABLE"}),
                _ => json!({"replication-method": "INCREMENTAL", "replication-key": "id"}),
            };
            let of_stream = |entry: &&mut Value| entry["breadcrumb"] == json!([]);
            let metadata = stream["metadata"].as_array_mut().expect("metadata").iter_mut().find(of_stream);
            let metadata = metadata.expect("the stream's own")["metadata"].as_object_mut().expect("an object");
            metadata.insert("selected".into(), true.into());
            metadata.extend(method.as_object().expect("an object").clone());
        }
        std::fs::write(directory.join("catalog.json"), catalog.to_string()).expect("written");
        tap
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.args(["--config", "config.json"]).args(arguments).current_dir(self.directory);
        let output = command.output().await.expect("the tap");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What it writes, going on from the state of the run before.
    async fn messages(&self) -> String {
        let state = if self.directory.join("state.json").exists() { &["--state", "state.json"][..] } else { &[] };
        self.run(&[&["--catalog", "catalog.json"], state].concat()).await
    }

    /// Keeps the last state that was told.
    fn keep_state(&self, ran: Ran) {
        let states = ran.expect_done();
        let last = states.lines().last().expect("a state");
        std::fs::write(self.directory.join("state.json"), last).expect("written");
    }
}

#[tokio::test]
#[ignore = "needs a tap from PyPI: tests/singer.sh"]
async fn a_real_tap_pipes_into_a_table_twice_with_the_same_outcome_and_then_what_changed() {
    let setup = Setup::new().await;
    setup.start(PROVIDER, &json!({"provider": PROVIDER})).await;
    let database = &setup.database;
    database.run("create schema app").await;
    database.run("create table app.users (org text, id int, name text, at timestamptz, primary key (org, id))").await;
    database.run("create table app.events (id int primary key, what jsonb)").await;
    database.run("insert into app.users select 'o' || g % 3, g, 'user ' || g, '2024-02-03T04:05:06Z' from generate_series(1, 3000) g").await;
    database.run("insert into app.events select g, '{\"a\": [1, 2.50, \"é\"]}' from generate_series(1, 3000) g").await;
    let directory = tempfile::tempdir().expect("a directory");
    let tap = Tap::new(&setup, directory.path()).await;
    let publish = format!("publish --format singer --provider {PROVIDER} --sync {}", sync(1));

    // From the start, twice: without a state, everything comes again.
    let messages = tap.messages().await;
    assert!(messages.contains("ACTIVATE_VERSION"), "the tap writes versions");
    let first = run_with(&setup.node.api, &publish, &messages).await;
    let expected = table_has(&setup, 3000, 3000).await;
    let again = tap.messages().await;
    tap.keep_state(first);
    let second = run_with(&setup.node.api, &publish, &again).await;
    assert_eq!(table_has(&setup, 3000, 3000).await, expected);
    tap.keep_state(second);

    // What changed since: rows of the whole table are gone, and others have come to the one that grows.
    database.run("delete from app.users where id > 1000; update app.users set name = 'Ada' where id = 7").await;
    database.run("insert into app.events select g, '1' from generate_series(3001, 3100) g").await;
    let changes = tap.messages().await;
    tap.keep_state(run_with(&setup.node.api, &publish, &changes).await);
    let rows = table_has(&setup, 1000, 3100).await;
    assert_eq!(rows[&("app-users".into(), r#"["o1",7]"#.into())]["name"], "Ada");
}

/// Waits until the table has so many users and events, and returns their payloads.
async fn table_has(setup: &Setup, users: usize, events: usize) -> BTreeMap<(String, String), Value> {
    eventually("the table to be as it must", async || {
        let rows = setup.database.table(PROVIDER).await;
        let of = |stream: &str| rows.keys().filter(|(_, collection, _)| collection == stream).count();
        let found = (of("app-users"), of("app-events"));
        holds(found == (users, events), || format!("it has {found:?}"))?;
        Ok(rows.into_iter().map(|((_, collection, id), row)| ((collection, id), row.payload)).collect())
    })
    .await
}
