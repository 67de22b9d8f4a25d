//! Tests of the generated CRM.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::*;

fn parse(line: &str) -> Value {
    serde_json::from_str(line).expect("a line of JSON")
}

fn key(record: &Value) -> String {
    ["sync_id", "collection_id", "upstream_id"].map(|field| record[field].as_str().expect("text")).join("/")
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().and_then(|text| text.parse().ok()).expect("an RFC 3339 time")
}

/// The fields of a record as the contract has them, and the properties that views rely on.
fn check(record: &Value) {
    let fields: HashSet<_> = record.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(record["provider"], PROVIDER);
    uuid::Uuid::try_parse(record["sync_id"].as_str().expect("text")).expect("a uuid");
    let mut expected = HashSet::from(["op", "provider", "sync_id", "collection_id", "upstream_id"]);
    if record["op"] == "delete" {
        assert_eq!(fields, expected);
        return;
    }
    expected.extend(["sync_external_id", "sync_metadata", "payload", "upstream_created_at", "upstream_updated_at"]);
    assert_eq!(fields, expected);
    assert_eq!(record["op"], "upsert");
    assert!(record["sync_external_id"].is_string() && record["sync_metadata"]["plan"].is_string());
    let payload = &record["payload"];
    assert_eq!(payload["hs_object_id"], record["upstream_id"]);
    assert_eq!(time(&payload["createdate"]), time(&record["upstream_created_at"]));
    assert_eq!(time(&payload["lastmodifieddate"]), time(&record["upstream_updated_at"]));
    assert!(time(&record["upstream_created_at"]) <= time(&record["upstream_updated_at"]));
    assert!(payload["hubspot_owner_id"].is_string());
    let of_its_kind: &[&str] = match record["collection_id"].as_str().expect("text") {
        "contact" => &["email", "firstname", "lastname", "lifecyclestage"],
        "company" => &["name", "domain", "industry", "lifecyclestage"],
        "deal" => &["dealname", "amount", "pipeline", "dealstage", "closedate"],
        other => panic!("no collection of HubSpot: {other}"),
    };
    assert!(of_its_kind.iter().all(|property| payload[property].is_string()), "{payload}");
}

/// How far the record has come; closed deals, won or lost, are at the end.
fn stage(record: &Value) -> usize {
    let payload = &record["payload"];
    let (stages, stage) = match &payload["lifecyclestage"] {
        Value::Null => (words::OPEN_DEAL_STAGES, &payload["dealstage"]),
        stage => (words::LIFECYCLE_STAGES, stage),
    };
    stages.iter().position(|name| stage == name).unwrap_or(stages.len())
}

#[test]
fn a_seed_determines_every_line_and_another_seed_gives_others() {
    let lines = |seed| {
        let mut crm = Crm::new(seed, 20);
        let mut lines: Vec<_> = crm.backfill(200).collect();
        lines.extend((0..200).map(|_| crm.next_change().line));
        lines
    };
    assert_eq!(lines(1), lines(1));
    assert!(lines(1).iter().zip(lines(2)).all(|(one, other)| *one != other));
}

#[test]
fn a_backfill_has_every_sync_and_each_record_once_in_natural_proportions() {
    let (mut keys, mut syncs, mut upstream_ids) = (HashSet::new(), HashSet::new(), HashSet::new());
    let (mut collections, mut bytes) = (HashMap::<String, u32>::new(), 0);
    for line in Crm::new(7, 2_000).backfill(20_000) {
        let record = parse(&line);
        check(&record);
        bytes += line.len();
        assert!(keys.insert(key(&record)), "twice: {line}");
        upstream_ids.insert(record["upstream_id"].to_string());
        syncs.insert((record["sync_id"].to_string(), record["sync_external_id"].to_string()));
        *collections.entry(record["collection_id"].as_str().expect("text").to_owned()).or_default() += 1;
    }
    assert_eq!((syncs.len(), upstream_ids.len()), (2_000, 20_000));
    assert!((750..850).contains(&(bytes / 20_000)), "{} bytes a line", bytes / 20_000);
    let count = |collection| collections[collection];
    assert!(count("contact") > count("company") && count("company") > count("deal") && count("deal") > 2_000);
}

#[test]
fn live_traffic_changes_only_what_exists_and_moves_it_on() {
    let mut crm = Crm::new(3, 50);
    let mut model: HashMap<_, _> = crm.backfill(1_000).map(|line| (key(&parse(&line)), parse(&line))).collect();
    let (mut kinds, mut deleted, mut restored) = (HashMap::<_, u32>::new(), HashSet::new(), 0);
    for _ in 0..20_000 {
        let change = crm.next_change();
        let record = parse(&change.line);
        check(&record);
        *kinds.entry(change.kind).or_default() += 1;
        let key = key(&record);
        let before = match change.kind {
            ChangeKind::Delete => {
                assert_eq!(record["op"], "delete");
                deleted.insert(key.clone());
                model.remove(&key).expect("a record to delete");
                continue;
            }
            ChangeKind::Create | ChangeKind::Update => model.insert(key.clone(), record.clone()),
        };
        assert_eq!(before.is_some(), change.kind == ChangeKind::Update, "{}", change.line);
        restored += u32::from(before.is_none() && deleted.remove(&key));
        if let Some(before) = before {
            assert!(time(&before["upstream_updated_at"]) < time(&record["upstream_updated_at"]));
            assert!(stage(&before) <= stage(&record), "{before} became {record}");
            assert_eq!(before["upstream_created_at"], record["upstream_created_at"]);
        }
    }
    assert_eq!(crm.live_records(), model.len());
    assert!((4_700..5_300).contains(&kinds[&ChangeKind::Create]), "{kinds:?}");
    assert!((1_800..2_200).contains(&kinds[&ChangeKind::Delete]), "{kinds:?}");
    assert!(restored > 100, "{restored} were restored");
}

#[test]
fn an_empty_crm_begins_with_a_create() {
    assert_eq!(Crm::new(1, 0).next_change().kind, ChangeKind::Create);
}
