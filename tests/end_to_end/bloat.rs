//! What we write costs the customer's database no more than it must: no garbage, and nothing in its catalog.

use std::{collections::HashMap, ops::Range};

use serde_json::json;

use crate::support::{
    database::SCHEMA,
    eventually,
    model::{HUBSPOT, Model, Version, contact, sync},
    setup::Setup,
};

/// Enough for many batches of each writer.
const RECORDS: usize = 20_000;

fn contacts(range: Range<usize>, payload: &str) -> Vec<Version> {
    range.map(|number| contact(sync(1), number, json!({"is": payload}))).collect()
}

/// How many rows the server has written in the table since it was made, those included that were rolled back.
async fn writes(setup: &Setup) -> i64 {
    let database = &setup.database;
    // A session tells what it has counted at its end at the latest.
    let ours = format!("select count(*) from pg_stat_activity where usename = '{}'", database.user);
    eventually("the end of our sessions", async || {
        database.end_our_sessions().await;
        let left = database.ask::<i64>(&ours).await;
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    let writes = "select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_all_tables
         where relid = 'sequin.hubspot'::regclass";
    database.ask(writes).await
}

/// A table that holds everything, and whose consumer is paused.
async fn brought_and_paused() -> (Setup, Model) {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..RECORDS, "new")).await;
    setup.start_hubspot().await;
    setup.hubspot_is(&model).await;
    setup.act(HUBSPOT, "pause").await;
    setup.state_is(HUBSPOT, "paused").await;
    (setup, model)
}

/// Brings all of the stream to the table once more, by another consumer.
async fn bring_again(setup: &Setup, model: &Model) {
    begin_again(setup).await;
    setup.reached("again", model.last_idx(HUBSPOT)).await;
}

async fn begin_again(setup: &Setup) {
    let again = json!({
        "name": "again", "target": "app", "filter": {"provider": HUBSPOT}, "schema": SCHEMA, "table": HUBSPOT,
    });
    setup.node.api.post("/v1/consumers", &again).await.expect(201);
    setup.act("again", "start").await;
}

#[tokio::test]
async fn a_replay_of_everything_writes_nothing() {
    let (setup, model) = brought_and_paused().await;
    let before = (writes(&setup).await, size(&setup).await);
    assert_eq!(before.0, i64::try_from(RECORDS).expect("fits"), "each row was written once");

    bring_again(&setup, &model).await;
    setup.act("again", "pause").await;
    setup.state_is("again", "paused").await;
    assert_eq!((writes(&setup).await, size(&setup).await), before);
    setup.hubspot_is(&model).await;
}

async fn size(setup: &Setup) -> i64 {
    setup.database.ask("select pg_table_size('sequin.hubspot')").await
}

#[tokio::test]
async fn a_few_rows_that_are_there_already_among_many_new_ones_are_neither_doubled_nor_overwritten_by_older_ones() {
    let (setup, model) = brought_and_paused().await;
    // Older versions of some, no row of the others.
    setup.database.run("delete from sequin.hubspot where upstream_id::int % 1000 <> 7").await;
    setup
        .database
        .run("update sequin.hubspot set updated_idx = 1, payload = '0' where upstream_id::int % 2000 = 7")
        .await;
    // A newer version than the stream has, which is not overwritten either, and said.
    let newer = "update sequin.hubspot set updated_idx = 1000000, payload = '1' where upstream_id = '1007'";
    setup.database.run(newer).await;

    begin_again(&setup).await;
    setup.state_is("again", "halted").await;
    let kept: i64 = setup.database.ask("select updated_idx from sequin.hubspot where upstream_id = '1007'").await;
    assert_eq!(kept, 1_000_000);
    setup.database.run("delete from sequin.hubspot where upstream_id = '1007'").await;
    setup.node.api.post("/v1/consumers/again/rewind", &json!({"to": 0})).await.expect(200);
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_column_that_was_altered_a_moment_ago_is_not_filled_with_bytes_of_another_type() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..RECORDS, "new")).await;
    setup.start_hubspot().await;
    setup.hubspot_is(&model).await;
    setup.database.run("alter table sequin.hubspot alter column payload type text").await;
    setup.publish(&mut model, &contacts(RECORDS..2 * RECORDS, "newer")).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    let expected = i64::try_from(2 * RECORDS).expect("fits");
    let whole = "select count(*) from sequin.hubspot where payload::jsonb ? 'is'";
    assert_eq!(setup.database.ask::<i64>(whole).await, expected);
}

#[tokio::test]
async fn batches_leave_nothing_in_the_catalog() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..RECORDS, "new")).await;
    setup.publish(&mut model, &contacts(0..RECORDS, "changed")).await;
    setup.hubspot_is(&model).await;
    let before = stages(&setup).await;
    assert!(!before.is_empty(), "updates go through a stage");
    for round in 0..5 {
        setup.publish(&mut model, &contacts(0..RECORDS, &format!("changed {round}"))).await;
        setup.hubspot_is(&model).await;
    }
    let after = stages(&setup).await;
    let rewritten: Vec<_> = before.iter().filter(|(stage, version)| after.get(stage) != Some(version)).collect();
    assert!(rewritten.is_empty(), "{rewritten:?} are not what they were, in {after:?}");
    assert!(after.len() <= 4, "one a session of the pool at most: {after:?}");
}

/// The stages of all sessions, and by which transaction their entry in the catalog was last written.
async fn stages(setup: &Setup) -> HashMap<u32, String> {
    let stages = "select oid, xmin::text from pg_class where relname = 'sequin_stage'";
    let rows = setup.database.owner.query(stages, &[]).await.expect("the stages");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
