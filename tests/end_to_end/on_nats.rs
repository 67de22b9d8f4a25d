//! A node that keeps everything in NATS: what it needs to be told, and how it is while the servers are not there.

use sequin_actors::store::Keyring;
use serde_json::json;

use crate::support::{
    database::Database,
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, sync},
    nats::Nats,
    node::{Node, refuse_to_start},
    setup::Setup,
};

fn contacts(numbers: std::ops::Range<u32>) -> Vec<Version> {
    numbers.map(|n| contact(sync(1), n, json!(n))).collect()
}

/// Starts a node that must end at once, and expects its exit status and these words in its only line.
async fn refused(settings: &[(&str, &str)], status: i32, says: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let refusal = refuse_to_start(directory.path(), settings).await;
    let [line] = refusal.lines.as_slice() else { panic!("one line: {refusal:?}") };
    assert_eq!(refusal.status, Some(status), "{refusal:?}");
    for says in says {
        assert!(line.contains(says), "{says:?} is not in {line:?}");
    }
    assert!(!directory.path().join("data").exists());
}

#[tokio::test]
async fn what_all_nodes_of_a_cluster_must_know_is_asked_for_and_servers_that_are_not_there_are_named() {
    let (mut nats, key) = (Nats::start(), Keyring::generate_base64());
    let backend = nats.url();
    let of_cluster = [("SEQUIN_BACKEND", backend.as_str()), ("SEQUIN_ENCRYPTION_KEY", &key)];
    refused(&of_cluster[..1], 2, &["SEQUIN_ENCRYPTION_KEY", "openssl rand"]).await;
    refused(&[&of_cluster[..], &[("SEQUIN_ADMIN_TOKEN", "")]].concat(), 2, &["SEQUIN_ADMIN_TOKEN"]).await;
    refused(&[&of_cluster[..], &[("SEQUIN_CLUSTER", "a.b")]].concat(), 2, &["SEQUIN_CLUSTER"]).await;
    refused(&[("SEQUIN_NATS_USER", "sequin")], 2, &["SEQUIN_NATS_USER", "SEQUIN_BACKEND"]).await;
    let mut node = Node::start_with(tempfile::tempdir().expect("a directory"), &of_cluster).await;
    assert_eq!(node.sigterm().await.code(), Some(0));
    let another = Keyring::generate_base64();
    let with_another = [of_cluster[0], ("SEQUIN_ENCRYPTION_KEY", another.as_str())];
    refused(&with_another, 2, &["SEQUIN_ENCRYPTION_KEY is not the encryption key"]).await;
    nats.kill(0);
    refused(&of_cluster, 1, &[&format!("127.0.0.1:{}", nats.port(0))]).await;
}

#[tokio::test]
async fn a_node_lives_on_while_nats_is_away_says_that_it_is_not_ready_and_goes_on_afterwards() {
    let (mut nats, key) = (Nats::start(), Keyring::generate_base64());
    let settings = [("SEQUIN_BACKEND", nats.url()), ("SEQUIN_ENCRYPTION_KEY", key)];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let node = Node::start_with(tempfile::tempdir().expect("a directory"), &settings).await;
    let setup = Setup::with(node, Database::create().await).await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..100)).await;
    setup.hubspot_is(&model).await;

    for is_silent in [true, false] {
        if is_silent {
            nats.signal(0, "STOP");
        } else {
            nats.kill(0);
        }
        eventually("the node not to be ready", async || holds(!setup.node.api.is_ready().await, || "it is".into()))
            .await;
        let lives = setup.node.api.get("/livez").await;
        assert_eq!(lives.status, 200, "{lives:?}");
        if is_silent {
            nats.signal(0, "CONT");
        } else {
            nats.restart(0);
        }
        eventually("the node to be ready again", async || {
            holds(setup.node.api.is_ready().await, || "it is not".into())
        })
        .await;
    }
    let answer = setup.node.api.publish(crate::support::model::lines(&contacts(50..150))).await.expect(200);
    model.publish(&contacts(50..150));
    assert_eq!(answer["accepted"], 100);
    setup.hubspot_is(&model).await;
    setup.consumer_is(HUBSPOT, "well", |consumer| consumer["health"]["status"] == "healthy").await;
}
