//! What becomes of each kind of value, and of bodies that are damaged.

use serde_json::{Value, json};

use super::*;

const LIMIT: usize = 1024 * 1024;

/// The records of a body as JSON texts; a wrong one by its field.
fn read(body: &[u8]) -> Result<Vec<Result<String, String>>, Broken> {
    let mut records = Records::of(body, LIMIT)?;
    let mut read = Vec::new();
    while let Some(record) = records.next()? {
        let text = |json: &[u8]| String::from_utf8(json.into()).expect("JSON is UTF-8");
        read.push(record.map(text).map_err(|problem| problem.field));
    }
    Ok(read)
}

fn packed(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("MessagePack")
}

/// A map with one field.
fn field(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x81][..], &packed(&json!(name)), value].concat()
}

/// What the only record of a body becomes.
fn only(body: &[u8]) -> Result<String, String> {
    read(body).expect("MessagePack").remove(0)
}

#[test]
fn what_json_has_comes_out_as_it_is() {
    let record = json!({"payload": {"a": [1, -1, 300, -300, 70_000, -70_000, u64::MAX, i64::MIN, 1.5, true, false, null],
                                    "é\n\"": {"": "x".repeat(300)}}, "op": "upsert"});
    let text = only(&packed(&record)).expect("a record");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), record);
    assert_eq!(only(&field("payload", &[0xca, 0x3f, 0x8c, 0xcc, 0xcd])), Ok(r#"{"payload":1.1}"#.into()));
}

#[test]
fn records_come_as_an_array_or_as_a_sequence() {
    let (one, two) = (json!({"upstream_id": "1"}), json!({"upstream_id": "2"}));
    let texts = vec![Ok(one.to_string()), Ok(two.to_string())];
    assert_eq!(read(&packed(&json!([one, two]))), Ok(texts.clone()));
    assert_eq!(read(&[packed(&one), packed(&two)].concat()), Ok(texts));
    assert_eq!(read(&packed(&json!([]))), Ok(vec![]));
    assert_eq!(read(b""), Ok(vec![]));
    // What is no map is told by its JSON.
    assert_eq!(read(&packed(&json!([7, "x"]))), Ok(vec![Ok("7".into()), Ok("\"x\"".into())]));
}

#[test]
fn uuids_may_be_binary_and_so_may_what_lies_within_a_payload() {
    let bytes: Vec<u8> = [&[0xc4, 16][..], &[7; 16]].concat();
    let uuid = r#"{"sync_id":"07070707-0707-0707-0707-070707070707"}"#;
    assert_eq!(only(&field("sync_id", &bytes)), Ok(uuid.into()));
    assert_eq!(only(&field("payload", &[0xc4, 2, 1, 2])), Ok(r#"{"payload":"AQI="}"#.into()));
    assert_eq!(only(&field("sequin_id", &[0xc4, 2, 1, 2])), Err("sequin_id".into()));
    assert_eq!(only(&field("upstream_id", &bytes)), Err("upstream_id".into()));
}

#[test]
fn each_form_of_the_timestamp_is_a_time() {
    let time = |text: &str| Ok(format!(r#"{{"upstream_created_at":"{text}"}}"#));
    let read = |bytes: &[u8]| only(&field("upstream_created_at", bytes));
    assert_eq!(read(&[0xd6, 0xff, 0, 0, 0, 1]), time("1970-01-01T00:00:01Z"));
    let both = ((500_000_000_u64 << 34) + 1_700_000_000).to_be_bytes();
    assert_eq!(read(&[&[0xd7, 0xff], &both[..]].concat()), time("2023-11-14T22:13:20.500Z"));
    let (nanoseconds, seconds) = (1_000_u32.to_be_bytes(), (-1_i64).to_be_bytes());
    let long = [&[0xc7, 12, 0xff], &nanoseconds[..], &seconds[..]].concat();
    assert_eq!(read(&long), time("1969-12-31T23:59:59.000001Z"));
    let no_time = [&[0xc7, 12, 0xff], &nanoseconds[..], &i64::MAX.to_be_bytes()[..]].concat();
    for wrong in [&no_time[..], &[0xd6, 1, 0, 0, 0, 1], &[0xd4, 0xff, 0]] {
        assert_eq!(read(wrong), Err("upstream_created_at".into()));
    }
}

#[test]
fn what_json_cannot_say_is_wrong_and_the_next_record_is_read() {
    let deep = [vec![0x91; 100_000], vec![0xc0]].concat();
    for wrong in [
        &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0][..],
        &[0xca, 0x7f, 0x80, 0, 0],
        &[0xa1, 0xff],
        &[0x81, 0x01, 0xc0],
        &[0x81, 0x91, 0x81, 0xc0, 0xc0, 0xc0],
        &deep,
    ] {
        let body = [field("payload", wrong), field("payload", &[0xc0])].concat();
        assert_eq!(read(&body), Ok(vec![Err("payload".into()), Ok(r#"{"payload":null}"#.into())]), "{wrong:x?}");
    }
}

#[test]
fn a_body_that_is_cut_anywhere_is_broken() {
    let record = json!([{"payload": {"a": [1, 300, 1.5, "x".repeat(40)]}, "op": "upsert"}]);
    let whole = packed(&record);
    for end in 1..whole.len() {
        assert_eq!(read(&whole[..end]), Err(Broken::Truncated), "cut at {end}");
    }
    assert_eq!(read(&[whole.clone(), whole].concat()), Err(Broken::BehindTheArray));
    assert_eq!(read(&[0xc1]), Err(Broken::NoValue));
    // A length that nothing is behind takes no memory.
    assert_eq!(read(&[0xdd, 0xff, 0xff, 0xff, 0xff]), Err(Broken::Truncated));
    assert_eq!(read(&[0xdb, 0xff, 0xff, 0xff, 0xff]), Err(Broken::Truncated));
}

#[test]
fn a_body_that_outgrows_its_limit_is_broken_off_and_none_grows_more_than_is_reckoned_with() {
    let long = packed(&json!({"payload": "\u{1}".repeat(LIMIT / 6)}));
    assert_eq!(read(&long), Err(Broken::TooLong));
    for value in ["\u{1}".into(), json!(false), json!(null), json!(-32), json!(f32::MIN_POSITIVE), json!({"": false})] {
        let many = packed(&json!({"payload": vec![value; 10_000]}));
        let text = only(&many).expect("a record");
        assert!(text.len() <= many.len() * GROWTH, "{} of {}", text.len(), many.len());
    }
}
