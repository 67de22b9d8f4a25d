//! A collection that is published as a whole, version after version: what a version does not bring again is deleted
//! when it is activated, and nothing else is.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Answer, Api, send},
    model::{HUBSPOT, Model, Version, contact, lines, no_contact, sync},
    node::Node,
    setup::Setup,
};

fn path(sync: u128, collection: &str) -> String {
    format!("/v1/syncs/{}/collections/{collection}/version", self::sync(sync))
}

async fn begin(api: &Api, path: &str, body: &Value) -> Answer {
    send(api.request(Method::PUT, path).json(body)).await
}

async fn activate(api: &Api, path: &str, body: &Value) -> Answer {
    api.post(&format!("{path}/activate"), body).await
}

fn deal(upstream_id: u32) -> Version {
    Version { collection: "deal".into(), ..contact(sync(1), upstream_id, json!({})) }
}

#[tokio::test]
async fn an_activated_version_deletes_what_it_did_not_bring_again_and_nothing_else() {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    let (api, contacts) = (&setup.node.api, path(1, "contact"));
    let mut model = Model::default();
    let older: Vec<Version> = (0..3000).map(|number| contact(sync(1), number, json!({"v": 1}))).collect();
    setup.publish(&mut model, &older).await;
    let others = [deal(1), contact(sync(2), 1, json!({})), no_contact(sync(1), 2999)];
    setup.publish(&mut model, &others).await;
    let begun = begin(api, &contacts, &json!({"version": 7})).await.expect(200);
    assert_eq!(begun, json!({"version": 7, "began_after": 3003, "active": false}));
    setup.publish(&mut model, &[contact(sync(1), 5, json!({"v": 2})), contact(sync(1), "new", json!({"v": 2}))]).await;

    let activation = activate(api, &contacts, &json!({"version": 7})).await.expect(200);
    assert_eq!(activation, json!({"deleted": 2998, "done": true}));
    let stale: Vec<Version> =
        (0..2999).filter(|&number| number != 5).map(|number| no_contact(sync(1), number)).collect();
    model.publish(&stale);
    setup.hubspot_is(&model).await;
    let again = activate(api, &contacts, &json!({"version": 7})).await.expect(200);
    assert_eq!(again, json!({"deleted": 0, "done": true}));
    assert_eq!(setup.consumer(HUBSPOT).await["quarantined"], 0);
}

#[tokio::test]
async fn a_version_that_goes_on_keeps_what_it_has_brought_before_a_restart_too() {
    let mut node = Node::start().await;
    let contacts = path(1, "contact");
    let version = json!({"version": 1});
    let begun = begin(&node.api, &contacts, &version).await.expect(200);
    assert_eq!(begun, json!({"version": 1, "began_after": 0, "active": true}), "there is nothing before it");
    node.api.publish(lines(&[contact(sync(1), 1, json!({}))])).await.expect(200);
    activate(&node.api, &contacts, &version).await.expect(200);

    node.sigterm().await;
    node.start_again().await;
    assert_eq!(begin(&node.api, &contacts, &version).await.expect(200), begun);
    node.api.publish(lines(&[contact(sync(1), 2, json!({}))])).await.expect(200);
    assert_eq!(activate(&node.api, &contacts, &version).await.expect(200)["deleted"], 0);

    // Another one begins anew, and empties the collection if it brings nothing.
    let next = begin(&node.api, &contacts, &json!({"version": 2})).await.expect(200);
    assert_eq!(next, json!({"version": 2, "began_after": 2, "active": false}));
    assert_eq!(activate(&node.api, &contacts, &json!({"version": 2})).await.expect(200)["deleted"], 2);
    assert_eq!(node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200)["records"], 0);
}

#[tokio::test]
async fn what_is_published_anew_while_a_version_is_activated_stays() {
    let node = Node::start().await;
    let contacts = path(1, "contact");
    let contact_of = |number: usize, v: u32| contact(sync(1), number, json!({"v": v}));
    let first: Vec<Version> = (0..12_000).map(|number| contact_of(number, 1)).collect();
    for some in first.chunks(4000) {
        node.api.publish(lines(some)).await.expect(200);
    }
    begin(&node.api, &contacts, &json!({"version": 2})).await.expect(200);
    let anew = async {
        for some in (0..12_000).rev().step_by(2).map(|number| contact_of(number, 2)).collect::<Vec<_>>().chunks(300) {
            node.api.publish(lines(some)).await.expect(200);
        }
    };
    let version = json!({"version": 2});
    let (activation, ()) = tokio::join!(activate(&node.api, &contacts, &version), anew);
    let deleted = activation.expect(200)["deleted"].as_u64().expect("a number");
    assert!((6000..=12_000).contains(&deleted), "{deleted}");
    let left = node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
    assert_eq!(left["records"], 6000, "every record that was published anew, and no other");
}

#[tokio::test]
async fn what_is_no_version_of_a_collection_is_refused() {
    let node = Node::start().await;
    let contacts = path(1, "contact");
    activate(&node.api, &contacts, &json!({"version": 1})).await.expect_problem(409);
    begin(&node.api, &contacts, &json!({"version": 1})).await.expect(200);
    activate(&node.api, &contacts, &json!({"version": 2})).await.expect_problem(409);
    for (body, field) in [
        (json!({}), "version"),
        (json!({"version": "1"}), "version"),
        (json!({"version": -1}), "version"),
        (json!({"version": 1, "more": 1}), "more"),
    ] {
        assert_eq!(begin(&node.api, &contacts, &body).await.expect_problem(422), [field], "{body}");
        assert_eq!(activate(&node.api, &contacts, &body).await.expect_problem(422), [field], "{body}");
    }
    let long = path(1, &"x".repeat(1025));
    assert_eq!(begin(&node.api, &long, &json!({"version": 1})).await.expect_problem(422), ["collection_id"]);
    let no_sync = "/v1/syncs/acme/collections/contact/version";
    begin(&node.api, no_sync, &json!({"version": 1})).await.expect_problem(404);
    activate(&node.api, no_sync, &json!({"version": 1})).await.expect_problem(404);
    send(node.api.anonymous(Method::PUT, &contacts).json(&json!({"version": 1}))).await.expect_problem(401);
}
