//! `sequin publish`: a file or standard input, several requests at once, and the order of a record's versions.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Value, json};

use crate::support::{
    cli::{Running, failed, run, run_with},
    eventually, holds,
    model::{HUBSPOT, Version, contact, lines, sync},
    node::Node,
    proxy::{Ending, Mode, Proxy},
    setup::Setup,
};

/// The payloads of a table, by upstream id.
async fn payloads(setup: &Setup, table: &str) -> BTreeMap<String, Value> {
    let table = setup.database.table(table).await;
    table.into_iter().map(|((_, _, upstream_id), row)| (upstream_id, row.payload)).collect()
}

fn port(node: &Node) -> u16 {
    node.api.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[tokio::test]
async fn versions_of_a_record_stay_in_order_with_many_requests_at_once() {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    // Records that come again soon, late, and in the very next request.
    let versions: Vec<Version> =
        (0..6000_u32).map(|n| contact(sync(1), n % 1517, json!({"n": n, "text": "x".repeat(300)}))).collect();
    let mut last = BTreeMap::new();
    for version in &versions {
        last.insert((version.sync, version.upstream_id.clone()), version.payload.clone().expect("a payload"));
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines(&versions)).expect("written");
    let path = file.path().display();
    for compress in ["none", "gzip", "zstd"] {
        let arguments = format!("publish {path} --parallel 8 --compress {compress} --output json");
        let published = run(&setup.node.api, &arguments).await.expect_json();
        assert_eq!(published["accepted"], 6000);
        setup.reached(HUBSPOT, published["last_updated_idx"].as_i64().expect("a position")).await;
        let table = setup.database.table(HUBSPOT).await;
        let found: BTreeMap<_, _> = table.into_iter().map(|((sync, _, id), row)| ((sync, id), row.payload)).collect();
        assert!(found == last, "a record is not at its last version");
    }
}

#[tokio::test]
async fn a_wrong_line_is_named_and_what_is_published_is_told() {
    let node = Node::start().await;
    let good = |n: usize| contact(sync(1), n, json!({})).to_json().to_string() + "\n";
    let mut text: String = (1..=2500).map(good).collect();
    text += "this is no record\n";
    text.extend((2502..=9000).map(good));
    let ran = run_with(&node.api, "publish --parallel 4", &text).await;
    failed(&ran, &["line 2501", "lines 1 to 2000 are published, nothing of what follows"]);
    let syncs = node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
    assert_eq!(syncs["records"], 2000);

    // One that only the server knows to be wrong.
    let ran = run_with(&node.api, "publish", &(good(1) + &good(2).replace("hubspot", "stripe"))).await;
    failed(&ran, &["line 2", "nothing is published"]);
    let ran = run_with(&node.api, "publish", "\n\n").await.expect_done();
    assert!(ran.contains("0 records"), "{ran}");
    failed(&run(&node.api, "publish /nowhere/to/be/found").await, &["/nowhere/to/be/found"]);
}

#[tokio::test]
async fn requests_that_are_cut_are_sent_again_and_each_record_ends_at_its_last_version() {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    let proxy = Proxy::before(port(&setup.node));
    let mut text = String::new();
    for n in 0..10_000_u32 {
        let payload = json!({"n": n, "text": "x".repeat(200)});
        writeln!(text, "{}", contact(sync(1), n % 2500, payload).to_json()).expect("a string takes everything");
    }
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let mut running = Running::start(&url, "publish --output json");
    let (half, rest) = text.split_at(text.len() / 2);
    running.write(half).await;
    proxy.set(Mode::HoldAnswers);
    proxy.cut(Ending::Reset);
    let held = proxy.counts().held;
    let cutting = async {
        eventually("an answer to be held back", async || {
            holds(proxy.counts().held > held, || format!("{:?}", proxy.counts()))
        })
        .await;
        proxy.cut(Ending::Reset);
        proxy.set(Mode::Pass);
    };
    tokio::join!(cutting, running.write(rest));
    let published = running.end().await.expect_json();
    assert_eq!(published["accepted"], 10_000);
    setup.reached(HUBSPOT, published["last_updated_idx"].as_i64().expect("a position")).await;
    let payloads = payloads(&setup, HUBSPOT).await;
    assert_eq!(payloads.len(), 2500);
    let is_last = |(id, payload): (&String, &Value)| payload["n"] == 7500 + id.parse::<u32>().expect("a number");
    assert!(payloads.iter().all(is_last), "a record is not at its last version");
}

#[tokio::test]
async fn what_comes_slowly_is_published_before_its_request_is_full() {
    let node = Node::start().await;
    let mut running = Running::start(node.api.url(), "publish --output json");
    running.write(&lines(&[contact(sync(1), 1, json!({}))])).await;
    eventually("the record to be there", async || {
        let answer = node.api.get(&format!("/v1/syncs/{}", sync(1))).await;
        holds(answer.status == 200, || format!("{answer:?}"))
    })
    .await;
    let published = running.end().await.expect_json();
    assert_eq!(published["accepted"], 1);
}

#[tokio::test]
async fn wrong_usage_is_told_before_anything_is_read() {
    let node = Node::start().await;
    for wrong in [
        "publish --format singer",
        "publish --format singer --provider p --sync acme",
        "publish --provider hubspot",
        "publish --key a=b",
        "publish --format singer --provider p --sync 0dea6e4e-64b9-4b1c-ac03-2e6b25795c18 --key users",
        "publish --parallel 0",
        "publish --compress br",
    ] {
        let ran = run(&node.api, wrong).await;
        assert_eq!(ran.status, Some(2), "{wrong}: {ran:?}");
        assert!(!ran.stderr.is_empty() && ran.stdout.is_empty(), "{wrong}: {ran:?}");
    }
}
