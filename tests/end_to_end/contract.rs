//! The outside contract of the Management API: statuses, shapes and names that programs rely on.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::send,
    database::{Database, SCHEMA, with_password},
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, lines, sync},
    node::Node,
    setup::Setup,
};

/// A target that nobody answers at.
fn nowhere(name: &str) -> Value {
    json!({
        "name": name, "metadata": {"team": "data"},
        "connection": {"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin", "password": "hunter2"},
    })
}

fn draft(name: &str, target: &str) -> Value {
    json!({"name": name, "target": target, "filter": {"provider": HUBSPOT}, "schema": SCHEMA, "table": name})
}

fn names(items: &[Value]) -> Vec<&str> {
    let mut names: Vec<_> = items.iter().map(|item| item["name"].as_str().expect("a name")).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn nothing_is_told_without_the_token_but_whether_the_node_lives_and_is_ready() {
    let node = Node::start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(node.api.anonymous(Method::GET, path)).await.status, 200, "{path}");
    }
    let paths = ["/v1/targets", "/v1/consumers", "/v1/providers", "/v1/syncs", "/v1/targets/x"];
    for path in paths {
        let wrong = node.api.anonymous(Method::GET, path).bearer_auth("not-the-token-of-this-node");
        let basic = node.api.anonymous(Method::GET, path).basic_auth("sequin", Some("password"));
        for request in [node.api.anonymous(Method::GET, path), wrong, basic] {
            assert!(send(request).await.expect_problem(401).is_empty(), "{path}");
        }
    }
    let publish = node.api.anonymous(Method::POST, "/v1/records").body("not even JSON");
    send(publish).await.expect_problem(401);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_no_json_is_refused_as_a_problem() {
    let node = Node::start().await;
    let uuid = Uuid::new_v4();
    let paths = ["/v1/nothing", "/nothing", "/v1/targets/nobody", "/v1/consumers/nobody", "/v1/syncs/nobody"];
    for path in paths
        .map(String::from)
        .into_iter()
        .chain(["targets", "consumers", "syncs"].map(|of| format!("/v1/{of}/{uuid}")))
    {
        node.api.get(&path).await.expect_problem(404);
    }
    for action in ["start", "pause", "resume", "verify"] {
        node.api.act(&format!("/v1/consumers/nobody/{action}")).await.expect_problem(404);
    }
    node.api.get("/v1/consumers/nobody/create-table-sql").await.expect_problem(404);
    node.api.delete("/v1/targets/nobody").await.expect_problem(404);
    node.api.delete("/v1/targets").await.expect_problem(405);
    for path in ["/v1/targets", "/v1/consumers"] {
        for body in ["", "{", "nothing"] {
            let request = node.api.request(Method::POST, path).header("content-type", "application/json").body(body);
            send(request).await.expect_problem(400);
        }
    }
}

#[tokio::test]
async fn a_target_is_refused_with_the_names_of_the_fields_that_are_wrong() {
    let node = Node::start().await;
    let wrong = |pointer: &str, value: Value| {
        let mut target = nowhere("app");
        *target.pointer_mut(pointer).expect("a field") = value;
        target
    };
    let mut unknown = nowhere("app");
    unknown["connection"]["hostname"] = json!("db");
    let mut without_host = nowhere("app");
    without_host["connection"].as_object_mut().expect("an object").remove("host");
    for (target, field) in [
        (json!({}), "name"),
        (json!([]), "body"),
        (unknown, "connection.hostname"),
        (without_host, "connection.host"),
        (wrong("/name", json!("not a name")), "name"),
        (wrong("/name", json!(Uuid::nil())), "name"),
        (wrong("/name", json!(7)), "name"),
        (wrong("/connection/port", json!(70_000)), "connection.port"),
        (wrong("/connection/port", json!("5432")), "connection.port"),
        (wrong("/connection/host", json!("")), "connection.host"),
        (wrong("/metadata", json!([])), "metadata"),
    ] {
        assert_eq!(node.api.post("/v1/targets", &target).await.expect_problem(422), [field], "{target}");
    }
    let mut two = wrong("/connection/host", json!(""));
    two["pool_size"] = json!(0);
    assert_eq!(node.api.post("/v1/targets", &two).await.expect_problem(422), ["connection.host", "pool_size"]);
    let mut mode = nowhere("app");
    mode["connection"]["tls"] = json!({"mode": "perhaps"});
    assert_eq!(node.api.post("/v1/targets", &mode).await.expect_problem(422), ["connection.tls.mode"]);
    assert_eq!(names(&node.api.pages("/v1/targets").await), [""; 0]);
}

#[tokio::test]
async fn a_target_is_addressed_by_id_or_name_and_never_shows_its_password() {
    let node = Node::start().await;
    let made = node.api.post("/v1/targets", &nowhere("app")).await;
    assert!(made.etag.is_some());
    let made = made.expect(201);
    let connection = &made["connection"];
    assert_eq!((&connection["password"], &connection["password_set"]), (&Value::Null, &json!(true)));
    assert_eq!((&connection["host"], &connection["port"]), (&json!("127.0.0.1"), &json!(1)));
    assert_eq!((&made["pool_size"], &made["metadata"]), (&json!(4), &json!({"team": "data"})));
    assert_eq!(made["consumers"], 0);
    let id = made["id"].as_str().expect("an id").to_owned();
    for path in [format!("/v1/targets/{id}"), "/v1/targets/app".into()] {
        let read = node.api.get(&path).await;
        assert!(!read.body.to_string().contains("hunter2"));
        assert_eq!(read.expect(200)["id"], json!(id));
    }
    assert_eq!(node.api.post("/v1/targets", &nowhere("app")).await.expect_problem(409), ["name"]);
    let checked = node.api.act("/v1/targets/app/check").await.expect(200);
    assert_eq!(checked["ok"], false);
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    for member in ["code", "severity", "summary", "cause", "fix"] {
        assert!(is_text(&checked["reason"][member]), "{checked}");
    }
    let target = eventually("the target to be unhealthy", async || {
        let target = node.api.get("/v1/targets/app").await.expect(200);
        holds(target["state"] == "unhealthy", || format!("it is {target}")).map(|()| target)
    })
    .await;
    assert_eq!(target["health"]["status"], "unhealthy");
    let reason = &target["health"]["reasons"][0];
    assert_eq!((&reason["target"], &reason["severity"]), (&json!("app"), &json!("error")));
    for member in ["code", "summary", "since", "cause", "fix"] {
        assert!(is_text(&reason[member]), "{reason}");
    }

    node.api.post("/v1/consumers", &draft("forward", "app")).await.expect(201);
    node.api.delete("/v1/targets/app").await.expect_problem(409);
    node.api.delete("/v1/consumers/forward").await.expect(204);
    node.api.delete("/v1/targets/app").await.expect(204);
    node.api.get(&format!("/v1/targets/{id}")).await.expect_problem(404);
    node.api.post("/v1/targets", &nowhere("app")).await.expect(201);
    assert!(!node.log().contains("hunter2"), "the password is in the log");
}

#[tokio::test]
async fn a_consumer_is_refused_with_the_names_of_the_fields_that_are_wrong() {
    let node = Node::start().await;
    node.api.post("/v1/targets", &nowhere("app")).await.expect(201);
    let wrong = |field: &str, value: Value| {
        let mut consumer = draft("forward", "app");
        consumer[field] = value;
        consumer
    };
    for (consumer, field) in [
        (json!({}), "name"),
        (wrong("tables", json!("two")), "tables"),
        (wrong("target", json!("nobody")), "target"),
        (wrong("filter", json!({})), "filter"),
        (wrong("filter", json!({"provider": HUBSPOT, "sync": sync(1)})), "filter"),
        (wrong("filter", json!({"provider": "Hub Spot"})), "filter.provider"),
        (wrong("filter", json!({"sync": "acme"})), "filter.sync"),
        (wrong("schema", json!("")), "schema"),
        (wrong("table", json!("x".repeat(64))), "table"),
        (wrong("lag_threshold_seconds", json!(0)), "lag_threshold_seconds"),
        (wrong("lag_threshold_records", json!(0)), "lag_threshold_records"),
        (wrong("unsupported_text", json!("drop")), "unsupported_text"),
    ] {
        assert_eq!(node.api.post("/v1/consumers", &consumer).await.expect_problem(422), [field], "{consumer}");
    }
}

#[tokio::test]
async fn a_consumer_is_shown_as_the_contract_has_it() {
    let node = Node::start().await;
    let target = node.api.post("/v1/targets", &nowhere("app")).await.expect(201);
    let mut request = draft("forward", "app");
    request["metadata"] = json!({"owner": "ann"});
    let made = node.api.post("/v1/consumers", &request).await.expect(201);
    let expected = json!({
        "id": made["id"], "name": "forward", "target": {"id": target["id"], "name": "app"},
        "filter": {"provider": HUBSPOT}, "schema": SCHEMA, "table": "forward", "state": "draft",
        "health": {"status": "initializing", "reasons": [], "checked_at": null},
        "backfill": null, "checkpoint": 0, "lag": {"records": 0, "seconds": 0.0, "eta_seconds": null}, "lag_threshold_records": null,
        "rate": {"records_per_second": 0.0}, "applied": {"upserts": 0, "deletes": 0},
        "replaced_text": 0, "quarantined": 0, "unsupported_text": "quarantine",
        "node": null, "created_at": made["created_at"], "updated_at": made["updated_at"],
        "metadata": {"owner": "ann"},
    });
    let shown = made.as_object().expect("an object");
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(shown.get(field), Some(value), "{field}");
    }
    let id = made["id"].as_str().expect("an id");
    assert_eq!(node.api.get(&format!("/v1/consumers/{id}")).await.expect(200), made);
    assert_eq!(node.api.get("/v1/consumers/forward").await.expect(200), made);
    assert_eq!(node.api.post("/v1/consumers", &draft("forward", "app")).await.expect_problem(409), ["name"]);
    let mut replacing = draft("replacing", "app");
    replacing["unsupported_text"] = json!("replace");
    assert_eq!(node.api.post("/v1/consumers", &replacing).await.expect(201)["unsupported_text"], "replace");
    let of_id = draft("by-id", target["id"].as_str().expect("an id"));
    assert_eq!(node.api.post("/v1/consumers", &of_id).await.expect(201)["target"]["name"], "app");
    // A draft was never started, so there is nothing to pause; its target does not answer, so it can't be started.
    node.api.act("/v1/consumers/forward/pause").await.expect_problem(409);
    node.api.act("/v1/consumers/forward/resume").await.expect_problem(409);
    node.api.act("/v1/consumers/forward/start").await.expect_problem(422);
    assert_eq!(node.api.get("/v1/consumers/forward").await.expect(200)["state"], "draft");
}

#[tokio::test]
async fn lists_come_in_pages_and_consumers_by_what_is_asked_for() {
    let node = Node::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        node.api.post("/v1/targets", &nowhere(name)).await.expect(201);
        let mut consumer = draft(&format!("of-{name}"), name);
        if name > "c" {
            consumer["filter"] = json!({"sync": sync(1)});
        }
        node.api.post("/v1/consumers", &consumer).await.expect(201);
    }
    assert_eq!(names(&node.api.pages("/v1/targets").await), ["a", "b", "c", "d", "e"]);
    for (query, expected) in [
        ("", &["of-a", "of-b", "of-c", "of-d", "of-e"][..]),
        ("?target=b", &["of-b"]),
        ("?provider=hubspot", &["of-a", "of-b", "of-c"]),
        (&format!("?sync={}", sync(1)), &["of-d", "of-e"]),
        (&format!("?sync={}&target=e", sync(1)), &["of-e"]),
        ("?state=draft", &["of-a", "of-b", "of-c", "of-d", "of-e"]),
        ("?state=live", &[]),
        ("?provider=stripe", &[]),
    ] {
        assert_eq!(names(&node.api.pages(&format!("/v1/consumers{query}")).await), expected, "{query}");
    }
    for query in ["limit=0", "limit=x", "after=x", "colour=red"] {
        for of in ["targets", "consumers"] {
            node.api.get(&format!("/v1/{of}?{query}")).await.expect_problem(422);
        }
    }
}

#[tokio::test]
async fn a_write_that_names_another_revision_is_refused() {
    let node = Node::start().await;
    node.api.post("/v1/targets", &nowhere("app")).await.expect(201);
    let made = node.api.post("/v1/consumers", &draft("forward", "app")).await;
    let read = node.api.get("/v1/consumers/forward").await;
    assert_eq!(made.etag, read.etag);
    let etag = read.etag.expect("an ETag");
    let delete = |path: &str, etag: &str| node.api.request(Method::DELETE, path).header("if-match", etag);
    for path in ["/v1/consumers/forward", "/v1/targets/app"] {
        send(delete(path, "\"0\"")).await.expect_problem(412);
    }
    let start = node.api.request(Method::POST, "/v1/consumers/forward/start").header("if-match", "\"0\"");
    send(start).await.expect_problem(412);
    send(delete("/v1/consumers/forward", &etag)).await.expect(204);
    send(delete("/v1/targets/app", "*")).await.expect(204);
}

#[tokio::test]
async fn the_set_up_is_what_a_customer_runs_as_it_stands() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &[contact(sync(1), 1, json!({}))]).await;
    // Another customer, who has nothing yet but an empty database.
    let database = Database::create().await;
    let user = format!("Sequin's \"{}\"", database.name);
    let mut connection = database.connection();
    connection["username"] = json!(user);
    let api = &setup.node.api;
    api.post("/v1/targets", &json!({"name": "theirs", "connection": connection})).await.expect(201);
    let answer = api.get("/v1/targets/theirs/setup-sql?schema=Their%20schema").await.expect(200);
    database.run(&with_password(answer["sql"].as_str().expect("SQL"))).await;
    let checked = api.act("/v1/targets/theirs/check").await.expect(200);
    assert_eq!(checked["ok"], true, "{checked}");
    assert!(checked["latency_ms"].is_number() && checked["server_version"].is_string(), "{checked}");

    let mut consumer = draft("theirs", "theirs");
    (consumer["schema"], consumer["table"]) = (json!("Their schema"), json!("All of \"HubSpot\""));
    api.post("/v1/consumers", &consumer).await.expect(201);
    let answer = api.get("/v1/consumers/theirs/create-table-sql").await.expect(200);
    database.run(answer["sql"].as_str().expect("SQL")).await;
    assert_eq!(api.act("/v1/consumers/theirs/verify").await.expect(200), json!({"ok": true, "findings": []}));
    setup.act("theirs", "start").await;
    setup.reached("theirs", 1).await;
    assert_eq!(database.ask::<i64>(r#"select count(*) from "Their schema"."All of ""HubSpot""""#).await, 1);
}

#[tokio::test]
async fn providers_and_syncs_are_what_was_published_for() {
    let node = Node::start().await;
    assert_eq!(node.api.get("/v1/providers").await.expect(200), json!({"data": [], "next": null}));
    let mut versions: Vec<_> = (1..=5).map(|number| contact(sync(number), 1, json!({}))).collect();
    versions.push(Version { provider: "stripe", ..contact(sync(6), 1, json!({})) });
    versions.push(contact(sync(1), 2, json!({})));
    node.api.publish(lines(&versions)).await.expect(200);
    assert_eq!(names(&node.api.pages("/v1/providers").await), ["hubspot", "stripe"]);
    let ids = |syncs: &[Value]| syncs.iter().map(|sync| sync["id"].clone()).collect::<Vec<_>>();
    let all: Vec<_> = (1..=6).map(|number| json!(sync(number))).collect();
    assert_eq!(ids(&node.api.pages("/v1/syncs").await), all);
    assert_eq!(ids(&node.api.pages("/v1/syncs?provider=stripe").await), all[5..]);
    node.api.get("/v1/syncs?provider=No%20Slug").await.expect_problem(422);
    let one = node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
    assert_eq!((&one["provider"], &one["records"], &one["last_updated_idx"]), (&json!(HUBSPOT), &json!(2), &json!(6)));
}
