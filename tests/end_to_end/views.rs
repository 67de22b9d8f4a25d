//! Views: written from a sample of a table's rows, run as they are written, and never failing, whatever comes later.
//! And the table itself, which Sequin makes where it may.

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use crate::support::{
    cli,
    database::Database,
    model::{HUBSPOT, Model, Version, contact, sync},
    node::Node,
    setup::Setup,
};

const VIEWS: &str = "/v1/consumers/hubspot/views-sql";

fn of_collection(collection: &str, upstream_id: &str, payload: Value) -> Version {
    Version { collection: collection.into(), ..contact(sync(1), upstream_id, payload) }
}

/// A node whose table `hubspot` holds these, and nothing else.
async fn with_rows(versions: &[Version]) -> (Setup, Model) {
    let (setup, mut model) = (Setup::new().await, Model::default());
    setup.start_hubspot().await;
    publish(&setup, &mut model, versions).await;
    (setup, model)
}

async fn publish(setup: &Setup, model: &mut Model, versions: &[Version]) {
    setup.publish(model, versions).await;
    setup.hubspot_is(model).await;
}

/// The views that a node writes, after they were run.
async fn make_views(setup: &Setup, query: &str) -> Vec<String> {
    let answer = setup.node.api.get(&format!("{VIEWS}{query}")).await.expect(200);
    setup.database.run(answer["sql"].as_str().expect("SQL")).await;
    let views = answer["views"].as_array().expect("views").iter();
    views.map(|view| view["view"].as_str().expect("a name").to_owned()).collect()
}

/// The columns of a view that come from payloads, with their types.
async fn payload_columns(setup: &Setup, view: &str) -> Vec<(String, String)> {
    let sql = "select attname::text, format_type(atttypid, null) from pg_attribute
               where attrelid = to_regclass($1) and attnum > 8 order by attnum";
    let rows = setup.database.owner.query(sql, &[&view]).await.expect("the columns");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// All rows of a view, by upstream id, as JSON.
async fn rows(setup: &Setup, view: &str) -> Value {
    let sql = format!("select coalesce(jsonb_object_agg(upstream_id, to_jsonb(v)), '{{}}')::text from {view} v");
    serde_json::from_str(&setup.database.ask::<String>(&sql).await).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_has_a_column_a_key_typed_by_what_the_rows_show() {
    let ada = json!({
        "email": "ada@example.com", "age": 36, "score": 1.5, "vip": true, "createdate": "2023-03-01T12:00:00.5Z",
        "tags": ["a"], "owner": {"id": 7}, "either": 1, "none": null, "day": "2023-03-01",
    });
    let bob = json!({"email": "bob@example.com", "age": 1_000_000_000_000_i64, "score": 2, "either": "x"});
    let deal = of_collection("deal", "9", json!({"amount": 12.5}));
    let (setup, _) = with_rows(&[contact(sync(1), 1, ada), contact(sync(1), 2, bob), deal]).await;
    assert_eq!(make_views(&setup, "").await, ["public.hubspot_contact", "public.hubspot_deal"]);

    let columns = payload_columns(&setup, "public.hubspot_contact").await;
    let expected = [
        ("age", "bigint"),
        ("createdate", "timestamp with time zone"),
        ("day", "text"),
        ("either", "text"),
        ("email", "text"),
        ("none", "text"),
        ("owner", "jsonb"),
        ("score", "numeric"),
        ("tags", "jsonb"),
        ("vip", "boolean"),
    ];
    let expected = expected.map(|(name, sql_type)| (name.to_owned(), sql_type.to_owned()));
    assert_eq!(columns, expected);
    let amount = ("amount".to_owned(), "numeric".to_owned());
    assert_eq!(payload_columns(&setup, "public.hubspot_deal").await, [amount]);

    let contacts = rows(&setup, "public.hubspot_contact").await;
    let (ada, bob) = (&contacts["1"], &contacts["2"]);
    assert_eq!((&ada["age"], &ada["score"], &ada["vip"]), (&json!(36), &json!(1.5), &json!(true)));
    assert_eq!((&ada["owner"], &ada["tags"], &ada["either"]), (&json!({"id": 7}), &json!(["a"]), &json!("1")));
    assert_eq!((&bob["age"], &bob["vip"], &bob["either"]), (&json!(1_000_000_000_000_i64), &json!(null), &json!("x")));
    assert_eq!((&bob["sync_id"], contacts.as_object().map(serde_json::Map::len)), (&json!(sync(1)), Some(2)));
    let created = "createdate = '2023-03-01 12:00:00.5+00' from hubspot_contact where upstream_id = '1'";
    assert!(setup.database.ask::<bool>(&format!("select {created}")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_does_not_fail_for_what_was_not_in_the_sample() {
    let first = json!({
        "number": 1, "fraction": 0.5, "flag": true, "at": "2023-03-01T12:00:00Z", "text": "x", "nested": {"a": 1},
    });
    let (setup, mut model) = with_rows(&[contact(sync(1), "first", first)]).await;
    make_views(&setup, "?collection=contact").await;
    let view = "public.hubspot_contact";

    let everything = [
        json!("text"),
        json!(""),
        json!(null),
        json!(true),
        json!(1.5),
        json!(-3),
        json!(1e300),
        json!(1e20),
        json!([1]),
        json!({"a": {}}),
        json!("now"),
        json!("2023-02-30T00:00:00Z"),
        json!("2024-02-29T23:59:59+0530"),
        json!("infinity"),
        json!("NaN"),
        json!("١٢٣"),
    ];
    let keys = ["number", "fraction", "flag", "at", "text", "nested"];
    let strange = everything.iter().enumerate().map(|(number, value)| {
        let payload: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), value.clone())).collect();
        contact(sync(1), number, Value::Object(payload))
    });
    let no_objects = [json!([1, 2]), json!("text"), json!(7), json!(null)];
    let no_objects =
        no_objects.iter().enumerate().map(|(n, payload)| contact(sync(1), format!("no {n}"), payload.clone()));
    let later: Vec<Version> = strange.chain(no_objects).collect();
    publish(&setup, &mut model, &later).await;

    let rows = rows(&setup, view).await;
    assert_eq!(rows.as_object().map(serde_json::Map::len), Some(1 + later.len()));
    assert_eq!((&rows["3"]["flag"], &rows["0"]["flag"]), (&json!(true), &json!(null)));
    assert_eq!((&rows["5"]["number"], &rows["6"]["number"]), (&json!(-3), &json!(null)));
    assert_eq!((&rows["4"]["fraction"], &rows["0"]["fraction"]), (&json!(1.5), &json!(null)));
    assert_eq!(
        (&rows["11"]["at"], &rows["10"]["at"], &rows["12"]["at"].is_string()),
        (&json!(null), &json!(null), &true)
    );
    assert_eq!((&rows["9"]["nested"], &rows["9"]["text"]), (&json!({"a": {}}), &json!("{\"a\": {}}")));

    // Another look knows all of that, and what has no keys is shown whole.
    setup.database.run(&format!("drop view {view}")).await;
    make_views(&setup, "?collection=contact").await;
    let columns = payload_columns(&setup, view).await;
    assert_eq!(columns[0], ("payload".to_owned(), "jsonb".to_owned()), "{columns:?}");
}

/// A day of each month of a year that is no leap year and of one that is, and of centuries; and times.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_view_takes_for_a_timestamp_is_one_to_postgres() {
    let years = [0, 999, 1000, 1700, 1900, 2000, 2022, 2023, 2024, 2100, 2400, 9999];
    let days =
        years.iter().flat_map(|year| (0..=13).flat_map(move |month| (0..=32).map(move |day| (year, month, day))));
    let days = days.map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}T12:00:00Z"));
    let times = ["00:00:00Z", "23:59:59.999999999Z", "24:00:00Z", "12:60:00Z", "12:00:60Z", "12:00Z", "12:00:00"];
    let offsets = ["+14:00", "-1459", "+15:00", "+16:00", "+1", "z", " UTC"];
    let times = times.iter().map(|time| format!("2023-03-01T{time}"));
    let offsets = offsets.iter().map(|offset| format!("2023-03-01T12:00:00{offset}"));
    let texts: Vec<String> = days.chain(times).chain(offsets).collect();
    // A column that is a timestamp in the sample, and everything in the same place afterwards.
    let (setup, _) = with_rows(&[contact(sync(1), "first", json!({"at": "2023-03-01T12:00:00Z"}))]).await;
    make_views(&setup, "").await;
    let sql = "insert into sequin.hubspot
      select gen_random_uuid(), sync_id, null, '{}', collection_id, text, jsonb_build_object('at', text), 1, now(), now(), now(), now()
      from sequin.hubspot, unnest($1::text[]) text";
    setup.database.owner.execute(sql, &[&texts]).await.expect("the rows");

    let found = rows(&setup, "public.hubspot_contact").await;
    for text in &texts {
        let shown = found[text]["at"].is_string();
        let (date, time) = text.split_once('T').expect("a time");
        let date: Vec<u32> = date.split('-').map(|part| part.parse().expect("a number")).collect();
        let is_date = date[0] >= 1000
            && chrono::NaiveDate::from_ymd_opt(i32::try_from(date[0]).expect("a year"), date[1], date[2]).is_some();
        let is_time = ["12:00:00Z", "00:00:00Z", "23:59:59.999999999Z", "12:00:00+14:00", "12:00:00-1459"];
        assert_eq!(shown, is_date && is_time.contains(&time), "{text}: {}", found[text]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_long_quoted_or_taken_make_columns_and_views_all_the_same() {
    let (long, other) = ("k".repeat(80), "k".repeat(79) + "!");
    let payload = json!({
        "": 1, "it's \"quoted\"": 2, "back\\slash\n": 3, "Custom__c": 4, "custom__c": 5, "select": 6, "sequin_id": 7,
        "updated_at": 8, "payload_updated_at": 9, long.as_str(): 10, other.as_str(): 11, "'; drop table x; --": 12,
    });
    let collection = "Strange \"things\"; --\n'".to_owned() + &"x".repeat(60);
    let (setup, _) = with_rows(&[of_collection(&collection, "1", payload.clone())]).await;
    let views = make_views(&setup, "").await;
    let columns = payload_columns(&setup, &views[0]).await;
    assert_eq!(columns.len(), 12, "{columns:?}");
    for kept in ["it's \"quoted\"", "Custom__c", "custom__c", "select", "payload_sequin_id", "payload_updated_at"] {
        assert!(columns.iter().any(|(name, _)| name == kept), "{kept} is not in {columns:?}");
    }
    let row = rows(&setup, &views[0]).await;
    let shown: i64 = columns.iter().map(|(name, _)| row["1"][name].as_i64().expect("a number")).sum();
    assert_eq!(shown, (1..=12).sum::<i64>(), "{row}");
    // The same rows make the same views.
    setup.database.run(&format!("drop view {}", views[0])).await;
    assert_eq!(make_views(&setup, "").await, views);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rare_collection_of_a_large_table_is_found() {
    let (setup, _) = with_rows(&[contact(sync(1), 1, json!({"key": "value"}))]).await;
    // Twice as much as is looked at, of pages that hold a row each; what is rare lies in one of them.
    setup.database.run("alter table sequin.hubspot set (fillfactor = 10)").await;
    let fill = "insert into sequin.hubspot
      select gen_random_uuid(), sync_id, null, '{}', case when n % 1000 = 0 then 'rare' || n else 'contact' end,
             n::text, jsonb_build_object('wide', repeat('x', 900)), 1, now(), now(), now(), now()
      from sequin.hubspot, generate_series(1, 8500) n";
    setup.database.run(fill).await;
    let size: i64 = setup.database.ask("select pg_relation_size('sequin.hubspot')").await;
    assert!(size > 64 * 1024 * 1024, "{size}");
    for n in (1000..=8000).step_by(1000) {
        let views = make_views(&setup, &format!("?collection=rare{n}")).await;
        assert_eq!(views, [format!("public.hubspot_rare{n}")]);
    }
    let answer = setup.node.api.get(&format!("{VIEWS}?collection=contact&sample=10&schema=sequin")).await.expect(200);
    let view = &answer["views"][0];
    assert_eq!((&view["sampled"], &view["view"]), (&json!(10), &json!("sequin.hubspot_contact")));
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_cannot_be_written_are_refused_with_the_reason() {
    let (setup, _) = with_rows(&[contact(sync(1), 1, json!({"a": 1}))]).await;
    let get = async |query: &str| setup.node.api.get(&format!("{VIEWS}?{query}")).await;
    assert_eq!(get("sample=0&schema=").await.expect_problem(422), ["schema", "sample"]);
    assert_eq!(get("sample=10001").await.expect_problem(422), ["sample"]);
    assert_eq!(get("sample=many").await.expect_problem(422), ["sample"]);
    assert_eq!(get("colour=red").await.expect_problem(422), ["colour"]);
    assert_eq!(get("collection=%00").await.expect_problem(422), ["collection"]);
    assert_eq!(get("collection=nothing").await.expect_problem(422), ["collection"]);
    setup.node.api.get("/v1/consumers/nobody/views-sql").await.expect_problem(404);
    setup.database.run("truncate sequin.hubspot").await;
    get("").await.expect_problem(409);
    setup.database.run("drop table sequin.hubspot").await;
    let answer = get("").await;
    assert_eq!(answer.body["errors"][0]["code"], "table_missing", "{}", answer.body);
    assert_eq!(answer.expect_problem(422), ["table"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_views_that_can_be_piped_into_psql() {
    let (setup, _) = with_rows(&[contact(sync(1), 1, json!({"email": "a@example.com"}))]).await;
    let sql =
        cli::run(&setup.node.api, "consumer views hubspot --collection contact --schema sequin").await.expect_done();
    setup.database.run(&sql).await;
    let email: String = setup.database.ask("select email from sequin.hubspot_contact").await;
    assert_eq!(email, "a@example.com");
    let json = cli::run(&setup.node.api, "consumer views hubspot --output json").await.expect_json();
    assert_eq!(json["views"][0]["collection"], "contact");
    let ran = cli::run(&setup.node.api, "consumer views hubspot --collection deal").await;
    assert!(ran.status == Some(1) && ran.stderr.contains("no row of deal"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sequin_makes_the_table_itself_where_it_may_and_its_owner_may_read_it() {
    let setup = Setup::new().await;
    // Somebody who is no superuser, and owns the database and the schema.
    let owner = setup.database.user.replace("user_", "owner_");
    let name = &setup.database.name;
    let hand_over =
        format!("create role {owner}; alter database {name} owner to {owner}; alter schema sequin owner to {owner}");
    setup.database.run(&hand_over).await;
    for (consumer, schema) in [("old_schema", "sequin"), ("new_schema", "New Schema")] {
        let draft = json!({
            "name": consumer, "target": "app", "filter": {"provider": HUBSPOT}, "schema": schema, "table": consumer,
        });
        setup.node.api.post("/v1/consumers", &draft).await.expect(201);
        let create = format!("/v1/consumers/{consumer}/create-table");
        let made = setup.node.api.act(&create).await.expect(200);
        assert_eq!(made["created"], true, "{made}");
        assert_eq!(made["sql"].as_str().expect("SQL").contains("create schema"), schema != "sequin", "{made}");
        let verified = setup.node.api.act(&format!("/v1/consumers/{consumer}/verify")).await.expect(200);
        assert_eq!(verified, json!({"ok": true, "findings": []}));
        setup.database.run(&format!("set role {owner}; select * from \"{schema}\".{consumer}; reset role")).await;
        let again = setup.node.api.act(&create).await.expect(200);
        assert_eq!(again, json!({"created": false, "sql": null}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_sequin_may_not_make_is_refused_with_the_sql_for_somebody_who_may() {
    let setup = Setup::new().await;
    let Database { name, user, .. } = &setup.database;
    setup.draft("t", &json!({"provider": HUBSPOT})).await;
    setup
        .database
        .run(&format!("revoke create on schema sequin from {user}; revoke create on database {name} from {user}"))
        .await;
    let refused = setup.node.api.act("/v1/consumers/t/create-table").await;
    let error = refused.body["errors"][0].clone();
    assert_eq!(refused.expect_problem(422), ["table"]);
    assert!(error["message"].as_str().expect("text").contains(SqlState::INSUFFICIENT_PRIVILEGE.code()), "{error}");
    assert!(error["fix_sql"].as_str().expect("SQL").contains("create table sequin.t ("), "{error}");
    setup.node.api.act("/v1/consumers/nobody/create-table").await.expect_problem(404);

    let ran = cli::run(&setup.node.api, "consumer create-table t").await;
    assert!(ran.status == Some(1) && ran.stderr.contains("permission denied"), "{ran:?}");
    setup.database.run(&format!("grant create on schema sequin to {user}")).await;
    let sql = cli::run(&setup.node.api, "consumer create-table t").await.expect_done();
    assert!(sql.contains("create table sequin.t ("), "{sql}");
    let ran = cli::run(&setup.node.api, "consumer create-table t").await;
    assert!(ran.status == Some(0) && ran.stderr.contains("there already"), "{ran:?}");
}

#[tokio::test]
async fn a_table_of_a_database_that_is_not_there_is_neither_made_nor_looked_at() {
    let node = Node::start().await;
    let nowhere = json!({"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"});
    node.api.post("/v1/targets", &json!({"name": "app", "connection": nowhere})).await.expect(201);
    let draft = json!({"name": HUBSPOT, "target": "app", "filter": {"provider": HUBSPOT}, "schema": "s", "table": "t"});
    node.api.post("/v1/consumers", &draft).await.expect(201);
    assert_eq!(node.api.act("/v1/consumers/hubspot/create-table").await.expect_problem(422), ["table"]);
    assert_eq!(node.api.get(VIEWS).await.expect_problem(422), ["table"]);
}
