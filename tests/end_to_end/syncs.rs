//! Syncs: described by somebody, purged from the stream, whole or by the collection; and the nodes that run their targets.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::send,
    model::{HUBSPOT, Model, Version, compare, contact, lines, no_contact, sync},
    node::Node,
    setup::Setup,
};

fn path(number: u128) -> String {
    format!("/v1/syncs/{}", sync(number))
}

async fn put(node: &Node, path: &str, body: &Value) -> crate::support::api::Answer {
    send(node.api.request(Method::PUT, path).json(body)).await
}

fn deal(number: u128, id: u128) -> Version {
    Version { collection: "deal's".into(), ..contact(sync(number), id, json!("a deal")) }
}

#[tokio::test]
async fn a_sync_is_described_before_or_after_its_first_record_and_stays_with_its_provider() {
    let node = Node::start().await;
    let acme = json!({"provider": HUBSPOT, "external_id": "acme", "metadata": {"plan": "pro"}});
    let made = put(&node, &path(1), &acme).await;
    let etag = made.etag.clone().expect("an etag");
    let made = made.expect(201);
    assert_eq!((&made["external_id"], &made["metadata"]), (&json!("acme"), &json!({"plan": "pro"})));
    assert_eq!((&made["records"], &made["last_published_at"]), (&json!(0), &Value::Null));
    node.api.publish(contact(sync(1), 1, json!({})).to_json().to_string()).await.expect(200);
    node.api.publish(contact(sync(2), 1, json!({})).to_json().to_string()).await.expect(200);
    let read = node.api.get(&path(1)).await;
    assert_eq!(read.etag.as_ref(), Some(&etag));
    let read = read.expect(200);
    assert_eq!((&read["external_id"], &read["records"]), (&json!("acme"), &json!(1)), "it stays as it was described");

    let globex = put(&node, &path(2), &json!({"external_id": "globex"})).await.expect(200);
    assert_eq!((&globex["provider"], &globex["metadata"]), (&json!(HUBSPOT), &json!({})));
    put(&node, &path(3), &json!({"provider": "stripe"})).await.expect(201);
    let ids = |syncs: Vec<Value>| syncs.iter().map(|sync| sync["id"].clone()).collect::<Vec<_>>();
    let all: Vec<_> = (1..4).map(|number| json!(sync(number))).collect();
    assert_eq!(ids(node.api.pages("/v1/syncs").await), all);
    assert_eq!(ids(node.api.pages(&format!("/v1/syncs?provider={HUBSPOT}")).await), all[..2]);

    let stale = node.api.request(Method::PUT, &path(1)).header("if-match", "\"0\"").json(&acme);
    send(stale).await.expect_problem(412);
    let current = node.api.request(Method::PUT, &path(1)).header("if-match", &etag).json(&json!({}));
    assert_eq!(send(current).await.expect(200)["external_id"], Value::Null);
    for (sync, body, fields) in [
        (1, json!({"provider": "stripe"}), ["provider"]),
        (9, json!({"external_id": "acme"}), ["provider"]),
        (9, json!({"provider": "Hub Spot"}), ["provider"]),
        (9, json!({"provider": HUBSPOT, "external_id": ""}), ["external_id"]),
        (9, json!({"provider": HUBSPOT, "metadata": []}), ["metadata"]),
        (9, json!({"provider": HUBSPOT, "name": "acme"}), ["name"]),
    ] {
        assert_eq!(put(&node, &path(sync), &body).await.expect_problem(422), fields, "{body}");
    }
    put(&node, "/v1/syncs/acme", &acme).await.expect_problem(404);
    send(node.api.request(Method::PUT, &path(1)).body("{")).await.expect_problem(400);
    node.api.get(&path(9)).await.expect_problem(404);
}

#[tokio::test]
async fn what_a_record_leaves_out_of_its_sync_is_as_the_sync_is_described_also_after_a_restart() {
    let mut setup = Setup::new().await;
    setup.start_hubspot().await;
    let acme = json!({"provider": HUBSPOT, "external_id": "acme", "metadata": {"plan": "pro"}});
    put(&setup.node, &path(1), &acme).await.expect(201);
    let mut own = contact(sync(1), 2, json!({})).to_json();
    own["sync_external_id"] = json!("its own");
    let records = [contact(sync(1), 1, json!({})).to_json(), own, contact(sync(2), 3, json!({})).to_json()];
    for record in records {
        setup.node.api.publish(record.to_string()).await.expect(200);
    }
    assert!(setup.node.sigterm().await.success());
    setup.node.start_again().await;
    setup.node.api.publish(contact(sync(1), 4, json!({})).to_json().to_string()).await.expect(200);
    setup.reached(HUBSPOT, 4).await;
    let sql = "select upstream_id || coalesce(sync_external_id, '-') || coalesce(sync_metadata ->> 'plan', '-')
               from sequin.hubspot order by 1";
    let rows = setup.database.owner.query(sql, &[]).await.expect("the rows");
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, ["1acmepro", "2its ownpro", "3--", "4acmepro"]);
}

#[tokio::test]
async fn a_sync_that_is_deleted_leaves_the_stream_and_the_answer_has_what_removes_its_rows() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.start("of_sync", &json!({"sync": sync(1)})).await;
    setup.start("of_another", &json!({"sync": sync(2)})).await;
    setup.draft("drafted", &json!({"provider": HUBSPOT})).await;
    for number in 1..3 {
        let contacts: Vec<_> = (0..300).map(|id| contact(sync(number), id, json!("before"))).collect();
        setup.publish(&mut model, &contacts).await;
        setup.publish(&mut model, &[deal(number, 1), deal(number, 2), no_contact(sync(number), 3)]).await;
    }
    put(&setup.node, &path(1), &json!({"external_id": "acme"})).await.expect(200);
    setup.hubspot_is(&model).await;
    setup.table_is("of_sync", &model.of_sync(sync(1))).await;

    let of_collection = setup.node.api.delete(&format!("{}/collections/deal%27s", path(1))).await.expect(200);
    assert_eq!(of_collection["removed"], 2, "{of_collection}");
    let left = setup.node.api.get(&path(1)).await.expect(200);
    assert_eq!(left["records"], 299, "{left}");
    for cleanup in of_collection["cleanup_sql"].as_array().expect("a list") {
        setup.database.run(cleanup["sql"].as_str().expect("SQL")).await;
    }
    let mut expected = model.of_provider(HUBSPOT);
    expected.retain(|(of, collection, _), _| (*of, collection.as_str()) != (sync(1), "deal's"));
    assert_eq!(compare(&setup.database.table(HUBSPOT).await, &expected), Ok(()));

    let deleted = setup.node.api.delete(&path(1)).await.expect(200);
    assert!(deleted["removed"].as_u64() >= Some(300), "{deleted}");
    let mut consumers = Vec::new();
    for cleanup in deleted["cleanup_sql"].as_array().expect("a list") {
        consumers.push(cleanup["consumer"].as_str().expect("a name"));
        assert_eq!(cleanup["target"], "app");
        setup.database.run(cleanup["sql"].as_str().expect("SQL")).await;
    }
    consumers.sort_unstable();
    assert_eq!(consumers, [HUBSPOT, "of_sync"]);
    assert_eq!(setup.database.table(HUBSPOT).await, model.of_sync(sync(2)));
    assert_eq!(setup.database.count("of_sync").await, 0);
    setup.node.api.get(&path(1)).await.expect_problem(404);
    setup.node.api.delete(&path(1)).await.expect_problem(404);
    setup.node.api.delete(&format!("{}/collections/contact", path(1))).await.expect_problem(404);
    setup.node.api.delete("/v1/syncs/acme").await.expect_problem(404);

    // It may come back, and is a new one then.
    setup.node.api.publish(contact(sync(1), 7, json!("again")).to_json().to_string()).await.expect(200);
    setup.consumer_is("of_sync", "through", |consumer| consumer["applied"]["upserts"] == 303).await;
    assert_eq!(setup.database.count("of_sync").await, 1);
    let again = setup.node.api.get(&path(1)).await.expect(200);
    assert_eq!((&again["external_id"], &again["records"]), (&Value::Null, &json!(1)));
    setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn what_a_sync_is_described_with_makes_no_publication_larger_than_there_is_room_for() {
    let node = Node::start().await;
    let long = json!({"provider": HUBSPOT, "metadata": {"note": "x".repeat(60_000)}});
    put(&node, &path(1), &long).await.expect(201);
    let some = |count: u128| (0..count).map(|id| contact(sync(1), id, json!({}))).collect::<Vec<_>>();
    node.api.publish(lines(&some(10))).await.expect(200);
    node.api.publish(lines(&some(10_000))).await.expect_problem(413);
    assert!(node.peak_kib() < 300 * 1024, "{} KiB", node.peak_kib());
    assert_eq!(node.api.get(&path(1)).await.expect(200)["records"], 10);
}

#[tokio::test]
async fn a_node_says_which_targets_it_runs() {
    let setup = Setup::new().await;
    setup.node.api.target_state_is("app", "healthy").await;
    let nodes = setup.node.api.get("/v1/nodes").await.expect(200);
    assert_eq!(nodes["data"].as_array().map(Vec::len), Some(1), "{nodes}");
    let node = &nodes["data"][0];
    assert_eq!(node["targets"][0]["name"], "app", "{node}");
    let id = node["targets"][0]["id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
    assert!(id.is_some() && node["node"].is_string() && node["seen_at"].is_string(), "{node}");
}
