//! A record's fault: the table can't take it, and takes all others. It is set aside and counted, the consumer says so and
//! goes on, and once it can be taken it is in the table, and there only.

use std::ops::Range;

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    model::{HUBSPOT, Model, Table, Version, contact, no_contact, sync},
    setup::Setup,
    status::{reason, reason_with_cause},
};

/// The sync of the records that are refused.
fn odd_sync() -> Uuid {
    sync(99)
}

fn odd(upstream_id: &str, payload: Value) -> Version {
    contact(odd_sync(), upstream_id, payload)
}

fn contacts(numbers: Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!({"state": state}))).collect()
}

/// All of the model but these records.
fn without(model: &Model, refused: &[&str]) -> Table {
    let mut table = model.of_provider(HUBSPOT);
    table.retain(|(of, _, upstream_id), _| *of != odd_sync() || !refused.contains(&upstream_id.as_str()));
    table
}

/// Publishes JSON as it stands, which the model could not hold; the model knows of `versions` of the same records.
async fn publish_as_it_stands(setup: &Setup, model: &mut Model, versions: &[(Version, String)]) {
    let line = |(version, payload): &(Version, String)| {
        let mut record = version.to_json();
        record["payload"] = json!("PAYLOAD");
        record.to_string().replace("\"PAYLOAD\"", payload) + "\n"
    };
    setup.node.api.publish(versions.iter().map(line).collect::<String>()).await.expect(200);
    model.publish(&versions.iter().map(|(version, _)| version.clone()).collect::<Vec<_>>());
}

impl Setup {
    /// Waits until a consumer holds so many records in quarantine, and has brought everything else.
    async fn has_in_quarantine(&self, name: &str, many: usize, model: &Model) -> Value {
        let last = model.last_idx(HUBSPOT);
        let has = |consumer: &Value| consumer["quarantined"] == many && consumer["checkpoint"] == last;
        self.consumer_is(name, &format!("at the end, with {many} in quarantine"), has).await
    }

    /// What is in a consumer's quarantine.
    async fn quarantine(&self, name: &str) -> Vec<Value> {
        let list = self.node.api.get(&format!("/v1/consumers/{name}/quarantine?limit=1000")).await.expect(200);
        list["data"].as_array().expect("a list").clone()
    }

    /// Waits until a consumer has everything, and nothing is in quarantine.
    async fn has_everything(&self, name: &str, model: &Model) {
        self.table_is(name, &model.of_provider(HUBSPOT)).await;
        self.has_in_quarantine(name, 0, model).await;
        self.node.api.is_well(name).await;
        assert_eq!(self.quarantine(name).await, Vec::<Value>::new(), "of {name}");
    }
}

/// What a customer adds to a table, and what its table then can't take.
struct Picky {
    /// `TABLE` stands for the table.
    adds: &'static str,
    removes: &'static str,
    refuses: &'static [&'static str],
    sqlstate: &'static str,
    /// Whether it is tried again by itself, since other records could make it good.
    may_heal: bool,
}

/// A trigger that looks at each row before it is written.
const ON_EACH_ROW: &str = "create trigger each before insert or update on TABLE for each row execute function";

const PICKY: &[Picky] = &[
    Picky {
        adds: "alter table TABLE add constraint of_age check ((payload->>'age')::integer >= 18)",
        removes: "alter table TABLE drop constraint of_age",
        refuses: &["too young"],
        sqlstate: "23514",
        may_heal: true,
    },
    Picky {
        adds: "create function no_mauve() returns trigger language plpgsql as $$ begin
                 if new.payload->>'color' = 'mauve' then raise 'no mauve here'; end if; return new; end $$;
               ON_EACH_ROW no_mauve()",
        removes: "drop trigger each on TABLE",
        refuses: &["mauve"],
        sqlstate: "P0001",
        may_heal: true,
    },
    Picky {
        adds: "create function parse_time() returns trigger language plpgsql as $$ declare at timestamptz; begin
                 at := new.payload->>'at'; return new; end $$;
               ON_EACH_ROW parse_time()",
        removes: "drop trigger each on TABLE",
        refuses: &["too late"],
        sqlstate: "22008",
        may_heal: false,
    },
    Picky {
        adds: "create index number on TABLE (((payload->>'number')::integer))",
        removes: "drop index number",
        refuses: &["too large"],
        sqlstate: "22003",
        may_heal: false,
    },
    Picky {
        adds: "create index number_too on TABLE (((payload->>'no_number')::integer))",
        removes: "drop index number_too",
        refuses: &["no number"],
        sqlstate: "22P02",
        may_heal: false,
    },
    Picky {
        adds: "create index wide on TABLE ((payload->>'wide'))",
        removes: "drop index wide",
        refuses: &["too wide"],
        sqlstate: "54000",
        may_heal: false,
    },
];

/// A record for each of these tables to refuse, and others of its kind that are taken.
fn what_they_refuse() -> Vec<Version> {
    // An index entry is compressed first; digits that repeat nowhere stay long.
    let wide: String =
        (0..2000u128).map(|number| Uuid::new_v5(&odd_sync(), &number.to_be_bytes()).to_string()).collect();
    vec![
        odd("too young", json!({"age": 17})),
        odd("old enough", json!({"age": 18})),
        odd("mauve", json!({"color": "mauve"})),
        odd("green", json!({"color": "green"})),
        odd("too late", json!({"at": "300000-01-01T00:00:00Z"})),
        odd("in time", json!({"at": "2023-03-01T00:00:00Z"})),
        odd("too large", json!({"number": 2_147_483_648_u32})),
        odd("large enough", json!({"number": 2_147_483_647})),
        odd("no number", json!({"no_number": "many"})),
        odd("a number", json!({"no_number": "1"})),
        odd("too wide", json!({"wide": wide})),
    ]
}

#[tokio::test]
async fn a_record_that_the_table_refuses_is_set_aside_until_the_table_takes_it_and_all_others_arrive() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let run = async |number: usize, sql: &str| {
        let session = setup.database.connect().await;
        session.batch_execute("set search_path = sequin").await.expect("the setting");
        let sql = sql.replace("ON_EACH_ROW", ON_EACH_ROW).replace("TABLE", &format!("picky{number}"));
        session.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    for (number, picky) in PICKY.iter().enumerate() {
        setup.start(&format!("picky{number}"), &json!({"provider": HUBSPOT})).await;
        run(number, picky.adds).await;
    }
    let mut versions = contacts(0..1000, "with them");
    versions.splice(500..500, what_they_refuse());
    setup.publish(&mut model, &versions).await;
    setup.hubspot_is_undisturbed(&model).await;
    let each = |(number, picky): (usize, &'static Picky)| {
        let (setup, model, name) = (&setup, &model, format!("picky{number}"));
        async move {
            let consumer = setup.has_in_quarantine(&name, picky.refuses.len(), model).await;
            setup.table_is(&name, &without(model, picky.refuses)).await;
            assert!(matches!(consumer["state"].as_str(), Some("backfilling" | "live")), "{consumer}");
            assert_eq!(reason_with_cause(&consumer, "records_quarantined")["severity"], "error", "{consumer}");
            for entry in setup.quarantine(&name).await {
                assert_eq!(
                    (&entry["sqlstate"], &entry["sync_id"]),
                    (&json!(picky.sqlstate), &json!(odd_sync())),
                    "{entry}"
                );
                assert!(picky.refuses.contains(&entry["upstream_id"].as_str().expect("an id")), "{entry}");
                assert!(
                    ["message", "fix"].iter().all(|text| entry[text].as_str().is_some_and(|text| !text.is_empty()))
                );
                assert_eq!(entry["retry_at"].is_string(), picky.may_heal, "{entry}");
            }
        }
    };
    join_all(PICKY.iter().enumerate().map(each)).await;
    // Those around go on.
    setup.publish(&mut model, &contacts(900..1100, "after them")).await;
    for (number, picky) in PICKY.iter().enumerate() {
        let name = format!("picky{number}");
        setup.table_is(&name, &without(&model, picky.refuses)).await;
        run(number, picky.removes).await;
        if !picky.may_heal {
            setup.node.api.act(&format!("/v1/consumers/{name}/quarantine/retry")).await.expect(200);
        }
    }
    join_all((0..PICKY.len()).map(async |number| setup.has_everything(&format!("picky{number}"), &model).await)).await;
}

/// Payloads that no table can hold.
fn beyond_postgres() -> [(&'static str, String); 5] {
    [
        ("zero", r#"{"text":"a\u0000b"}"#.into()),
        ("zero in a key", r#"{"a\u0000b":1}"#.into()),
        ("half a pair", r#"["\ud83d"]"#.into()),
        ("beyond numeric", "1e200000".into()),
        ("too deep", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
    ]
}

#[tokio::test]
async fn a_record_that_postgresql_can_t_hold_is_set_aside_until_a_newer_version_or_a_delete_takes_its_place() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let replacing = json!({
        "name": "replacing", "target": "app", "filter": {"provider": HUBSPOT}, "schema": "sequin", "table": "replacing",
        "unsupported_text": "replace",
    });
    setup.node.api.post("/v1/consumers", &replacing).await.expect(201);
    setup.database.make_table("replacing").await;
    setup.act("replacing", "start").await;
    setup.publish(&mut model, &contacts(0..500, "before")).await;
    let all = beyond_postgres().map(|(name, _)| name);
    let versions = beyond_postgres().map(|(name, payload)| (odd(name, Value::Null), payload));
    publish_as_it_stands(&setup, &mut model, &versions).await;
    setup.publish(&mut model, &contacts(400..900, "after")).await;

    let consumer = setup.has_in_quarantine(HUBSPOT, all.len(), &model).await;
    assert_eq!(consumer["state"], "live", "{consumer}");
    reason_with_cause(&consumer, "records_quarantined");
    setup.table_is(HUBSPOT, &without(&model, &all)).await;
    // Where text is replaced, only what is no text is left over.
    setup.has_in_quarantine("replacing", 2, &model).await;
    let replaced = [
        ("zero", json!({"text": "a\u{fffd}b"})),
        ("zero in a key", json!({"a\u{fffd}b": 1})),
        ("half a pair", json!(["\u{fffd}"])),
    ];
    let mut expected = without(&model, &["beyond numeric", "too deep"]);
    for (upstream_id, payload) in replaced {
        expected.get_mut(&(odd_sync(), "contact".into(), upstream_id.into())).expect("the row").payload = payload;
    }
    setup.table_is("replacing", &expected).await;
    assert_eq!(setup.consumer("replacing").await["replaced_text"], 3);

    // A refused version is not the record's last for ever.
    let newer =
        [odd("zero", json!("good")), no_contact(odd_sync(), "zero in a key"), odd("half a pair", json!("good"))];
    setup.publish(&mut model, &newer).await;
    setup.has_in_quarantine(HUBSPOT, 2, &model).await;
    setup.table_is(HUBSPOT, &without(&model, &["beyond numeric", "too deep"])).await;
    setup.publish(&mut model, &[no_contact(odd_sync(), "beyond numeric"), odd("too deep", json!([]))]).await;
    setup.has_everything(HUBSPOT, &model).await;
    setup.has_everything("replacing", &model).await;
    // Of what is not there, there is nothing to delete.
    setup.publish(&mut model, &[no_contact(odd_sync(), "beyond numeric"), no_contact(odd_sync(), "never was")]).await;
    setup.has_everything(HUBSPOT, &model).await;
}

#[tokio::test]
async fn a_row_that_is_there_stays_when_a_newer_version_is_refused_and_goes_when_the_record_is_deleted() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &[odd("one", json!("good"))]).await;
    setup.hubspot_is(&model).await;
    let before = model.of_provider(HUBSPOT);
    publish_as_it_stands(&setup, &mut model, &[(odd("one", Value::Null), r#""\u0000""#.into())]).await;
    setup.has_in_quarantine(HUBSPOT, 1, &model).await;
    assert_eq!(setup.database.table(HUBSPOT).await, before);
    publish_as_it_stands(&setup, &mut model, &[(odd("one", Value::Null), r#""\u0000\u0000""#.into())]).await;
    let consumer = setup.has_in_quarantine(HUBSPOT, 1, &model).await;
    let entries = setup.quarantine(HUBSPOT).await;
    assert_eq!(entries[0]["updated_idx"], model.last_idx(HUBSPOT), "{entries:?}, {consumer}");
    setup.publish(&mut model, &[no_contact(odd_sync(), "one")]).await;
    setup.has_everything(HUBSPOT, &model).await;
}

/// A table in which no two records have the same `email`, and two that have some.
async fn with_unique_emails(model: &mut Model) -> Setup {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    setup.database.run("create unique index email on sequin.hubspot ((payload->>'email'))").await;
    setup.publish(model, &[with_email("a", "1"), with_email("b", "2")]).await;
    setup.hubspot_is(model).await;
    setup
}

fn with_email(upstream_id: &str, email: &str) -> Version {
    odd(upstream_id, json!({"email": email}))
}

#[tokio::test]
async fn a_unique_value_that_one_record_hands_on_to_another_arrives_whoever_comes_first() {
    let mut model = Model::default();
    let setup = with_unique_emails(&mut model).await;
    setup.publish(&mut model, &[with_email("b", "1")]).await;
    setup.has_in_quarantine(HUBSPOT, 1, &model).await;
    setup.publish(&mut model, &[with_email("a", "3")]).await;
    setup.has_everything(HUBSPOT, &model).await;
    setup.publish(&mut model, &[with_email("b", "4"), with_email("a", "1")]).await;
    setup.has_everything(HUBSPOT, &model).await;
}

#[tokio::test]
async fn records_that_swap_unique_values_wait_in_quarantine_until_the_index_goes() {
    let mut model = Model::default();
    let setup = with_unique_emails(&mut model).await;
    setup.publish(&mut model, &[with_email("a", "2"), with_email("b", "1")]).await;
    setup.has_in_quarantine(HUBSPOT, 2, &model).await;
    setup.database.run("drop index sequin.email").await;
    setup.has_everything(HUBSPOT, &model).await;
}

#[tokio::test]
async fn a_record_whose_parent_comes_later_or_goes_earlier_waits_for_that() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run("alter table sequin.hubspot add unique (upstream_id)").await;
    let of_parent = "alter table sequin.hubspot add column parent text generated always as (payload->>'parent') stored
                     references sequin.hubspot (upstream_id)";
    setup.database.run(of_parent).await;
    let child = |parent| odd("child", json!({"parent": parent}));
    setup.publish(&mut model, &[child("parent"), odd("another", json!({}))]).await;
    setup.has_in_quarantine(HUBSPOT, 1, &model).await;
    setup.table_is(HUBSPOT, &without(&model, &["child"])).await;
    setup.publish(&mut model, &[odd("parent", json!({}))]).await;
    setup.has_everything(HUBSPOT, &model).await;
    // A delete, too, may have to wait.
    setup.publish(&mut model, &[no_contact(odd_sync(), "parent")]).await;
    setup.has_in_quarantine(HUBSPOT, 1, &model).await;
    setup.publish(&mut model, &[child("another")]).await;
    setup.has_everything(HUBSPOT, &model).await;
}

/// Forbids what is published by [`bad`].
const NO_BAD_ONES: &str =
    "alter table sequin.hubspot add constraint good check (payload->>'state' is distinct from 'bad')";

/// Does so too, in a way that is not tried again by itself.
const NO_WORDS_FOR_NUMBERS: &str = "create index good on sequin.hubspot (((payload->>'number')::integer))";

fn bad(numbers: Range<u128>) -> Vec<Version> {
    numbers.map(|number| odd(&number.to_string(), json!({"state": "bad", "number": "none"}))).collect()
}

async fn has_halted(setup: &Setup) -> Value {
    let consumer = setup.state_is(HUBSPOT, "halted").await;
    reason(&consumer, "quarantine_full");
    consumer
}

#[tokio::test]
async fn a_consumer_whose_table_refuses_too_much_halts_and_brings_all_of_it_once_it_no_longer_does() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run(NO_BAD_ONES).await;
    // One in twenty, of ten thousand.
    setup.publish(&mut model, &bad(0..400)).await;
    setup.publish(&mut model, &contacts(0..300, "good")).await;
    setup.has_in_quarantine(HUBSPOT, 400, &model).await;
    setup.publish(&mut model, &bad(400..600)).await;
    let consumer = has_halted(&setup).await;
    assert!(consumer["quarantined"].as_u64() <= Some(500), "{consumer}");
    setup.publish(&mut model, &contacts(200..400, "good")).await;
    setup.database.run("alter table sequin.hubspot drop constraint good").await;
    setup.act(HUBSPOT, "resume").await;
    setup.has_everything(HUBSPOT, &model).await;
}

#[tokio::test]
async fn a_quarantine_that_is_full_halts_the_consumer_however_many_others_are_good() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run(NO_WORDS_FOR_NUMBERS).await;
    for round in 0..2u128 {
        setup.publish(&mut model, &bad(480 * round..480 * (round + 1))).await;
        setup.publish(&mut model, &contacts(0..10_000, &round.to_string())).await;
        let in_quarantine = usize::try_from(480 * (round + 1)).expect("a small number");
        setup.has_in_quarantine(HUBSPOT, in_quarantine, &model).await;
    }
    setup.publish(&mut model, &bad(960..1010)).await;
    let consumer = has_halted(&setup).await;
    assert_eq!(consumer["quarantined"], 1000, "{consumer}");
    setup.database.run("drop index sequin.good").await;
    setup.act(HUBSPOT, "resume").await;
    setup.has_everything(HUBSPOT, &model).await;
}

/// A trigger that makes each statement take longer, also one that fails.
const SLOW: &str = "
    create function sequin.be_slow() returns trigger language plpgsql as
      $$ begin perform pg_catalog.pg_sleep(0.3); return null; end $$;
    create trigger slow before insert on sequin.hubspot for each statement execute function sequin.be_slow()";

#[tokio::test]
async fn a_record_that_is_refused_early_in_a_long_batch_is_still_in_quarantine_after_a_crash() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run(NO_BAD_ONES).await;
    setup.database.run(SLOW).await;
    setup.publish(&mut model, &bad(0..30)).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.node.sigkill();
    setup.node.start_again().await;
    setup.has_in_quarantine(HUBSPOT, 30, &model).await;
    setup.database.run("alter table sequin.hubspot drop constraint good; drop trigger slow on sequin.hubspot").await;
    setup.act(HUBSPOT, "resume").await;
    setup.has_everything(HUBSPOT, &model).await;
}
