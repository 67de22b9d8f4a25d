//! Targets that are down, or that say nothing any more, take neither time nor memory from the others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    api::Api,
    database::{Database, SCHEMA},
    eventually, eventually_within, holds,
    model::{HUBSPOT, Model, Version, contact, lines, sync},
    node::Node,
    proxy::{Ending, Mode, Proxy},
};

/// The provider whose records go to the targets that are well; those of HubSpot go to the others.
const STRIPE: &str = "stripe";

const WELL: usize = 6;
const DOWN: usize = 3;
const CONSUMERS_A_TARGET: usize = 5;

/// How many records one round brings to each consumer that is well.
const ROUND: u128 = 400;

/// How many records wait for each of the others: together more than a node may have in flight.
const WAITING: u128 = 12_000;

/// What happens is given three times the time that it took in peace: the machine is busy with other tests, too.
const NOISE: f64 = 3.0;

/// The most memory that a node may take, in KiB, when all of the 64 MiB are in flight that may be: they are there in
/// the stream's pages, in the driver's buffers, and in what the allocator keeps for the next.
const MOST_KIB: u64 = 384 * 1024;

/// A target with its consumers, behind a proxy.
struct Place {
    database: Database,
    proxy: Proxy,
    consumers: Vec<String>,
}

async fn place(api: &Api, number: usize, provider: &str) -> Place {
    let database = Database::create().await;
    let proxy = Proxy::before(database.server.port());
    let target = json!({"name": format!("target{number}"), "connection": database.connection_by(proxy.port())});
    api.post("/v1/targets", &target).await.expect(201);
    let mut consumers = Vec::new();
    for consumer in 0..CONSUMERS_A_TARGET {
        let name = format!("consumer{number}_{consumer}");
        let body = json!({
            "name": name, "target": target["name"], "filter": {"provider": provider}, "schema": SCHEMA, "table": name,
        });
        api.post("/v1/consumers", &body).await.expect(201);
        database.make_table(&name).await;
        api.act(&format!("/v1/consumers/{name}/start")).await.expect(200);
        consumers.push(name);
    }
    Place { database, proxy, consumers }
}

fn versions(provider: &'static str, numbers: std::ops::Range<u128>) -> Vec<Version> {
    let payload = json!({"text": "x".repeat(1000)});
    let of_provider = |number| Version {
        provider,
        ..contact(sync(number % 7 + 10 * provider.len() as u128), number, payload.clone())
    };
    numbers.map(of_provider).collect()
}

async fn publish(api: &Api, model: &mut Model, versions: &[Version]) {
    for some in versions.chunks(4000) {
        api.publish(lines(some)).await.expect(200);
        model.publish(some);
    }
}

/// Every consumer.
async fn consumers(api: &Api) -> Vec<Value> {
    let list = api.get("/v1/consumers?limit=1000").await.expect(200);
    list["data"].as_array().expect("a list").clone()
}

/// Waits until these consumers have brought everything up to `idx`.
async fn reach(api: &Api, names: &[&str], idx: i64) {
    eventually_within(Duration::from_secs(120), "the consumers to bring everything", async || {
        let consumers = consumers(api).await;
        let is_behind = |consumer: &&Value| {
            names.iter().any(|name| consumer["name"] == *name) && consumer["checkpoint"].as_i64() < Some(idx)
        };
        let behind: Vec<_> = consumers.iter().filter(is_behind).map(|consumer| &consumer["name"]).collect();
        holds(behind.is_empty(), || format!("{behind:?} have not"))
    })
    .await;
}

/// How long the consumers that are well take for many records, and for a single one to be seen.
struct Pace {
    many: Duration,
    one: Duration,
}

/// The best of some rounds.
async fn pace(api: &Api, model: &mut Model, well: &[Place], next: &mut u128) -> Pace {
    let names: Vec<&str> = well.iter().flat_map(|place| &place.consumers).map(String::as_str).collect();
    let mut pace = Pace { many: Duration::MAX, one: Duration::MAX };
    for _ in 0..3 {
        let began = Instant::now();
        publish(api, model, &versions(STRIPE, *next..*next + ROUND)).await;
        *next += ROUND;
        reach(api, &names, model.last_idx(STRIPE)).await;
        pace.many = pace.many.min(began.elapsed());
        for place in well {
            let began = Instant::now();
            publish(api, model, &versions(STRIPE, *next..*next + 1)).await;
            *next += 1;
            let idx = model.last_idx(STRIPE);
            let table = first(place);
            let is_there = format!("select exists (select from {SCHEMA}.{table} where updated_idx = {idx})");
            eventually("a record to be seen", async || {
                holds(place.database.ask(&is_there).await, || "it is not".into())
            })
            .await;
            pace.one = pace.one.min(began.elapsed());
        }
    }
    pace
}

fn first(place: &Place) -> &str {
    &place.consumers[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_are_down_or_silent_delay_no_other_and_take_no_more_memory() {
    let node = Node::start().await;
    let api = &node.api;
    let mut model = Model::default();
    let mut next = 0;
    let mut well = Vec::new();
    let mut ill = Vec::new();
    for number in 0..WELL {
        well.push(place(api, number, STRIPE).await);
    }
    for number in WELL..=WELL + DOWN {
        ill.push(place(api, number, HUBSPOT).await);
    }
    publish(api, &mut model, &versions(HUBSPOT, 0..10)).await;
    let ill_consumers: Vec<&str> = ill.iter().flat_map(|place| &place.consumers).map(String::as_str).collect();
    reach(api, &ill_consumers, model.last_idx(HUBSPOT)).await;
    let in_peace = pace(api, &mut model, &well, &mut next).await;

    let (silent, down) = ill.split_first().expect("there are some");
    silent.proxy.set(Mode::BlackHole);
    for place in down {
        place.proxy.set(Mode::Refuse);
        place.proxy.cut(Ending::Reset);
    }
    publish(api, &mut model, &versions(HUBSPOT, 0..WAITING)).await;
    let in_trouble = pace(api, &mut model, &well, &mut next).await;
    eventually("those whose target is ill to wait", async || {
        let consumers = consumers(api).await;
        let waiting = consumers.iter().filter(|consumer| consumer["state"] == "waiting").count();
        holds(waiting == ill_consumers.len(), || format!("{waiting} do"))
    })
    .await;
    let still_in_trouble = pace(api, &mut model, &well, &mut next).await;
    for Pace { many, one } in [in_trouble, still_in_trouble] {
        println!("many: {many:?}, in peace {:?}; one: {one:?}, in peace {:?}", in_peace.many, in_peace.one);
        assert!(many < in_peace.many.mul_f64(NOISE), "{many:?}, and {:?} in peace", in_peace.many);
        assert!(one < in_peace.one.mul_f64(NOISE), "{one:?}, and {:?} in peace", in_peace.one);
    }
    let peak = node.peak_kib();
    println!("the peak is {} MiB", peak / 1024);
    assert!(peak < MOST_KIB, "{peak} KiB");

    // One of each is enough to see that they go on.
    for place in &ill {
        for consumer in &place.consumers[1..] {
            api.act(&format!("/v1/consumers/{consumer}/pause")).await.expect(200);
        }
        place.proxy.set(Mode::Pass);
    }
    let first_of_each: Vec<&str> = ill.iter().map(first).collect();
    reach(api, &first_of_each, model.last_idx(HUBSPOT)).await;
    for place in &ill {
        assert_eq!(place.database.table(first(place)).await, model.of_provider(HUBSPOT));
    }
}
