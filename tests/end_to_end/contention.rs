//! Contention: somebody else is in the way. Nobody is at fault, nothing is lost, and once the other has gone all goes on;
//! should he stay, the consumer says so, and those on other tables are not kept waiting.

use std::{ops::Range, time::Duration};

use serde_json::json;
use tokio_postgres::Client;

use crate::support::{
    database::Database,
    eventually, eventually_within, holds,
    model::{HUBSPOT, Model, Version, contact, sync},
    setup::Setup,
    status::{reason_with_cause, reasons},
};

/// How long others may be in the way before a consumer says so, and as long again.
const UNTIL_IT_IS_SAID: Duration = Duration::from_secs(90);

fn contacts(numbers: Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!(state))).collect()
}

/// A consumer that is live and has some records in its table.
async fn at_work(model: &mut Model) -> Setup {
    let setup = Setup::new().await;
    start_work(&setup, model).await;
    setup
}

async fn start_work(setup: &Setup, model: &mut Model) {
    setup.start_hubspot().await;
    setup.publish(model, &contacts(0..300, "before")).await;
    setup.hubspot_is(model).await;
    setup.node.api.is_well(HUBSPOT).await;
}

/// How many of our sessions wait for a lock.
async fn waiting_for_a_lock(database: &Database) -> i64 {
    let user = &database.user;
    let sql = format!("select count(*) from pg_stat_activity where usename = '{user}' and wait_event_type = 'Lock'");
    database.ask(&sql).await
}

/// The server's own count of the deadlocks that it has broken, which it keeps up to date at leisure.
async fn deadlocks(database: &Database) -> i64 {
    let sql = format!("select deadlocks from pg_stat_database where datname = '{}'", database.name);
    database.ask(&sql).await
}

/// A session that holds the upper half of the rows, in the order in which we write them.
async fn holding_the_upper_half(database: &Database) -> Client {
    let session = database.connect().await;
    let lock = "begin; select from sequin.hubspot where sequin_id >= '80000000-0000-0000-0000-000000000000' for update";
    session.batch_execute(lock).await.expect("the locks");
    session
}

/// Wants the lower half as well: from then on either waits for the other.
const LOCK_THE_LOWER_HALF: &str =
    "select from sequin.hubspot where sequin_id < '80000000-0000-0000-0000-000000000000' for update; commit";

/// Lets our writers and another session wait for each other; `ours` and `theirs` are how long either waits before it looks
/// whether that is so, which makes it the victim. Returns what became of the other.
async fn deadlock(ours: &str, theirs: &str) -> Result<(), tokio_postgres::Error> {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let user = &setup.database.user;
    setup.database.run(&format!("alter role {user} set deadlock_timeout = '{ours}'")).await;
    start_work(&setup, &mut model).await;
    let other = holding_the_upper_half(&setup.database).await;
    other.batch_execute(&format!("set deadlock_timeout = '{theirs}'")).await.expect("the setting");
    setup.publish(&mut model, &contacts(0..300, "contended")).await;
    eventually("all of our writers to wait for the other", async || {
        let waiting = waiting_for_a_lock(&setup.database).await;
        holds(waiting == 3, || format!("{waiting} do"))
    })
    .await;
    let outcome = other.batch_execute(LOCK_THE_LOWER_HALF).await;
    drop(other);
    setup.hubspot_is(&model).await;
    setup.node.api.is_well(HUBSPOT).await;
    eventually("the server to have counted the deadlock", async || {
        let deadlocks = deadlocks(&setup.database).await;
        holds(deadlocks > 0, || "it has not".into())
    })
    .await;
    outcome
}

#[tokio::test]
async fn a_deadlock_of_which_another_session_is_the_victim_costs_us_nothing() {
    let error = deadlock("1min", "10ms").await.expect_err("the other session to be the victim");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("40P01"), "{error:?}");
}

#[tokio::test]
async fn a_deadlock_of_which_we_are_the_victim_is_tried_again_until_it_passes() {
    deadlock("2s", "1min").await.expect("the other session to get its locks");
}

#[tokio::test]
async fn a_consumer_whose_table_is_locked_says_that_others_are_in_the_way_and_goes_on_once_they_are_not() {
    let mut model = Model::default();
    let setup = at_work(&mut model).await;
    let locked = ["locked", "locked_later", "locked_as_well"];
    for name in locked {
        setup.start(name, &json!({"provider": HUBSPOT})).await;
        setup.table_is(name, &model.of_provider(HUBSPOT)).await;
    }
    let other = setup.database.connect().await;
    let run = async |sql| other.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    // As `vacuum full` does, and `alter table`.
    run("begin; lock table sequin.locked in access exclusive mode").await;
    setup.publish(&mut model, &contacts(200..5000, "locked")).await;
    setup.hubspot_is_undisturbed(&model).await;
    let consumer = eventually_within(UNTIL_IT_IS_SAID, "the consumer to say that others are in the way", async || {
        let consumer = setup.consumer("locked").await;
        holds(!reasons(&consumer).is_empty(), || format!("it is {consumer}")).map(|()| consumer)
    })
    .await;
    assert_eq!(consumer["state"], "waiting", "nobody needs to do anything: {consumer}");
    let summary = &reason_with_cause(&consumer, "locked")["summary"];
    assert!(summary.as_str().is_some_and(|summary| summary.contains("others are in the way")), "{summary}");
    assert_eq!(setup.node.api.target("app").await["state"], "healthy");
    setup.publish(&mut model, &contacts(4000..6000, "still locked")).await;
    setup.hubspot_is_undisturbed(&model).await;
    // With many that wait, there are more who want a session than there are sessions. All get one in their turn.
    run("lock table sequin.locked_later, sequin.locked_as_well in access exclusive mode").await;
    setup.publish(&mut model, &contacts(0..1000, "all locked")).await;
    setup.hubspot_is(&model).await;
    run("commit").await;
    for name in locked {
        setup.table_is(name, &model.of_provider(HUBSPOT)).await;
        setup.node.api.is_well(name).await;
    }
}

#[tokio::test]
async fn statements_that_somebody_cancels_are_tried_again() {
    let mut model = Model::default();
    let setup = at_work(&mut model).await;
    let cancel = format!(
        "select count(*) filter (where pg_cancel_backend(pid)) from pg_stat_activity
         where usename = '{}' and state = 'active'",
        setup.database.user
    );
    let mut cancelled = 0;
    let mut round = 0;
    while cancelled < 20 {
        round += 1;
        setup.publish(&mut model, &contacts(0..2000, &round.to_string())).await;
        for _ in 0..20 {
            cancelled += setup.database.ask::<i64>(&cancel).await;
        }
    }
    setup.hubspot_is(&model).await;
    setup.node.api.is_well(HUBSPOT).await;
}

/// A trigger by which a statement that writes more rows takes too long, and is cancelled: as by `statement_timeout`, which
/// is a minute, but at once.
const TOO_SLOW_FOR_MANY: &str = "
    create function sequin.time_out() returns trigger language plpgsql as $$ begin
      if (select count(*) > 100 from written) then
        perform pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid());
        perform pg_catalog.pg_sleep(60);
      end if;
      return null;
    end $$;
    create trigger inserted after insert on sequin.hubspot referencing new table as written
      for each statement execute function sequin.time_out();
    create trigger updated after update on sequin.hubspot referencing new table as written
      for each statement execute function sequin.time_out()";

#[tokio::test]
async fn a_batch_that_takes_too_long_goes_in_smaller_ones() {
    let mut model = Model::default();
    let setup = at_work(&mut model).await;
    setup.database.run(TOO_SLOW_FOR_MANY).await;
    setup.publish(&mut model, &contacts(200..3000, "many")).await;
    setup.hubspot_is(&model).await;
    setup.node.api.is_well(HUBSPOT).await;
}
