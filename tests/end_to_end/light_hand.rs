//! A light hand: with a database that is not only ours we go as far as its target's limits let us, and no further.

use std::process::{Command, Stdio};

use sequin_actors::{
    StepName, StepStatus,
    model::Limits,
    postgres::{Egress, Visitor},
};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{
    database::Database,
    engine::target,
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, sync},
    node::Node,
    setup::Setup,
    status::{reason_with_cause, reasons},
};

const ONE_SYNC: &str = "one_sync";

fn contacts(numbers: std::ops::Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(1), number, json!(state))).collect()
}

impl Setup {
    /// Changes the target's limits.
    async fn limit(&self, limits: &Value) {
        self.node.api.patch("/v1/targets/app", &json!({"limits": limits})).await.expect(200);
    }
}

#[tokio::test]
async fn all_consumers_of_a_target_together_write_at_its_pace_and_as_fast_as_they_can_once_there_is_none() {
    let setup = Setup::new().await;
    setup.limit(&json!({"max_records_per_second": 1})).await;
    let mut model = Model::default();
    for (name, filter) in [(HUBSPOT, json!({"provider": HUBSPOT})), (ONE_SYNC, json!({"sync": sync(1)}))] {
        setup.start(name, &filter).await;
    }
    setup.publish(&mut model, &contacts(0..1000, "slowly")).await;
    let there = async || setup.database.count(HUBSPOT).await + setup.database.count(ONE_SYNC).await;
    let rows = eventually("some records to be brought", async || {
        let rows = there().await;
        holds(rows >= 3, || format!("there are {rows}")).map(|()| rows)
    })
    .await;
    assert!(rows < 100, "there are {rows} already");
    for name in [HUBSPOT, ONE_SYNC] {
        let consumer = setup.consumer(name).await;
        assert!(reasons(&consumer).is_empty(), "who waits for his turn is not at fault: {consumer}");
    }
    setup.limit(&json!({"max_records_per_second": null})).await;
    setup.hubspot_is(&model).await;
    setup.table_is(ONE_SYNC, &model.of_provider(HUBSPOT)).await;
    assert!(!setup.node.log().contains("stopped"), "{}", setup.node.log());
}

/// A trigger of the customer's that keeps what the session which writes has set.
const KEEP_THE_SETTINGS: &str = "
    create table sequin.settings (statement_timeout text, lock_timeout text);
    create function sequin.keep_settings() returns trigger language plpgsql security definer as $$ begin
      insert into sequin.settings select current_setting('statement_timeout'), current_setting('lock_timeout');
      return null;
    end $$;
    create trigger keep_settings after insert or update on sequin.hubspot
      for each statement execute function sequin.keep_settings()";

#[tokio::test]
async fn statements_and_their_locks_may_take_as_long_as_the_target_says() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run(KEEP_THE_SETTINGS).await;
    let others = json!({"statement_timeout_seconds": 30, "lock_timeout_seconds": 5});
    for (limits, expected) in [(json!({}), "1min 10s"), (others, "30s 5s"), (json!(null), "1min 10s")] {
        setup.limit(&limits).await;
        setup.node.api.is_well(HUBSPOT).await;
        eventually("a session with these limits to write", async || {
            setup.publish(&mut model, &contacts(0..1, expected)).await;
            setup.hubspot_is(&model).await;
            let last =
                "select statement_timeout || ' ' || lock_timeout from sequin.settings order by ctid desc limit 1";
            let last: String = setup.database.ask(last).await;
            holds(last == expected, || format!("one with {last} did"))
        })
        .await;
    }
}

#[tokio::test]
async fn consumers_pause_while_too_many_of_the_servers_connections_are_taken_and_go_on_by_themselves() {
    let database = Database::on_server_with(&[("max_connections", "30")]).await;
    let setup = Setup::with(Node::start().await, database).await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..10, "before")).await;
    setup.node.api.is_well(HUBSPOT).await;
    let mut others: Vec<Client> = Vec::new();
    for _ in 0..15 {
        others.push(setup.database.connect().await);
    }
    setup.limit(&json!({"max_connections_percent": 50})).await;
    let target = setup.node.api.target_state_is("app", "unhealthy").await;
    let reason = reason_with_cause(&target, "server_strained");
    let summary = reason["summary"].as_str().expect("text");
    assert!(summary.starts_with("target app gets a rest: "), "{summary}");
    assert!(summary.ends_with(" of the server's 30 connections are taken, more than 50 %"), "{summary}");
    setup.publish(&mut model, &contacts(0..20, "meanwhile")).await;
    let consumer = setup.state_is(HUBSPOT, "waiting").await;
    assert_eq!(reason_with_cause(&consumer, "server_strained")["target"], "app");
    assert_eq!(setup.database.count(HUBSPOT).await, 10);
    drop(others);
    setup.node.api.is_well(HUBSPOT).await;
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_limit_on_lag_that_can_not_be_seen_is_a_warning_with_the_grant_that_mends_it() {
    let database = Database::on_own_server().await;
    let limits = Limits { max_replica_lag_seconds: Some(30), ..Limits::default() };
    let visitor = Visitor::new("sequin/test".into(), Egress::default()).within(limits);
    let settings = async || {
        let steps = visitor.check(&target(&database).connection, &[]).await.steps;
        steps.into_iter().find(|step| step.name == StepName::SessionSettings).expect("the step")
    };
    assert_eq!(settings().await.status, StepStatus::Ok, "there are no replicas");

    let programs: String = database.ask("select setting from pg_config where name = 'BINDIR'").await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut receiver = Command::new(format!("{programs}/pg_receivewal"));
    receiver.args(["--no-loop", "-d", &database.server.url("postgres"), "-D"]).arg(directory.path());
    let mut receiver = receiver.stderr(Stdio::null()).spawn().expect("who receives what is written");
    eventually("the server to see it", async || {
        let replicas: i64 = database.ask("select count(*) from pg_stat_replication").await;
        holds(replicas == 1, || format!("it sees {replicas}"))
    })
    .await;
    let blind = settings().await;
    assert_eq!(blind.status, StepStatus::Warning, "{blind:?}");
    database.run(&blind.fix.expect("what to do")).await;
    let seeing = settings().await;
    assert_eq!(seeing.status, StepStatus::Ok, "{seeing:?}");
    receiver.kill().and_then(|()| receiver.wait()).expect("it runs");
}
