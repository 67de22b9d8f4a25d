//! A cluster of real nodes on real NATS servers, through whatever happens to either: nothing is lost, repeated or brought
//! back, and every target has one owner in the end.

use std::{process::Command, time::Duration};

use serde_json::json;

use crate::support::{
    cluster::{Cluster, Expected, NODES, Publisher},
    eventually, holds,
    model::{contact, no_contact, sync},
};

/// Long enough for some records to be on their way, in any state.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// A trigger that makes what sessions of this name write take the server so long that their node is long replaced.
fn slow_for(name: &str) -> String {
    format!(
        "create function sequin.be_slow() returns trigger language plpgsql as $$
           begin
             if pg_catalog.current_setting('application_name') = '{name}' then perform pg_catalog.pg_sleep(40); end if;
             return null;
           end $$;
         create trigger slow before insert or delete on sequin.hubspot
           for each statement execute function sequin.be_slow()"
    )
}

fn signal(process: u32, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status().expect("kill");
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_nats_servers_that_are_killed_alone_and_together_lose_nothing() {
    let mut cluster = Cluster::start(4).await;
    let publisher = Publisher::start(&cluster).await;
    a_while().await;
    // A node.
    let owner = cluster.an_owner(0).await;
    cluster.nodes[owner].sigkill();
    let other = (owner + 1) % NODES;
    let gone = format!("node-{owner}");
    cluster.owners_are(other, "others to own what it had", |owners| !owners.values().any(|name| *name == gone)).await;
    cluster.start_again(owner).await;
    publisher.goes_on_with(&cluster);
    // Each server in turn, and so the leader of whatever there is.
    for server in 0..NODES {
        cluster.nats.kill(server);
        a_while().await;
        cluster.nats.restart(server);
        a_while().await;
    }
    // A node and a server at once.
    let owner = cluster.an_owner(1).await;
    cluster.nodes[owner].sigkill();
    cluster.nats.kill(owner);
    a_while().await;
    cluster.nats.restart(owner);
    cluster.start_again(owner).await;
    publisher.goes_on_with(&cluster);
    a_while().await;
    let expected = publisher.end().await;
    cluster.comes_to_rest(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_paused_until_its_successor_has_deleted_what_it_had_in_flight_brings_nothing_back() {
    let cluster = Cluster::start(1).await;
    let database = &cluster.databases[0];
    let owner = cluster.an_owner(0).await;
    let other = (owner + 1) % NODES;
    let api = &cluster.nodes[other].api;
    let mut expected = Expected::default();
    let first: Vec<_> = (0..50).map(|n| contact(sync(1), n, json!(0))).collect();
    api.try_publish(&first).await.expect("accepted");
    expected.publish(&first);
    cluster.comes_to_rest(&expected).await;
    // What else somebody has to do in a cluster is owned in the same way, and is no target.
    assert_eq!(cluster.sum_of("sequin_targets_owned").await, 1);
    assert_eq!(cluster.sum_of("sequin_ownership_changes_total{sequin_change=\"claimed\"}").await, 1);
    // What the first owner writes now takes the server longer than the others take to notice that its node is silent.
    let name: String = database
        .ask(
            "select max(application_name) from pg_stat_activity where usename <> session_user
        and datname = current_database() and application_name like 'sequin/%/%'",
        )
        .await;
    database.run(&slow_for(&name)).await;
    let written: Vec<_> = (0..50).map(|n| contact(sync(1), n, json!(1))).collect();
    api.try_publish(&written).await.expect("accepted");
    let at_work = format!(
        "select count(*) from pg_stat_activity where application_name = '{name}' and wait_event = 'PgSleep'
           and datname = current_database()"
    );
    let at_work = async || database.ask::<i64>(&at_work).await;
    eventually("its writer to be at work", async || holds(at_work().await > 0, || "nobody is".into())).await;
    signal(cluster.nodes[owner].pid(), "STOP");
    let paused = format!("node-{owner}");
    assert!(at_work().await > 0, "it was through before its node was paused");
    cluster.owners_are(other, "another to own it", |owners| !owners.values().any(|name| *name == paused)).await;
    let deleted: Vec<_> = (0..50).map(|n| no_contact(sync(1), n)).collect();
    api.try_publish(&deleted).await.expect("accepted");
    expected.publish(&written);
    expected.publish(&deleted);
    cluster.comes_to_rest(&expected).await;
    assert_eq!(at_work().await, 0, "what the first owner had in flight is still in flight");
    signal(cluster.nodes[owner].pid(), "CONT");
    cluster.lives(other, &paused).await;
    cluster.comes_to_rest(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_nats_or_from_the_databases_harms_nobody() {
    let cluster = Cluster::start(4).await;
    let publisher = Publisher::start(&cluster).await;
    a_while().await;
    let owner = cluster.an_owner(0).await;
    let other = (owner + 1) % NODES;
    let name = format!("node-{owner}");
    cluster.cut_off_from_nats(owner);
    cluster.owners_are(other, "others to own what it had", |owners| !owners.values().any(|of| *of == name)).await;
    a_while().await;
    cluster.let_in_to_nats(owner);
    cluster.owners_are(other, "it to take part again", |owners| owners.values().any(|of| *of == name)).await;
    let owners = cluster.settled_owners(other).await;
    let its = owners.iter().find(|(_, node)| **node == name).map(|(target, _)| target.clone()).expect("one of its own");
    cluster.cut_off_from_databases(owner);
    cluster.nodes[other].api.target_state_is(&its, "unhealthy").await;
    cluster.let_in_to_databases(owner);
    cluster.nodes[other].api.target_state_is(&its, "healthy").await;
    let expected = publisher.end().await;
    cluster.comes_to_rest(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_clocks_are_hours_apart_take_over_from_each_other_like_others() {
    let mut cluster = Cluster::start(3).await;
    for (node, wrong_by) in [(1, "+3h"), (2, "-2h")] {
        cluster.nodes[node].sigkill();
        cluster.start_again_at(node, wrong_by).await;
    }
    let publisher = Publisher::start(&cluster).await;
    cluster.settled_owners(0).await;
    for node in 0..NODES {
        let other = (node + 1) % NODES;
        cluster.nodes[node].sigkill();
        let gone = format!("node-{node}");
        cluster.owners_are(other, "others to own what it had", |owners| !owners.values().any(|of| *of == gone)).await;
        cluster.start_again_at(node, ["+5m", "-3h", "+2h"][node]).await;
        publisher.goes_on_with(&cluster);
    }
    let expected = publisher.end().await;
    cluster.comes_to_rest(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_and_nodes_that_join_and_leave_hand_over_in_order() {
    // More than three nodes have room for, as a fourth one lets them have.
    let mut cluster = Cluster::start(7).await;
    let publisher = Publisher::start(&cluster).await;
    for node in 0..NODES {
        assert_eq!(cluster.nodes[node].sigterm().await.code(), Some(0));
        let gone = format!("node-{node}");
        let other = (node + 1) % NODES;
        cluster.owners_are(other, "others to own what it had", |owners| !owners.values().any(|of| *of == gone)).await;
        cluster.start_again(node).await;
        publisher.goes_on_with(&cluster);
    }
    let before = cluster.settled_owners(0).await;
    cluster.join("node-3").await;
    cluster.owners_are(0, "the newcomer to own some", |owners| owners.values().any(|of| of == "node-3")).await;
    assert_eq!(cluster.nodes[3].sigterm().await.code(), Some(0));
    cluster.nodes.truncate(NODES);
    cluster.owners_are(0, "what it had taken to be where it was", |owners| *owners == before).await;
    let expected = publisher.end().await;
    cluster.comes_to_rest(&expected).await;
}
