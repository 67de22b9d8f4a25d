//! Publishing, in whatever form the body comes: compressed, as MessagePack, as large as may be. The outcome is the same.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    api::{Answer, Api, send},
    model::{Model, Version, contact, lines, no_contact, sync},
    node::Node,
    setup::Setup,
};

const NDJSON: &str = "application/x-ndjson";
const MSGPACK: &str = "application/vnd.msgpack";

/// The largest body.
const MOST: usize = 64 * 1024 * 1024;

/// The most memory that a node may take meanwhile, in KiB.
const MOST_KIB: u64 = 256 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory")
}

async fn post(api: &Api, content_type: &str, encoding: &str, body: Vec<u8>) -> Answer {
    let request = api.request(Method::POST, "/v1/records").header("content-type", content_type);
    send(request.header("content-encoding", encoding).body(body)).await
}

fn messagepack(records: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(records).expect("MessagePack")
}

fn to_json(versions: &[Version]) -> Value {
    versions.iter().map(Version::to_json).collect()
}

/// How many records a body of the largest size has.
const RECORDS: usize = 63;

/// Records of a MiB each, and line ends that fill the body up to its size.
fn body_of(records: usize, size: usize) -> Vec<u8> {
    let payload = json!({"text": "x".repeat(1024 * 1024)});
    let mut body = Vec::with_capacity(size);
    for number in 0..records {
        body.extend(lines(&[contact(sync(1), number, payload.clone())]).into_bytes());
    }
    body.resize(size, b'\n');
    body
}

#[tokio::test]
async fn records_arrive_alike_however_the_body_is_written_and_compressed() {
    let setup = Setup::new().await;
    setup.start_hubspot().await;
    let mut model = Model::default();
    let payload = json!({"n": [1, -70_000, 1.5, u64::MAX], "é \" \\": {"deep": [null, true, "\n"]}});
    for (number, content_type) in [NDJSON, "application/json", MSGPACK, "application/msgpack"].iter().enumerate() {
        for (encoding, compress) in
            [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd), ("identity", <[u8]>::to_vec)]
        {
            let id = format!("{number} {encoding}");
            let versions = [
                contact(sync(1), &id, payload.clone()),
                contact(sync(1), "gone", json!(1)),
                no_contact(sync(1), "gone"),
            ];
            let body = match *content_type {
                NDJSON => lines(&versions).into_bytes(),
                "application/json" => to_json(&versions).to_string().into_bytes(),
                MSGPACK => messagepack(&to_json(&versions)),
                // A sequence of maps.
                _ => versions.iter().flat_map(|version| messagepack(&version.to_json())).collect(),
            };
            let answer = post(&setup.node.api, content_type, encoding, compress(&body)).await.expect(200);
            assert_eq!(answer, json!({"accepted": 3, "last_updated_idx": model.publish(&versions)}));
        }
    }
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_wrong_record_in_messagepack_is_refused_by_its_number_and_field_and_nothing_is_accepted() {
    let node = Node::start().await;
    let good = contact(sync(1), 1, json!({})).to_json();
    for (field, value) in [
        ("opp", json!("upsert")),
        ("op", json!("merge")),
        ("provider", json!("Hub Spot")),
        ("sync_id", json!("acme")),
        ("sync_metadata", json!([1])),
        ("collection_id", json!("")),
        ("upstream_id", json!(101)),
        ("payload", json!("x".repeat(4 * 1024 * 1024))),
        ("upstream_updated_at", json!("yesterday")),
    ] {
        let mut wrong = good.clone();
        wrong[field] = value;
        let body = messagepack(&json!([good, wrong, good]));
        let answer = post(&node.api, MSGPACK, "identity", body).await;
        assert_eq!(answer.body["errors"][0]["line"], 2, "{field}");
        assert_eq!(answer.expect_problem(422), [field]);
    }
    // A map with the key `payload`, whose value is no number: JSON has none.
    let not_a_number = [&[0x81, 0xa7][..], b"payload", &[0xca, 0x7f, 0xc0, 0, 0]].concat();
    assert_eq!(post(&node.api, MSGPACK, "identity", not_a_number).await.expect_problem(422), ["payload"]);
    for broken in [&[0xc1][..], &messagepack(&good)[..20], b"\x90\x90"] {
        post(&node.api, MSGPACK, "identity", broken.to_vec()).await.expect_problem(400);
    }
    assert_eq!(node.api.get("/v1/syncs").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_body_that_cannot_be_decompressed_is_refused_as_such() {
    let node = Node::start().await;
    let body = lines(&[contact(sync(1), 1, json!({}))]).into_bytes();
    for (encoding, whole) in [("gzip", gzip(&body)), ("zstd", zstd(&body))] {
        for broken in [&whole[..whole.len() - 5], b"plain", &body] {
            let answer = post(&node.api, NDJSON, encoding, broken.to_vec()).await;
            assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(encoding)), "{answer:?}");
            answer.expect_problem(400);
        }
    }
    for unknown in ["br", "deflate", "gzip, zstd"] {
        let answer = post(&node.api, NDJSON, unknown, body.clone()).await;
        let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains("gzip") && detail.contains("zstd"), "{detail}");
        answer.expect_problem(415);
    }
    let answer =
        send(node.api.request(Method::POST, "/v1/records").header("content-type", "text/csv").body("a,b")).await;
    let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("msgpack"), "{detail}");
    answer.expect_problem(415);
    assert_eq!(node.api.get("/v1/syncs").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn sixty_four_mib_go_in_and_not_a_byte_more_whatever_the_encoding() {
    let node = Node::start().await;
    let most = body_of(RECORDS, MOST);
    let beyond = [&most[..], b"\n"].concat();
    for (encoding, compress) in [("identity", <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>), ("gzip", gzip), ("zstd", zstd)] {
        let accepted = post(&node.api, NDJSON, encoding, compress(&most)).await.expect(200);
        assert_eq!(accepted["accepted"], RECORDS, "{encoding}");
        let refused = post(&node.api, NDJSON, encoding, compress(&beyond)).await;
        let detail = refused.body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(&MOST.to_string()), "{encoding}: {detail}");
        refused.expect_problem(413);
    }
    // What is too long only when it is written as JSON.
    let controls = messagepack(&contact(sync(1), 1, json!("\u{1}".repeat(MOST / 6))).to_json());
    post(&node.api, MSGPACK, "zstd", zstd(&controls)).await.expect_problem(413);
}

#[tokio::test]
async fn many_large_bodies_and_bombs_at_once_take_no_more_memory_than_a_few() {
    let node = Node::start().await;
    let (large, bomb) = (zstd(&body_of(RECORDS / 2, MOST / 2)), zstd(&vec![b' '; 4 * MOST]));
    let wide = gzip(format!("[{}0]", "0,".repeat(MOST / 8)).as_bytes());
    let mut requests = JoinSet::new();
    for number in 0..12 {
        let (content_type, encoding, body, status) = match number % 3 {
            0 => (NDJSON, "zstd", large.clone(), 200),
            1 => (NDJSON, "zstd", bomb.clone(), 413),
            _ => ("application/json", "gzip", wide.clone(), 422),
        };
        let api = node.api.clone();
        requests.spawn(async move {
            post(&api, content_type, encoding, body).await.expect(status);
        });
    }
    requests.join_all().await;
    assert!(node.peak_kib() < MOST_KIB, "{} KiB", node.peak_kib());
}
