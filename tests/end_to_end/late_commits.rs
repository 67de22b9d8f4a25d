//! What a node had under way when it died, or lost a target, must not take effect after that was started again elsewhere.

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::support::{
    database::PASSWORD,
    eventually, holds,
    model::{HUBSPOT, Model, contact, no_contact, sync},
    setup::Setup,
    status::reasons,
};

/// A trigger that keeps the insert of one record waiting, as a lock or a slow disk may.
const SLOW_INSERT: &str = "
    create function sequin.wait() returns trigger language plpgsql as
      $$ begin perform pg_catalog.pg_sleep(6); return new; end $$;
    create trigger wait before insert on sequin.hubspot
      for each row when (new.upstream_id = 'slow') execute function sequin.wait()";

async fn inserts_that_wait(setup: &Setup) -> i64 {
    let user = &setup.database.user;
    let sql = format!("select count(*) from pg_stat_activity where usename = '{user}' and wait_event = 'PgSleep'");
    setup.database.ask(&sql).await
}

#[tokio::test]
async fn an_insert_that_outlives_its_node_does_not_bring_a_deleted_record_back() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.database.run(SLOW_INSERT).await;
    setup.publish(&mut model, &[contact(sync(1), "slow", json!("late"))]).await;
    eventually("the insert to be under way", async || {
        holds(inserts_that_wait(&setup).await == 1, || "it is not".into())
    })
    .await;
    setup.node.sigkill();
    setup.node.start_again().await;
    setup.publish(&mut model, &[no_contact(sync(1), "slow"), contact(sync(1), "quick", json!("on time"))]).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    eventually("no insert to wait", async || holds(inserts_that_wait(&setup).await == 0, || "one does".into())).await;
    setup.hubspot_is(&model).await;
    assert_eq!(setup.database.count(HUBSPOT).await, 1);
}

/// A session in the database of the target `app`, as a node has it that owns that in an epoch, as this user.
async fn session_of_epoch(setup: &Setup, epoch: u32, user: &str) -> Client {
    let id = setup.node.api.target("app").await["id"].as_str().expect("an id").replace('-', "");
    let database = &setup.database;
    let connection = database.connection();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(database.server.port()).dbname(&database.name).user(user);
    config.password(connection["password"].as_str().expect("a password"));
    config.application_name(format!("sequin/sequin/{id}/{epoch}"));
    let (client, connection) = config.connect(NoTls).await.expect("a session");
    tokio::spawn(async move { drop(connection.await) });
    client
}

#[tokio::test]
async fn a_session_of_a_lower_epoch_is_ended_and_one_of_a_higher_epoch_or_of_another_user_keeps_a_pipeline_from_starting()
 {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.node.sigkill();
    setup.node.start_again().await;
    let user = setup.database.user.clone();
    let restart = async |setup: &mut Setup| {
        setup.node.sigterm().await;
        setup.node.start_again().await;
    };
    // A node of its own has epoch 0.
    let earlier = session_of_epoch(&setup, 0, &user).await;
    restart(&mut setup).await;
    setup.publish(&mut model, &[contact(sync(1), "a", json!(1))]).await;
    setup.hubspot_is(&model).await;
    earlier.batch_execute("select 1").await.expect_err("it was ended");
    let later = session_of_epoch(&setup, 7, &user).await;
    restart(&mut setup).await;
    let says = |consumer: &Value| reasons(consumer).iter().any(|reason| reason["cause"].is_string());
    let waiting =
        setup.consumer_is(HUBSPOT, "waiting", |consumer| consumer["state"] == "waiting" && says(consumer)).await;
    assert!(waiting.to_string().contains("could not make sure that the target is still its own"), "{waiting}");
    later.batch_execute("select 1").await.expect("nobody has ended it");
    drop(later);
    setup.publish(&mut model, &[contact(sync(1), "b", json!(1))]).await;
    setup.hubspot_is(&model).await;
    // As before the target was given another user: it can't be ended, so its end is waited for.
    setup.database.run(&format!("create role other_{user} login password '{}'", PASSWORD.replace('\'', "''"))).await;
    let others = session_of_epoch(&setup, 0, &format!("other_{user}")).await;
    restart(&mut setup).await;
    setup.publish(&mut model, &[contact(sync(1), "c", json!(1))]).await;
    setup
        .consumer_is(HUBSPOT, "waiting for it", |consumer| {
            consumer.to_string().contains("ending the sessions of an earlier run timed out")
        })
        .await;
    assert_eq!(setup.database.count(HUBSPOT).await, 2);
    drop(others);
    setup.hubspot_is(&model).await;
}
