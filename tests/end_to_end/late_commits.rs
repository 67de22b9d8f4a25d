//! What a node had under way when it died must not take effect after it was started again.

use serde_json::json;

use crate::support::{
    eventually, holds,
    model::{HUBSPOT, Model, contact, no_contact, sync},
    setup::Setup,
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
