//! A record that the table refuses is found quickly, remembered whatever happens to the node, and brought as soon as it
//! can be.

use serde_json::{Value, json};

use crate::support::{
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, no_contact, sync},
    setup::Setup,
};

/// The table takes no text but short ones.
const ONLY_SHORT: &str = "alter table sequin.hubspot add constraint short check (length(payload #>> '{}') < 20)";

/// Counts the statements that insert, those that fail included: a sequence is never rolled back.
const COUNT_INSERTS: &str = "
    create sequence sequin.inserts;
    grant usage on sequence sequin.inserts to public;
    create function sequin.count_it() returns trigger language plpgsql as
      $$ begin perform pg_catalog.nextval('sequin.inserts'); return null; end $$;
    create trigger count_it before insert on sequin.hubspot for each statement execute function sequin.count_it()";

fn contacts(numbers: std::ops::Range<u128>) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!("short"))).collect()
}

fn too_long(number: u128) -> Version {
    contact(sync(number % 7), number, json!("longer than the table takes"))
}

/// Waits until so many records are in quarantine, and everything else is in the table.
async fn is_brought_but_for(setup: &Setup, model: &Model, refused: u64) -> Value {
    let last = model.last_idx(HUBSPOT);
    let is = |consumer: &Value| consumer["quarantined"] == refused && consumer["checkpoint"] == last;
    setup.consumer_is(HUBSPOT, &format!("at the end, but for {refused} in quarantine"), is).await
}

#[tokio::test]
async fn one_bad_record_among_thousands_is_found_in_a_logarithm_of_transactions() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let mut versions = contacts(0..4000);
    versions[1234] = too_long(1234);
    setup.publish(&mut model, &versions).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    setup.database.run(ONLY_SHORT).await;
    setup.database.run(COUNT_INSERTS).await;
    setup.act(HUBSPOT, "start").await;
    is_brought_but_for(&setup, &model, 1).await;
    assert_eq!(setup.database.count(HUBSPOT).await, 3999);
    // All of it in at most 8 batches, of which one is halved 12 times, each half tried once.
    let inserts: i64 = setup.database.ask("select last_value from sequin.inserts").await;
    assert!((13..=8 + 2 * 12).contains(&inserts), "{inserts} statements");
}

#[tokio::test]
async fn what_is_in_quarantine_outlives_the_node_and_arrives_once_the_table_takes_it() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..50)).await;
    setup.hubspot_is(&model).await;
    setup.database.run(ONLY_SHORT).await;
    let refused: Vec<_> = (0..20).chain(100..120).map(too_long).collect();
    setup.publish(&mut model, &refused).await;
    is_brought_but_for(&setup, &model, 40).await;
    setup.node.sigkill();
    setup.node.start_again().await;
    setup.publish(&mut model, &[no_contact(sync(0), 0), contact(sync(1), 1, json!("newer"))]).await;
    is_brought_but_for(&setup, &model, 38).await;
    // Refused or not, a row that is there holds the last version that the table took.
    let rows = setup.database.table(HUBSPOT).await;
    assert!(rows.values().all(|row| row.payload == "short" || row.payload == "newer"), "{rows:?}");
    setup.node.sigkill();
    setup.database.run("alter table sequin.hubspot drop constraint short").await;
    setup.node.start_again().await;
    setup.act(HUBSPOT, "resume").await;
    is_brought_but_for(&setup, &model, 0).await;
    setup.hubspot_is(&model).await;
    let is_well = |consumer: &Value| consumer["state"] == "live" && consumer["health"]["status"] == "healthy";
    setup.consumer_is(HUBSPOT, "live and well", is_well).await;
}

#[tokio::test]
async fn a_record_that_is_refused_again_and_again_never_holds_up_what_is_new() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run(ONLY_SHORT).await;
    setup.publish(&mut model, &[too_long(1)]).await;
    is_brought_but_for(&setup, &model, 1).await;
    eventually("it to be tried again", async || {
        let list = setup.node.api.get("/v1/consumers/hubspot/quarantine").await.expect(200);
        let attempts = list["data"][0]["attempts"].as_u64();
        holds(attempts > Some(2), || format!("there were {attempts:?} attempts"))
    })
    .await;
    for round in 0..20u128 {
        setup.publish(&mut model, &contacts(100 + round..200 + round)).await;
        if round % 5 == 0 {
            setup.act(HUBSPOT, "resume").await;
        }
    }
    is_brought_but_for(&setup, &model, 1).await;
    let mut rows = model.of_provider(HUBSPOT);
    rows.retain(|(_, _, upstream_id), _| upstream_id != "1");
    setup.table_is(HUBSPOT, &rows).await;
}
