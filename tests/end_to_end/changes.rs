//! Changing what runs: a target's connection, a consumer's table and filter, and reading again. It takes effect without a
//! restart, and neither loses nor repeats anything.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::send,
    database::{Database, PASSWORD},
    eventually,
    model::{HUBSPOT, Model, Version, compare, contact, lines, no_contact, sync},
    setup::Setup,
    status::{reason, reasons},
};

const CONSUMER: &str = "/v1/consumers/hubspot";
const TARGET: &str = "/v1/targets/app";

fn contacts(numbers: std::ops::Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!(state))).collect()
}

impl Setup {
    async fn change(&self, path: &str, change: &Value) -> Value {
        self.node.api.patch(path, change).await.expect(200)
    }

    /// A running consumer that has brought some records.
    async fn with_contacts(model: &mut Model) -> Self {
        let setup = Self::new().await;
        setup.publish(model, &contacts(0..500, "before")).await;
        setup.start_hubspot().await;
        setup.hubspot_is(model).await;
        setup
    }
}

#[tokio::test]
async fn a_target_that_moves_to_another_database_takes_its_consumers_along_and_fills_the_tables_there() {
    let mut model = Model::default();
    let setup = Setup::with_contacts(&mut model).await;
    let other = Database::on_own_server().await;
    other.make_table(HUBSPOT).await;
    let changed = setup.change(TARGET, &json!({"connection": other.connection()})).await;
    assert_eq!(changed["connection"]["database"], other.name);
    let has_everything = async |model: &Model| {
        eventually("the other database to have everything", async || {
            compare(&other.table(HUBSPOT).await, &model.of_provider(HUBSPOT))
        })
        .await;
    };
    has_everything(&model).await;
    let former = setup.database.table(HUBSPOT).await;
    setup.publish(&mut model, &contacts(400..900, "after")).await;
    has_everything(&model).await;
    assert_eq!(compare(&setup.database.table(HUBSPOT).await, &former), Ok(()), "the former database is left alone");
    setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn a_password_that_is_changed_on_both_sides_interrupts_nothing_that_lasts() {
    let mut model = Model::default();
    let setup = Setup::with_contacts(&mut model).await;
    let user = setup.database.user.clone();
    setup.change(TARGET, &json!({"name": "main"})).await;
    let target = "/v1/targets/main";
    setup.database.run(&format!("alter user {user} with password 'another'")).await;
    // Sessions that are open stay so.
    setup.publish(&mut model, &contacts(100..600, "between")).await;
    setup.hubspot_is(&model).await;
    setup.change(target, &json!({"connection": {"password": "another"}})).await;
    setup.publish(&mut model, &contacts(200..700, "after")).await;
    setup.hubspot_is(&model).await;
    let shown = setup.node.api.target_state_is("main", "healthy").await;
    assert_eq!((&shown["connection"]["password"], &shown["connection"]["username"]), (&Value::Null, &json!(user)));

    setup.change(target, &json!({"connection": {"password": "wrong"}})).await;
    setup.node.api.target_state_is("main", "unhealthy").await;
    setup.publish(&mut model, &contacts(300..800, "meanwhile")).await;
    let consumer = setup.state_is(HUBSPOT, "waiting").await;
    assert_eq!(reasons(&consumer)[0]["target"], "main", "{consumer}");
    setup.database.run(&format!("alter user {user} with password '{}'", PASSWORD.replace('\'', "''"))).await;
    setup.change(target, &json!({"connection": {"password": PASSWORD}})).await;
    setup.hubspot_is(&model).await;
    setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn another_table_gets_everything_and_the_former_one_is_left_as_it_is() {
    let mut model = Model::default();
    let setup = Setup::with_contacts(&mut model).await;
    let before = model.of_provider(HUBSPOT);
    let changed = setup.change(CONSUMER, &json!({"table": "contacts"})).await;
    assert_eq!((&changed["table"], &changed["schema"]), (&json!("contacts"), &json!("sequin")));
    let halted = setup.state_is(HUBSPOT, "halted").await;
    assert!(reason(&halted, "table_missing")["fix"].as_str().is_some_and(|fix| fix.contains("contacts")), "{halted}");
    setup.publish(&mut model, &contacts(400..900, "after")).await;
    setup.database.make_table("contacts").await;
    setup.act(HUBSPOT, "resume").await;
    setup.table_is("contacts", &model.of_provider(HUBSPOT)).await;
    assert_eq!(setup.database.table(HUBSPOT).await, before);
    setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn a_filter_that_is_widened_brings_what_it_adds_and_one_that_is_narrowed_brings_no_more_of_the_rest() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..700, "before")).await;
    setup.start(HUBSPOT, &json!({"sync": sync(1)})).await;
    setup.table_is(HUBSPOT, &model.of_sync(sync(1))).await;
    let changed = setup.change(CONSUMER, &json!({"filter": {"provider": HUBSPOT}})).await;
    assert_eq!(changed["filter"], json!({"provider": HUBSPOT}));
    setup.hubspot_is(&model).await;
    setup.publish(&mut model, &contacts(500..900, "after")).await;
    setup.publish(&mut model, &[no_contact(sync(2), 2), no_contact(sync(1), 1)]).await;
    setup.hubspot_is(&model).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.node.api.is_well(HUBSPOT).await;

    setup.change(CONSUMER, &json!({"filter": {"sync": sync(3)}})).await;
    setup.reached(HUBSPOT, model.last_idx_of_sync(sync(3))).await;
    let mut expected = model.of_provider(HUBSPOT);
    setup.publish(&mut model, &contacts(0..70, "of one sync")).await;
    expected.extend(model.of_sync(sync(3)));
    setup.table_is(HUBSPOT, &expected).await;
}

#[tokio::test]
async fn a_consumer_that_is_rewound_brings_back_what_somebody_removed_from_its_table() {
    let mut model = Model::default();
    let setup = Setup::with_contacts(&mut model).await;
    setup.publish(&mut model, &contacts(500..1000, "later")).await;
    setup.hubspot_is(&model).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.database.run("delete from sequin.hubspot where updated_idx in (3, 700)").await;
    setup.node.api.post(&format!("{CONSUMER}/rewind"), &json!({"to": 600})).await.expect(200);
    let mut expected = model.of_provider(HUBSPOT);
    expected.retain(|_, row| row.updated_idx != 3);
    setup.table_is(HUBSPOT, &expected).await;
    setup.act(HUBSPOT, "pause").await;
    setup.state_is(HUBSPOT, "paused").await;
    setup.node.api.post(&format!("{CONSUMER}/rewind"), &json!({"to": 0})).await.expect(200);
    setup.consumer_is(HUBSPOT, "at the start", |consumer| consumer["checkpoint"] == 0).await;
    assert_eq!(setup.database.table(HUBSPOT).await, expected, "it is paused");
    setup.publish(&mut model, &[no_contact(sync(3), 3 + 7 * 100)]).await;
    setup.act(HUBSPOT, "resume").await;
    setup.hubspot_is(&model).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn a_record_in_quarantine_is_tried_again_when_what_it_waits_for_is_changed() {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    setup.node.api.publish(lines(&[contact(sync(1), 1, json!("a\0b"))])).await.expect(200);
    setup.consumer_is(HUBSPOT, "without one record", |consumer| consumer["quarantined"] == 1).await;
    // Another table refuses it as well.
    setup.database.make_table("other").await;
    setup.change(CONSUMER, &json!({"table": "other"})).await;
    setup.change(CONSUMER, &json!({"table": HUBSPOT, "unsupported_text": "replace"})).await;
    let is_through = |consumer: &Value| consumer["quarantined"] == 0 && consumer["checkpoint"] == 1;
    setup.consumer_is(HUBSPOT, "through", is_through).await;
    assert_eq!(setup.database.ask::<String>("select payload #>> '{}' from sequin.hubspot").await, "a\u{fffd}b");

    // What another filter has set aside goes with it.
    setup.change(CONSUMER, &json!({"unsupported_text": "quarantine"})).await;
    setup.node.api.publish(lines(&[contact(sync(1), 3, json!("c\0d"))])).await.expect(200);
    setup.consumer_is(HUBSPOT, "without one record", |consumer| consumer["quarantined"] == 1).await;
    setup.change(CONSUMER, &json!({"filter": {"sync": sync(2)}})).await;
    setup.consumer_is(HUBSPOT, "with all that it should have", |consumer| consumer["quarantined"] == 0).await;
    setup.change(CONSUMER, &json!({"filter": {"provider": HUBSPOT}})).await;
    // The first is refused as well, now that it is read again.
    setup.consumer_is(HUBSPOT, "without two records", |consumer| consumer["quarantined"] == 2).await;
}

#[tokio::test]
async fn a_rewind_is_refused_that_would_pass_records_over_or_has_nothing_to_begin_with() {
    let mut model = Model::default();
    let setup = Setup::with_contacts(&mut model).await;
    let api = &setup.node.api;
    setup.reached(HUBSPOT, 500).await;
    let rewind = format!("{CONSUMER}/rewind");
    for (body, field) in [
        (json!({"to": 100_000}), "to"),
        (json!({"to": -1}), "to"),
        (json!({"to": "0"}), "to"),
        (json!({}), "to"),
        (json!({"to": 0, "from": 1}), "from"),
    ] {
        assert_eq!(api.post(&rewind, &body).await.expect_problem(422), [field], "{body}");
    }
    send(api.request(Method::POST, &rewind).body("{")).await.expect_problem(400);
    api.post("/v1/consumers/nobody/rewind", &json!({"to": 0})).await.expect_problem(404);
    setup.draft("drafted", &json!({"provider": HUBSPOT})).await;
    api.post("/v1/consumers/drafted/rewind", &json!({"to": 0})).await.expect_problem(409);
}

#[tokio::test]
async fn a_change_is_refused_with_everything_that_is_wrong_with_it_and_changes_nothing() {
    let setup = Setup::new().await;
    let api = &setup.node.api;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.draft("second", &json!({"provider": HUBSPOT})).await;
    let (target, consumer) = (api.target("app").await, api.consumer(HUBSPOT).await);
    for (change, fields) in [
        (json!({"name": null}), vec!["name"]),
        (json!({"connection": null}), vec!["connection"]),
        (
            json!({"connection": {"host": null, "port": 0}, "pool_size": 0}),
            vec!["connection.host", "connection.port", "pool_size"],
        ),
        (json!({"connection": {"hostname": "db"}}), vec!["connection.hostname"]),
        (json!({"connection": {"password": 7}}), vec!["connection.password"]),
        (json!({"connection": {"tls": {"mode": "perhaps"}}}), vec!["connection.tls.mode"]),
        (
            json!({"connection": {"tls": {"mode": "verify-ca", "ca_pem": "no certificate"}}}),
            vec!["connection.tls.ca_pem"],
        ),
        (json!({"id": 1}), vec!["id"]),
        (json!([]), vec!["body"]),
    ] {
        assert_eq!(api.patch(TARGET, &change).await.expect_problem(422), fields, "{change}");
    }
    for (change, fields) in [
        (json!({"target": "nobody", "table": ""}), vec!["target", "table"]),
        (json!({"target": null, "filter": null}), vec!["target", "filter"]),
        (json!({"filter": {}}), vec!["filter"]),
        (
            json!({"filter": {"provider": "Hub Spot"}, "lag_threshold_seconds": 0}),
            vec!["filter.provider", "lag_threshold_seconds"],
        ),
        (json!({"unsupported_text": "drop"}), vec!["unsupported_text"]),
        (json!({"state": "paused"}), vec!["state"]),
        (json!({"name": "not a name"}), vec!["name"]),
    ] {
        assert_eq!(api.patch(CONSUMER, &change).await.expect_problem(422), fields, "{change}");
    }
    assert_eq!(api.patch(CONSUMER, &json!({"name": "second"})).await.expect_problem(409), ["name"]);
    for path in ["/v1/targets/nobody", "/v1/consumers/nobody"] {
        api.patch(path, &json!({})).await.expect_problem(404);
    }
    for path in [TARGET, CONSUMER] {
        send(api.request(Method::PATCH, path).body("{")).await.expect_problem(400);
        let stale = api.request(Method::PATCH, path).header("if-match", "\"0\"").json(&json!({"metadata": {}}));
        send(stale).await.expect_problem(412);
    }
    assert_eq!(api.target("app").await["updated_at"], target["updated_at"]);
    assert_eq!(api.consumer(HUBSPOT).await, consumer);
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name_and_null_is_what_was_never_given() {
    let setup = Setup::new().await;
    let api = &setup.node.api;
    let made = api.patch(TARGET, &json!({"name": "main", "pool_size": 7, "metadata": {"team": "data"}})).await;
    let etag = made.etag.clone().expect("an etag");
    let made = made.expect(200);
    assert_eq!((&made["name"], &made["pool_size"]), (&json!("main"), &json!(7)));
    assert_eq!(made["connection"]["password_set"], true);
    api.get(TARGET).await.expect_problem(404);
    let same = api.patch("/v1/targets/main", &json!({"name": "main", "connection": {}})).await;
    assert_eq!(same.etag.as_ref(), Some(&etag));
    assert_eq!(same.expect(200)["updated_at"], made["updated_at"]);
    let reset =
        json!({"pool_size": null, "metadata": null, "connection": {"password": null, "tls": null, "port": null}});
    let reset = api.request(Method::PATCH, "/v1/targets/main").header("if-match", &etag).json(&reset);
    let reset = send(reset).await.expect(200);
    assert_eq!((&reset["pool_size"], &reset["metadata"]), (&json!(4), &json!({})));
    let connection = &reset["connection"];
    assert_eq!((&connection["password_set"], &connection["port"]), (&json!(false), &json!(5432)));
    assert_eq!((&connection["database"], &connection["tls"]["mode"]), (&json!(setup.database.name), &json!("prefer")));
    // The name that it had is free again.
    let other = json!({"name": "app", "connection": {"host": "db", "database": "app", "username": "sequin"}});
    api.post("/v1/targets", &other).await.expect(201);

    let draft =
        json!({"name": "one", "target": "main", "filter": {"provider": HUBSPOT}, "schema": "sequin", "table": "one"});
    let made = api.post("/v1/consumers", &draft).await.expect(201);
    let change = json!({"name": "two", "target": "main", "lag_threshold_seconds": 60, "unsupported_text": "replace"});
    let changed = api.patch("/v1/consumers/one", &change).await.expect(200);
    for (field, value) in [
        ("id", &made["id"]),
        ("name", &json!("two")),
        ("table", &json!("one")),
        ("lag_threshold_seconds", &json!(60)),
        ("unsupported_text", &json!("replace")),
        ("state", &json!("draft")),
    ] {
        assert_eq!(&changed[field], value, "{field} of {changed}");
    }
}

#[tokio::test]
async fn what_is_changed_while_records_come_and_the_node_is_killed_holds_and_nothing_is_lost_or_brought_back() {
    let mut model = Model::default();
    let mut setup = Setup::with_contacts(&mut model).await;
    setup.database.make_table("other").await;
    let changes = [
        json!({"table": "other"}),
        json!({"filter": {"sync": sync(1)}}),
        json!({"filter": {"provider": HUBSPOT}, "table": HUBSPOT}),
    ];
    for (round, change) in (0..6u128).zip(changes.iter().cycle()) {
        setup.publish(&mut model, &contacts(round * 100..round * 100 + 700, &round.to_string())).await;
        setup.change(CONSUMER, change).await;
        let gone: Vec<_> = (round * 100..round * 100 + 50).map(|id| no_contact(sync(id % 7), id)).collect();
        setup.publish(&mut model, &gone).await;
        setup.node.api.post(&format!("{CONSUMER}/rewind"), &json!({"to": 0})).await.expect(200);
        if round % 2 == 0 {
            setup.node.sigkill();
            setup.node.start_again().await;
        }
    }
    let consumer = setup.consumer(HUBSPOT).await;
    assert_eq!((&consumer["table"], &consumer["filter"]), (&json!(HUBSPOT), &json!({"provider": HUBSPOT})));
    setup.hubspot_is(&model).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.node.api.is_well(HUBSPOT).await;
}
