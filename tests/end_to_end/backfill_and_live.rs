//! The main job: first everything that the stream holds, then everything as it happens.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, no_contact, sync},
    setup::Setup,
};

/// Contacts of seven syncs, numbered.
fn contacts(numbers: std::ops::Range<u128>, state: &str) -> Vec<Version> {
    numbers
        .map(|number| contact(sync(number % 7), number, json!({"number": number.to_string(), "state": state})))
        .collect()
}

#[tokio::test]
async fn a_backfill_is_followed_by_creates_updates_and_deletes_as_they_happen() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..700, "before")).await;
    let deleted_before: Vec<_> = (0..50).map(|number| no_contact(sync(number % 7), number)).collect();
    setup.publish(&mut model, &deleted_before).await;
    setup.start_hubspot().await;
    setup.hubspot_is(&model).await;

    setup.publish(&mut model, &contacts(700..800, "created")).await;
    setup.hubspot_is(&model).await;
    setup.publish(&mut model, &contacts(600..750, "updated")).await;
    setup.hubspot_is(&model).await;
    let deleted: Vec<_> = (300..400).map(|number| no_contact(sync(number % 7), number)).collect();
    setup.publish(&mut model, &deleted).await;
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_record_may_be_deleted_and_created_again_and_come_many_times_in_one_request() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let one = |payload: Value| contact(sync(1), "one", payload);
    setup.publish(&mut model, &[one(json!(1))]).await;
    setup.hubspot_is(&model).await;
    setup.publish(&mut model, &[no_contact(sync(1), "one")]).await;
    setup.hubspot_is(&model).await;
    setup.publish(&mut model, &[one(json!(2))]).await;
    setup.hubspot_is(&model).await;

    // In one request: deleted and created, created and deleted, and five hundred versions of one record.
    let mut versions = vec![no_contact(sync(1), "one"), one(json!(3))];
    versions.extend([contact(sync(2), "two", json!(1)), no_contact(sync(2), "two"), no_contact(sync(2), "never was")]);
    versions.extend((0..500).map(|number| contact(sync(3), "three", json!(number))));
    setup.publish(&mut model, &versions).await;
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn the_status_tells_of_the_backfill_and_then_of_what_happens() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..1000, "before")).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    // Nothing can be written while somebody has the table to himself.
    let mut holder = setup.database.connect().await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("lock table sequin.hubspot in exclusive mode").await.expect("the lock");
    setup.act(HUBSPOT, "start").await;
    let has_begun = |consumer: &Value| consumer["state"] == "backfilling" && consumer["lag"]["records"] == 1000;
    let consumer = setup.consumer_is(HUBSPOT, "backfilling", has_begun).await;
    assert_eq!(consumer["backfill"]["total"], 1000);
    assert_eq!(consumer["backfill"]["done"], 0);
    assert_eq!(consumer["backfill"]["finished_at"], Value::Null);
    assert_eq!(consumer["checkpoint"], 0);
    lock.commit().await.expect("the table is free");

    let is_done = |consumer: &Value| consumer["state"] == "live" && consumer["lag"]["records"] == 0;
    let consumer = setup.consumer_is(HUBSPOT, "live, without lag", is_done).await;
    assert_eq!(consumer["health"]["status"], "healthy");
    assert_eq!(consumer["backfill"]["done"], 1000);
    assert_eq!(consumer["backfill"]["eta_seconds"], 0);
    let time = |name: &str| consumer["backfill"][name].as_str().and_then(|time| time.parse::<DateTime<Utc>>().ok());
    assert!(time("started_at").expect("a time") <= time("finished_at").expect("a time"));
    assert_eq!(consumer["checkpoint"], model.last_idx(HUBSPOT));
    assert_eq!(consumer["lag"]["seconds"].as_f64(), Some(0.0));
    assert_eq!(consumer["applied"], json!({"upserts": 1000, "deletes": 0}));

    setup.publish(&mut model, &[no_contact(sync(0), 0), contact(sync(1), 1, json!("updated"))]).await;
    let consumer = setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    assert_eq!(consumer["applied"], json!({"upserts": 1001, "deletes": 1}));
    assert_eq!((&consumer["state"], &consumer["backfill"]["total"]), (&json!("live"), &json!(1000)));
}

#[tokio::test]
async fn a_provider_consumer_takes_every_sync_of_its_provider_new_ones_included() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let of_stripe = |sync, id: &str| Version { provider: "stripe", ..contact(sync, id, json!("of Stripe")) };
    setup.publish(&mut model, &[contact(sync(1), "a", json!("old sync"))]).await;
    setup.publish(&mut model, &[of_stripe(sync(100), "a")]).await;
    setup.start_hubspot().await;
    setup.hubspot_is(&model).await;
    setup.publish(&mut model, &[of_stripe(sync(101), "b")]).await;
    setup.publish(&mut model, &[contact(sync(2), "a", json!("new sync"))]).await;
    setup.publish(&mut model, &contacts(0..100, "more of both")).await;
    setup.hubspot_is(&model).await;
    assert_eq!(setup.database.ask::<i64>("select count(distinct sync_id) from sequin.hubspot").await, 7);
}

#[tokio::test]
async fn a_consumer_of_a_provider_that_nobody_has_published_for_takes_its_first_record() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.start("sync", &json!({"sync": sync(1)})).await;
    let consumer = setup.state_is(HUBSPOT, "live").await;
    assert_eq!((&consumer["backfill"]["total"], &consumer["backfill"]["done"]), (&json!(0), &json!(0)));
    setup.publish(&mut model, &[contact(sync(1), "first", json!({}))]).await;
    setup.hubspot_is(&model).await;
    setup.table_is("sync", &model.of_sync(sync(1))).await;
}

#[tokio::test]
async fn consumers_of_one_target_each_take_what_is_theirs_and_a_later_one_backfills_the_same() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..300, "before")).await;
    setup.start_hubspot().await;
    setup.start("sync_3", &json!({"sync": sync(3)})).await;
    setup.hubspot_is(&model).await;
    setup.table_is("sync_3", &model.of_sync(sync(3))).await;
    let deleted: Vec<_> = (0..70).map(|number| no_contact(sync(number % 7), number)).collect();
    setup.publish(&mut model, &deleted).await;
    setup.publish(&mut model, &contacts(200..400, "after")).await;
    setup.hubspot_is(&model).await;
    setup.table_is("sync_3", &model.of_sync(sync(3))).await;

    setup.start("hubspot_again", &json!({"provider": HUBSPOT})).await;
    setup.table_is("hubspot_again", &model.of_provider(HUBSPOT)).await;
    let consumer = setup.state_is("hubspot_again", "live").await;
    assert_eq!(consumer["applied"], json!({"upserts": model.of_provider(HUBSPOT).len(), "deletes": 0}));
    assert_eq!(setup.node.api.get("/v1/targets/app").await.expect(200)["consumers"], 3);
}

#[tokio::test]
async fn a_row_holds_what_the_record_says_and_keeps_the_time_of_its_insertion() {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    let sequin_id = Uuid::new_v4();
    let record = |upstream_id: &str, payload: Value| {
        json!({
            "op": "upsert", "provider": HUBSPOT, "sync_id": sync(1), "sync_external_id": "acme",
            "sync_metadata": {"plan": "pro"}, "collection_id": "contact", "upstream_id": upstream_id,
            "payload": payload, "sequin_id": sequin_id,
            "upstream_created_at": "2023-03-01T12:00:00+02:00", "upstream_updated_at": "2023-03-02T08:30:00.123456Z",
        })
    };
    let published = setup.node.api.publish(record("101", json!({"email": "a@example.com"})).to_string()).await;
    assert_eq!(published.expect(200), json!({"accepted": 1, "last_updated_idx": 1}));
    let rows_where = async |condition: &str, count: i64| {
        eventually(&format!("{count} rows where {condition}"), async || {
            let count_of = format!("select count(*) from sequin.hubspot where {condition}");
            let found: i64 = setup.database.ask(&count_of).await;
            let rows = "select coalesce(string_agg(r::text, '; '), 'nothing') from sequin.hubspot r";
            let seen: String = setup.database.ask(rows).await;
            holds(found == count, || format!("there is {seen}"))
        })
        .await;
    };
    let unchanged = format!(
        "sequin_id = '{sequin_id}' and sync_id = '{}' and sync_external_id = 'acme' and collection_id = 'contact'
         and sync_metadata = '{{\"plan\": \"pro\"}}' and upstream_created_at = '2023-03-01T10:00:00Z'
         and upstream_updated_at = '2023-03-02T08:30:00.123456Z' and now() - inserted_at < '1 minute'",
        sync(1)
    );
    let email = r#"upstream_id = '101' and payload = '{"email": "a@example.com"}'"#;
    rows_where(&format!("{unchanged} and {email} and updated_idx = 1 and inserted_at = updated_at"), 1).await;
    let inserted_at: DateTime<Utc> = setup.database.ask("select inserted_at from sequin.hubspot").await;

    // The publisher brings the record's id, so its upstream id may change.
    setup.node.api.publish(record("102", json!(null)).to_string()).await.expect(200);
    let changed = "upstream_id = '102' and payload = 'null' and updated_idx = 2";
    let times = format!("inserted_at = '{}' and updated_at > inserted_at", inserted_at.to_rfc3339());
    rows_where(&format!("{unchanged} and {changed} and {times}"), 1).await;
    assert_eq!(setup.database.count(HUBSPOT).await, 1);

    // What is not said has its default.
    let least =
        json!({"provider": HUBSPOT, "sync_id": sync(2), "collection_id": "c", "upstream_id": "u", "payload": 0});
    setup.node.api.publish(least.to_string()).await.expect(200);
    let defaults = "sync_external_id is null and sync_metadata = '{}' and now() - upstream_created_at < '1 minute'
                    and upstream_created_at = upstream_updated_at and updated_idx = 3";
    rows_where(defaults, 1).await;
}
