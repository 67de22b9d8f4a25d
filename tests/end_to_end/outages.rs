//! A target that goes away and comes back, consumers that are paused, resumed and deleted: whoever waits says so, goes on
//! where it was, and holds nobody else up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    database::{Database, slow_writes},
    eventually, eventually_within, holds,
    model::{HUBSPOT, Model, Version, contact, no_contact, sync},
    proxy::Mode,
    setup::Setup,
};

/// Half of what the pool lets a writer wait for a session.
const SOON: Duration = Duration::from_secs(30);

fn contacts(numbers: std::ops::Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!(state))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_waits_for_a_database_that_is_down_and_then_goes_on() {
    let mut setup = Setup::on_own_server().await;
    let mut model = Model::default();
    // So many batches that it is not through before its second crash.
    setup.publish(&mut model, &contacts(0..100_000, "before")).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    setup.database.run(&slow_writes(HUBSPOT, "0.5")).await;
    setup.act(HUBSPOT, "start").await;
    for _ in 0..2 {
        let had = setup.database.count(HUBSPOT).await;
        eventually("the backfill to be on its way", async || {
            let rows = setup.database.count(HUBSPOT).await;
            holds(rows > had, || format!("there are {rows} rows"))
        })
        .await;
        setup.database.crash();
        let consumer = setup.state_is(HUBSPOT, "waiting").await;
        let reason = &consumer["health"]["reasons"][0];
        assert_eq!(consumer["health"]["status"], "unhealthy", "{consumer}");
        assert_eq!((&reason["code"], &reason["target"]), (&json!("target_unhealthy"), &json!("app")), "{consumer}");
        assert!(reason["summary"].as_str().is_some_and(|summary| summary.contains("app")), "{consumer}");
        let target = setup.node.api.target_state_is("app", "unhealthy").await;
        assert_eq!(target["health"]["status"], "unhealthy");
        assert_eq!(target["health"]["reasons"][0]["target"], "app");
        // Whoever waits does not hinder publishers.
        setup.publish(&mut model, &contacts(100..200, "meanwhile")).await;
        setup.database.recover().await;
        setup.state_is(HUBSPOT, "backfilling").await;
    }
    setup.database.run("drop trigger slow on sequin.hubspot").await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.hubspot_is(&model).await;
    let consumer = setup.state_is(HUBSPOT, "live").await;
    assert_eq!(consumer["health"]["status"], "healthy", "{consumer}");
    setup.node.api.target_state_is("app", "healthy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_consumer_notices_at_its_next_record_that_its_database_is_down_and_goes_on_once_it_is_back() {
    let mut setup = Setup::on_own_server().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..100, "before")).await;
    setup.hubspot_is(&model).await;
    for round in ["first", "second"] {
        setup.database.crash();
        setup.publish(&mut model, &contacts(50..150, round)).await;
        // Well before anything that waits for a busy session would give up.
        eventually_within(SOON, "the consumer to wait for its target", async || {
            let consumer = setup.consumer(HUBSPOT).await;
            holds(consumer["state"] == "waiting", || format!("it is {consumer}"))
        })
        .await;
        setup.database.recover().await;
        setup.hubspot_is(&model).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_down_delays_no_other() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let mut other = Database::on_own_server().await;
    other.make_table("theirs").await;
    let target = json!({"name": "other", "connection": other.connection()});
    setup.node.api.post("/v1/targets", &target).await.expect(201);
    let theirs = json!({"name": "theirs", "target": "other", "filter": {"provider": HUBSPOT}, "schema": "sequin", "table": "theirs"});
    setup.node.api.post("/v1/consumers", &theirs).await.expect(201);
    setup.act("theirs", "start").await;
    setup.start_hubspot().await;
    setup.state_is("theirs", "live").await;
    other.crash();
    setup.publish(&mut model, &contacts(0..5000, "one")).await;
    setup.hubspot_is(&model).await;
    let consumer = setup.state_is("theirs", "waiting").await;
    assert_eq!(consumer["health"]["reasons"][0]["target"], "other", "{consumer}");
    setup.publish(&mut model, &contacts(4000..6000, "two")).await;
    setup.hubspot_is(&model).await;
    assert_eq!(setup.consumer(HUBSPOT).await["health"]["status"], "healthy");
    other.recover().await;
    setup.reached("theirs", model.last_idx(HUBSPOT)).await;
    assert_eq!(other.table("theirs").await, model.of_provider(HUBSPOT));
}

#[tokio::test]
async fn sessions_that_the_database_ends_are_replaced() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let mut ended = 0;
    for round in 0..8u128 {
        setup.publish(&mut model, &contacts(round * 500..round * 500 + 3000, &round.to_string())).await;
        ended += setup.database.end_our_sessions().await;
        let deleted: Vec<_> = (0..20).map(|n| no_contact(sync((round * 500 + n) % 7), round * 500 + n)).collect();
        setup.publish(&mut model, &deleted).await;
        if round % 4 == 3 {
            setup.hubspot_is(&model).await;
        }
    }
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.hubspot_is(&model).await;
    assert!(ended > 0, "no session was there to be ended");
    let consumer = setup.state_is(HUBSPOT, "live").await;
    assert_eq!(consumer["health"]["status"], "healthy", "{consumer}");
}

#[tokio::test]
async fn what_is_published_during_a_pause_arrives_after_it() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..1000, "before")).await;
    setup.start_hubspot().await;
    setup.hubspot_is(&model).await;
    let before = model.of_provider(HUBSPOT);
    setup.act(HUBSPOT, "pause").await;
    setup.start("goes_on", &json!({"provider": HUBSPOT})).await;
    setup.publish(&mut model, &contacts(500..1500, "during")).await;
    setup.publish(&mut model, &[no_contact(sync(0), 0)]).await;
    let waits = |consumer: &Value| consumer["state"] == "paused" && consumer["lag"]["records"] == 1001;
    let consumer = setup.consumer_is(HUBSPOT, "paused, with 1001 records waiting", waits).await;
    assert_eq!(consumer["health"]["status"], "healthy", "{consumer}");
    setup.table_is("goes_on", &model.of_provider(HUBSPOT)).await;
    assert_eq!(setup.database.table(HUBSPOT).await, before);

    setup.act(HUBSPOT, "resume").await;
    setup.hubspot_is(&model).await;
    setup.state_is(HUBSPOT, "live").await;
    // Again and again, faster than anything can follow.
    for round in 0..10u128 {
        setup.act(HUBSPOT, "pause").await;
        setup.publish(&mut model, &contacts(round * 100..round * 100 + 300, "again")).await;
        setup.act(HUBSPOT, "resume").await;
    }
    setup.hubspot_is(&model).await;
    setup.state_is(HUBSPOT, "live").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_while_the_target_is_probed_waits_for_the_answer() {
    let (setup, proxy) = Setup::by_proxy(Database::create().await).await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..100, "before")).await;
    setup.hubspot_is(&model).await;
    proxy.set(Mode::BlackHole);
    setup.publish(&mut model, &contacts(50..150, "meanwhile")).await;
    setup.state_is(HUBSPOT, "waiting").await;
    // From now on a probe is under way nearly all of the time, and not answered.
    for action in ["resume", "pause", "resume", "resume", "pause", "resume"] {
        setup.act(HUBSPOT, action).await;
        setup.publish(&mut model, &contacts(100..200, action)).await;
    }
    let waits = |consumer: &Value| consumer["state"] == "waiting" && consumer["lag"]["records"].as_u64() > Some(100);
    let consumer = setup.consumer_is(HUBSPOT, "waiting, and falling behind", waits).await;
    assert_eq!(consumer["health"]["reasons"][0]["code"], "target_unhealthy", "{consumer}");
    proxy.set(Mode::Pass);
    setup.hubspot_is(&model).await;
    setup.consumer_is(HUBSPOT, "well", |consumer| consumer["health"]["status"] == "healthy").await;
}

#[tokio::test]
async fn a_pause_outlives_the_node() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.state_is(HUBSPOT, "live").await;
    setup.act(HUBSPOT, "pause").await;
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    setup.node.start_again().await;
    setup.publish(&mut model, &contacts(0..10, "during")).await;
    let waits = |consumer: &Value| consumer["state"] == "paused" && consumer["lag"]["records"] == 10;
    setup.consumer_is(HUBSPOT, "paused, with ten records waiting", waits).await;
    assert_eq!(setup.database.count(HUBSPOT).await, 0);
    setup.act(HUBSPOT, "resume").await;
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_stops_and_leaves_the_table_as_it_is() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.start("goes_on", &json!({"provider": HUBSPOT})).await;
    setup.publish(&mut model, &contacts(0..100, "before")).await;
    setup.hubspot_is(&model).await;
    setup.node.api.delete("/v1/consumers/hubspot").await.expect(204);
    setup.node.api.get("/v1/consumers/hubspot").await.expect_problem(404);
    // It finishes what it has, and is gone: what comes then is no longer its.
    let mut number = 1000;
    eventually("the consumer to take no more", async || {
        number += 1;
        setup.publish(&mut model, &contacts(number..number + 1, "after")).await;
        setup.table_is("goes_on", &model.of_provider(HUBSPOT)).await;
        let rows = setup.database.count(HUBSPOT).await;
        holds(rows < setup.database.count("goes_on").await, || format!("it has {rows} rows"))
    })
    .await;
    let left = setup.database.table(HUBSPOT).await;
    setup.publish(&mut model, &contacts(0..200, "after")).await;
    setup.table_is("goes_on", &model.of_provider(HUBSPOT)).await;
    assert_eq!(setup.database.table(HUBSPOT).await, left);

    // The same name, made anew, begins from the start, on the table that is there.
    setup.node.api.post(
        "/v1/consumers",
        &json!({"name": HUBSPOT, "target": "app", "filter": {"provider": HUBSPOT}, "schema": "sequin", "table": HUBSPOT}),
    )
    .await
    .expect(201);
    setup.act(HUBSPOT, "start").await;
    setup.hubspot_is(&model).await;
    let all = model.of_provider(HUBSPOT).len();
    assert_eq!(setup.state_is(HUBSPOT, "live").await["backfill"]["total"], all);
}
