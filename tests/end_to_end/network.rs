//! A network that fails between a node and its target: what was under way is neither lost nor done twice, and whoever
//! can't be heard any more is not waited for.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    database::{Database, Written},
    eventually, eventually_within, holds,
    model::{HUBSPOT, Model, Version, compare, contact, no_contact, sync},
    proxy::{Counts, Ending, Mode, Proxy},
    setup::Setup,
};

/// How soon a consumer goes on once its target can be reached again.
const SOON: Duration = Duration::from_secs(20);

/// How long a transaction is waited for whose session the server has lost, and somewhat more for a busy machine.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(30);

/// How many records there are: some for each writer.
const RECORDS: u128 = 90;

fn contacts(numbers: std::ops::Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!(state))).collect()
}

/// Changes of every kind, so that each writer needs a transaction of several statements, and commits it.
fn changes(state: &str) -> Vec<Version> {
    let deleted = (0..RECORDS).step_by(3).map(|number| no_contact(sync(number % 7), number));
    let mut changes = contacts(0..2 * RECORDS, state);
    changes.extend(deleted);
    changes
}

/// A node that has brought some records to a database behind a proxy.
async fn at_work(model: &mut Model) -> (Setup, Proxy) {
    let (setup, proxy) = Setup::by_proxy(Database::create().await).await;
    setup.start_hubspot().await;
    setup.publish(model, &contacts(0..RECORDS, "before")).await;
    setup.hubspot_is(model).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    (setup, proxy)
}

/// Waits until the proxy has done what it was told to.
async fn happened(proxy: &Proxy, what: &str, has: impl Fn(Counts) -> bool) {
    eventually(what, async || holds(has(proxy.counts()), || format!("there were {:?}", proxy.counts()))).await;
}

/// Waits until everything is brought, and the consumer says that all is well.
async fn all_is_well(setup: &Setup, model: &Model) -> Value {
    let expected = model.last_idx(HUBSPOT);
    eventually_within(SOON, "the consumer to go on", async || {
        let consumer = setup.consumer(HUBSPOT).await;
        let has_caught_up = consumer["checkpoint"] == expected && consumer["state"] == "live";
        let is_well = consumer["health"]["status"] == "healthy" && consumer["lag"]["records"] == 0;
        holds(has_caught_up && is_well, || format!("it is {consumer}"))
    })
    .await;
    setup.hubspot_is(model).await;
    setup.consumer(HUBSPOT).await
}

/// A version that was there is not written another time, which would show in its `updated_at`.
async fn none_is_written_again(setup: &Setup, before: &Written) {
    let after = setup.database.written(HUBSPOT).await;
    let again = before.iter().filter(|(version, at)| after.get(*version).is_some_and(|now| now != *at)).count();
    assert_eq!(again, 0, "of {} rows, so many were written again", before.len());
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_made_twice() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    proxy.set(Mode::CutAfterCommit);
    setup.publish(&mut model, &changes("unheard")).await;
    // Again and again: whatever is brought anew has been there before.
    happened(&proxy, "answers to be lost", |counts| counts.unheard_commits >= 4).await;
    let written = setup.database.written(HUBSPOT).await;
    proxy.set(Mode::Pass);
    let consumer = all_is_well(&setup, &model).await;
    none_is_written_again(&setup, &written).await;
    let applied = |what: &str| consumer["applied"][what].as_u64().map(u128::from).expect("a number");
    assert!(applied("upserts") <= 3 * RECORDS && applied("deletes") <= RECORDS / 3, "{consumer}");
}

#[tokio::test]
async fn a_statement_that_commits_by_itself_and_is_not_answered_takes_effect_once() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    let before = setup.database.written(HUBSPOT).await;
    proxy.set(Mode::HoldAnswers);
    setup.publish(&mut model, &contacts(0..RECORDS, "unheard")).await;
    let written = eventually("rows to be written", async || {
        let written = setup.database.written(HUBSPOT).await;
        holds(written != before, || "none is".into()).map(|()| written)
    })
    .await;
    assert!(proxy.counts().held > 0, "{:?}", proxy.counts());
    assert!(proxy.cut(Ending::Reset) > 0, "no connection was there to be cut");
    proxy.set(Mode::Pass);
    all_is_well(&setup, &model).await;
    none_is_written_again(&setup, &written).await;
}

#[tokio::test]
async fn a_transaction_that_is_cut_off_before_its_commit_arrives_leaves_nothing_behind_and_is_made_again() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    proxy.set(Mode::CutBeforeCommit);
    let before = setup.database.written(HUBSPOT).await;
    setup.publish(&mut model, &changes("cut off")).await;
    happened(&proxy, "transactions to be cut off", |counts| counts.cut_before_commit >= 4).await;
    assert_eq!(setup.database.written(HUBSPOT).await, before);
    proxy.set(Mode::Pass);
    all_is_well(&setup, &model).await;
}

#[tokio::test]
async fn a_network_that_is_slow_delays_records_and_is_no_fault() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    proxy.set(Mode::Delay(Duration::from_millis(200)));
    setup.publish(&mut model, &changes("slow")).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    assert!(proxy.counts().delayed > 0);
    let log = setup.node.log();
    assert!(!log.contains("unhealthy") && !log.contains("failed"), "{log}");
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_target_in_a_black_hole_is_unhealthy_and_its_consumer_waits_until_it_is_over() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    proxy.set(Mode::BlackHole);
    setup.publish(&mut model, &changes("lost to sight")).await;
    let target = eventually("the target to be unhealthy", async || {
        let target = setup.node.api.get("/v1/targets/app").await.expect(200);
        holds(target["state"] == "unhealthy", || format!("it is {target}")).map(|()| target)
    })
    .await;
    assert_eq!(target["health"]["reasons"][0]["code"], "target_unhealthy", "{target}");
    let consumer = setup.state_is(HUBSPOT, "waiting").await;
    assert_eq!(consumer["health"]["reasons"][0]["target"], "app", "{consumer}");
    assert!(proxy.counts().held > 0, "{:?}", proxy.counts());
    proxy.set(Mode::Pass);
    all_is_well(&setup, &model).await;
}

#[tokio::test]
async fn a_session_whose_server_is_gone_without_a_word_is_given_up() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    proxy.set_for_existing(Mode::LoseServer);
    happened(&proxy, "sessions to lose their server", |counts| counts.lost > 0).await;
    setup.publish(&mut model, &changes("after the loss")).await;
    eventually_within(GIVEN_UP_WITHIN, "the records to be brought", async || {
        compare(&setup.database.table(HUBSPOT).await, &model.of_provider(HUBSPOT))
    })
    .await;
    all_is_well(&setup, &model).await;
}

#[tokio::test]
async fn who_begins_on_a_session_whose_server_is_gone_without_a_word_gives_it_up() {
    let mut model = Model::default();
    let (setup, proxy) = at_work(&mut model).await;
    setup.act(HUBSPOT, "pause").await;
    setup.state_is(HUBSPOT, "paused").await;
    proxy.set_for_existing(Mode::LoseServer);
    happened(&proxy, "sessions to lose their server", |counts| counts.lost > 0).await;
    setup.publish(&mut model, &changes("after the loss")).await;
    setup.act(HUBSPOT, "resume").await;
    eventually_within(GIVEN_UP_WITHIN, "the records to be brought", async || {
        compare(&setup.database.table(HUBSPOT).await, &model.of_provider(HUBSPOT))
    })
    .await;
    all_is_well(&setup, &model).await;
}
