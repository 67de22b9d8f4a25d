//! What an API sends arrives as it is, whatever it is (`faults_of_record` has what PostgreSQL can't hold).

use serde_json::{Value, json};

use crate::support::{
    model::{HUBSPOT, contact, lines, sync},
    setup::Setup,
};

/// A record as a line of JSON, its payload and the JSON texts of its names as they stand.
fn line(collection_id: &Value, upstream_id: &Value, payload: &str) -> String {
    format!(
        r#"{{"provider":"hubspot","sync_id":"{}","sync_external_id":{upstream_id},"sync_metadata":{{"of":{upstream_id}}},
           "collection_id":{collection_id},"upstream_id":{upstream_id},"payload":{payload}}}"#,
        sync(1)
    )
    .replace('\n', "")
}

/// Enough further records that each writer's batch is a large one.
fn crowd() -> String {
    let many: Vec<_> = (0..3000).map(|number| contact(sync(2), number, json!(number))).collect();
    lines(&many)
}

/// Publishes a record of each payload, and looks whether they arrive as they are: in small batches, as they happen, and
/// in the large ones of a backfill, which go another way.
async fn arrive(payloads: &[String]) {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    for (number, payload) in payloads.iter().enumerate() {
        setup.node.api.publish(line(&json!("c"), &json!(number.to_string()), payload)).await.expect(200);
    }
    setup.reached(HUBSPOT, i64::try_from(payloads.len()).expect("few")).await;
    let last = setup.node.api.publish(crowd()).await.expect(200)["last_updated_idx"].as_i64().expect("a position");
    setup.start("hubspot_backfilled", &json!({"provider": HUBSPOT})).await;
    setup.reached("hubspot_backfilled", last).await;
    for table in ["hubspot", "hubspot_backfilled"] {
        for (number, payload) in payloads.iter().enumerate() {
            let sql = format!(
                "select payload::text = ($1::text::jsonb)::text from sequin.{table} where upstream_id = $2 and sync_id = $3"
            );
            let found = setup.database.owner.query(&sql, &[payload, &number.to_string(), &sync(1)]).await;
            let found: Vec<bool> = found.expect("an answer").iter().map(|row| row.get(0)).collect();
            let start: String = payload.chars().take(100).collect();
            assert_eq!(found, [true], "in {table}: payload {number}, {start}");
        }
    }
}

#[tokio::test]
async fn json_of_every_kind_arrives_as_it_is() {
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(100), close.repeat(100));
    let long_number = "1234567890".repeat(100);
    let payloads = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-1.5",
        "1.10",
        "1e5",
        "1E+2",
        "1e-7",
        "1e400",
        "-1.5e-400",
        "123456789012345678901234567890",
        "0.123456789012345678901234567890",
        "9007199254740993",
        &long_number,
        r#""""#,
        r#""text""#,
        r#""2023-03-01T12:00:00Z""#,
        r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u007f""#,
        "[]",
        "[[],{},null]",
        "[1, 2.0 ,\"three\",[4]]",
        "{}",
        r#"{"":{"":""}}"#,
        r#"{"b":1,"a":2}"#,
        r#"{"a":1,"a":2}"#,
        r#" { "spaced" : [ 1 , 2 ] } "#,
        &nested("[", "]"),
        &nested("{\"a\":", "}"),
    ];
    arrive(&payloads.map(String::from)).await;
}

#[tokio::test]
async fn payloads_of_a_mebibyte_and_more_arrive_as_they_are() {
    let text = |length: usize| json!({"text": "é\"\\".repeat(length / 4)}).to_string();
    let mut payloads: Vec<String> = (0..12).map(|number| text(1024 * 1024 + number)).collect();
    payloads.push(json!((0..100_000).collect::<Vec<_>>()).to_string());
    payloads.push(format!("\"{}\"", "x".repeat(4 * 1024 * 1024 - 2)));
    arrive(&payloads).await;
}

#[tokio::test]
async fn every_character_of_unicode_arrives_in_a_payload() {
    let of_plane = |plane: u32| -> String {
        let codes = (plane << 16)..((plane + 1) << 16);
        codes.filter_map(char::from_u32).filter(|c| *c != '\0').collect()
    };
    let planes: Vec<String> = (0..17).map(|plane| json!({"plane": of_plane(plane)}).to_string()).collect();
    arrive(&planes).await;
}

#[tokio::test]
async fn names_of_any_text_arrive_as_they_are() {
    let setup = Setup::new().await;
    let planes: String = (0..17).filter_map(|plane| char::from_u32((plane << 16) + 0xfffd)).collect();
    let controls: String = (1..32).chain(0x7f..0xa0).filter_map(char::from_u32).collect();
    let names = [
        "'; drop table sequin.hubspot; --",
        "\"quoted\" and 'quoted'",
        "back\\slash\\",
        "\\N",
        "\\.",
        "NULL",
        "null",
        "{}",
        "{\"a\",\"b\"}",
        "(1,2)",
        "$1 $$ $body$",
        "%s %n",
        " spaces\tand\r\nlines ",
        "e\u{301} \u{202e}rtl\u{200d}",
        "👩‍👩‍👧‍👦",
        "\u{feff}mark",
        &planes,
        &controls,
        &"x".repeat(1024),
        &"🦀".repeat(256),
    ];
    let records: Vec<_> = names.iter().map(|name| line(&json!(name), &json!(name), "0")).collect();
    setup.start_hubspot().await;
    let last = setup.node.api.publish(records.join("\n")).await.expect(200)["last_updated_idx"].as_i64();
    setup.reached(HUBSPOT, last.expect("a position")).await;
    setup.node.api.publish(crowd()).await.expect(200);
    setup.start("hubspot_backfilled", &json!({"provider": HUBSPOT})).await;
    setup.state_is("hubspot_backfilled", "live").await;
    let mut expected: Vec<String> = names.iter().map(ToString::to_string).collect();
    expected.sort();
    for table in ["hubspot", "hubspot_backfilled"] {
        let sql = format!(
            "select upstream_id from sequin.{table} where sync_id = '{}' and collection_id = upstream_id
             and sync_external_id = upstream_id and sync_metadata = jsonb_build_object('of', upstream_id)",
            sync(1)
        );
        let mut found: Vec<String> =
            setup.database.owner.query(&sql, &[]).await.expect("rows").iter().map(|row| row.get(0)).collect();
        found.sort();
        assert_eq!(found, expected, "in {table}");
    }
}

#[tokio::test]
async fn a_schema_and_a_table_may_have_any_name() {
    let setup = Setup::new().await;
    let user = &setup.database.user;
    setup.database.run(&format!("grant pg_read_all_data, pg_write_all_data to {user}")).await;
    setup.node.api.publish(crowd()).await.expect(200);
    for (number, name) in
        ["select", "It's \"theirs\"", "a.b;c--d", "таблица 🦀", "\\N $1 %s", &"é".repeat(31)].iter().enumerate()
    {
        let (consumer, schema) = (format!("c{number}"), format!("{name}x"));
        let request = json!({
            "name": consumer, "target": "app", "filter": {"provider": HUBSPOT}, "schema": schema, "table": name,
        });
        setup.node.api.post("/v1/consumers", &request).await.expect(201);
        let answer = setup.node.api.get(&format!("/v1/consumers/{consumer}/create-table-sql")).await.expect(200);
        setup.database.run(answer["sql"].as_str().expect("SQL")).await;
        setup.act(&consumer, "start").await;
        setup.reached(&consumer, 3000).await;
        let count =
            format!(r#"select count(*) from "{}"."{}""#, schema.replace('"', "\"\""), name.replace('"', "\"\""));
        assert_eq!(setup.database.ask::<i64>(&count).await, 3000, "{name}");
    }
}
