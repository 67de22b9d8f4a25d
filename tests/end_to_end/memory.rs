//! Memory is bounded, whatever waits behind a slow target.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    api::Api,
    eventually_within, holds,
    model::{HUBSPOT, sync},
    setup::Setup,
};

/// How many records wait, unless `SEQUIN_TEST_WAITING` says otherwise.
const RECORDS: usize = 1_000_000;

/// How many of them one request publishes, and how many requests are under way at once.
const RECORDS_A_REQUEST: usize = 5000;
const PUBLISHERS: usize = 2;

/// About what a contact of a CRM takes: 800 bytes.
const PAYLOAD_BYTES: usize = 800;

/// The most memory that a node may ever take, in KiB.
const MOST_KIB: u64 = 256 * 1024;

/// How long a million records may take to arrive, on a slow machine in a debug build.
const PATIENCE: Duration = Duration::from_secs(240);

/// Records of 2,000 syncs as lines.
fn records(numbers: std::ops::Range<usize>, payload: &str) -> String {
    let mut lines = String::with_capacity(numbers.len() * (payload.len() + 200));
    for number in numbers {
        let sync = sync((number % 2000) as u128);
        let written = writeln!(
            lines,
            r#"{{"provider":"hubspot","sync_id":"{sync}","collection_id":"contact","upstream_id":"{number}","payload":{payload}}}"#
        );
        written.expect("a string takes everything");
    }
    lines
}

async fn publish(api: &Api, total: usize) {
    let text: String =
        (0..PAYLOAD_BYTES - 20).map(|n| char::from(b'a' + u8::try_from(n % 26).expect("a letter"))).collect();
    let payload = json!({"text": text}).to_string();
    let mut requests = JoinSet::new();
    for first in (0..total).step_by(RECORDS_A_REQUEST) {
        if requests.len() == PUBLISHERS {
            requests.join_next().await.expect("one is under way").expect("published");
        }
        let (api, payload) = (api.clone(), payload.clone());
        requests.spawn(async move {
            let body = records(first..total.min(first + RECORDS_A_REQUEST), &payload);
            api.publish(body).await.expect(200);
        });
    }
    requests.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_records_that_wait_behind_a_slow_target_take_no_more_than_256_mib() {
    let total = std::env::var("SEQUIN_TEST_WAITING").ok().and_then(|total| total.parse().ok()).unwrap_or(RECORDS);
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    setup.state_is(HUBSPOT, "live").await;
    // As slow as can be: somebody has the table to himself until all the records wait.
    let mut holder = setup.database.connect().await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("lock table sequin.hubspot in exclusive mode").await.expect("the lock");
    let began = Instant::now();
    publish(&setup.node.api, total).await;
    let all_wait = |consumer: &Value| consumer["lag"]["records"] == total;
    setup.consumer_is(HUBSPOT, "far behind", all_wait).await;
    println!("published after {:?}; the peak is {} MiB", began.elapsed(), setup.node.peak_kib() / 1024);
    assert!(setup.node.peak_kib() < MOST_KIB, "{} KiB while the records wait", setup.node.peak_kib());

    lock.commit().await.expect("the table is free");
    eventually_within(PATIENCE, "all records to arrive", async || {
        let consumer = setup.consumer(HUBSPOT).await;
        holds(consumer["checkpoint"] == total, || format!("it is {consumer}"))
    })
    .await;
    println!("arrived after {:?}; the peak is {} MiB", began.elapsed(), setup.node.peak_kib() / 1024);
    assert_eq!(setup.database.count(HUBSPOT).await, i64::try_from(total).expect("a count"));
    assert!(setup.node.peak_kib() < MOST_KIB, "{} KiB from start to end", setup.node.peak_kib());
}
