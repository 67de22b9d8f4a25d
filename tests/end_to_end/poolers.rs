//! Poolers between a node and its target: by one in session mode everything holds that holds without; one in transaction mode is
//! found out, and refused before anything is set or written.

use sequin_actors::{
    model::{Tls, TlsMode},
    postgres::{Egress, Visitor},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_postgres::{Client, NoTls};

use crate::support::{
    cli::run,
    database::{Database, PASSWORD},
    engine::{CameTo, target},
    eventually, holds,
    model::{HUBSPOT, Model, contact, no_contact, sync},
    node::Node,
    pgbouncer::PgBouncer,
    setup::Setup,
    status::{reason_with_cause, says},
};

/// A trigger that keeps the insert of one record waiting, for as long as the customer holds a lock; no timeout of ours ends that
/// within the time of a test.
const SLOW_INSERT: &str = "
    create function sequin.wait() returns trigger language plpgsql set lock_timeout = 0 as
      $$ begin perform pg_catalog.pg_advisory_xact_lock(8); return new; end $$;
    create trigger wait before insert on sequin.hubspot
      for each row when (new.upstream_id = 'slow') execute function sequin.wait()";

/// A node whose target is reached by a pooler in this mode.
async fn behind_a_pooler(mode: &str) -> (Setup, PgBouncer) {
    let database = Database::create().await;
    let pooler = PgBouncer::before(&database, mode);
    let connection = database.connection_by(pooler.port());
    (Setup::connected(Node::start().await, database, &connection).await, pooler)
}

/// A session of another application that comes by the same pooler as the same user.
async fn of_another_application(setup: &Setup, pooler: &PgBouncer, name: Option<&str>) -> Client {
    let Database { name: database, user, .. } = &setup.database;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(pooler.port()).dbname(database).user(user).password(PASSWORD);
    if let Some(name) = name {
        config.application_name(name);
    }
    let (client, connection) = config.connect(NoTls).await.expect("a session");
    tokio::spawn(async move { drop(connection.await) });
    client
}

async fn pid(client: &Client) -> i32 {
    client.query_one("select pg_backend_pid()", &[]).await.expect("nobody has ended it").get(0)
}

async fn inserts_that_wait(setup: &Setup) -> Vec<i32> {
    let user = &setup.database.user;
    let sql = format!(
        "select coalesce(array_agg(pid), '{{}}') from pg_stat_activity where usename = '{user}' and wait_event = 'advisory'"
    );
    setup.database.ask(&sql).await
}

async fn check(setup: &Setup) -> Value {
    setup.node.api.act("/v1/targets/app/check").await.expect(200)
}

fn step<'c>(checked: &'c Value, name: &str) -> &'c Value {
    let steps = checked["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name} in {checked}"))
}

#[tokio::test]
async fn by_a_pooler_in_session_mode_nothing_is_lost_or_brought_back_and_nobody_else_is_disturbed() {
    let (mut setup, mut pooler) = behind_a_pooler("session").await;
    let mut model = Model::default();
    let many: Vec<_> = (0..3000).map(|n| contact(sync(n % 9), n, json!({"n": n.to_string()}))).collect();
    setup.publish(&mut model, &many).await;
    setup.start_hubspot().await;
    setup.hubspot_is(&model).await;
    let checked = check(&setup).await;
    assert_eq!((&checked["ok"], &step(&checked, "pooler")["status"]), (&json!(true), &json!("ok")), "{checked}");
    // The name by which the fence knows a session is there, whatever the pooler resets when it changes hands.
    let named = format!(
        "select count(*) from pg_stat_activity where usename = '{}' and application_name like 'sequin/sequin/%'",
        setup.database.user
    );
    assert!(setup.database.ask::<i64>(&named).await > 0);

    let others = [Some("reports"), None];
    let mut bystanders = Vec::new();
    for name in others {
        let client = of_another_application(&setup, &pooler, name).await;
        let own = pid(&client).await;
        client.batch_execute("begin").await.expect("a transaction");
        bystanders.push((client, own));
    }
    setup.database.run(SLOW_INSERT).await;
    setup.database.run("select pg_advisory_lock(8)").await;
    setup.publish(&mut model, &[contact(sync(1), "slow", json!("late"))]).await;
    eventually("the insert to be under way", async || {
        holds(inserts_that_wait(&setup).await.len() == 1, || "it is not".into())
    })
    .await;
    setup.node.sigkill();
    let left_behind = inserts_that_wait(&setup).await;
    assert_eq!(left_behind.len(), 1, "the server knows nothing of the end of the node");
    setup.node.start_again().await;
    eventually("what the node left behind to be ended", async || {
        let waiting = inserts_that_wait(&setup).await;
        holds(!waiting.contains(&left_behind[0]), || format!("{waiting:?} wait, and {left_behind:?} did"))
    })
    .await;
    setup.database.run("select pg_advisory_unlock(8)").await;
    setup.publish(&mut model, &[no_contact(sync(1), "slow"), contact(sync(1), "quick", json!("on time"))]).await;
    setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
    setup.hubspot_is(&model).await;
    for (client, own) in &bystanders {
        assert_eq!(pid(client).await, *own);
    }

    pooler.kill();
    setup.publish(&mut model, &[contact(sync(2), 2, json!("while it is away")), no_contact(sync(3), 3)]).await;
    setup.node.api.target_state_is("app", "unhealthy").await;
    pooler.start();
    setup.hubspot_is(&model).await;
    setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_with_what_to_do_and_forwarding_begins_once_that_is_done() {
    let (setup, pooler) = behind_a_pooler("transaction").await;
    let mut model = Model::default();
    setup.publish(&mut model, &[contact(sync(1), 1, json!({}))]).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    let api = &setup.node.api;
    let words = "a pooler in transaction mode is on the way";
    let is_refused = |shown: &Value| says(shown, "target_unhealthy", words);
    let target = api.target_is("app", "refused", is_refused).await;
    let reason = reason_with_cause(&target, "target_unhealthy");
    assert!(reason["fix"].as_str().is_some_and(|fix| fix.contains("pool_mode=session")), "{reason}");
    let refused = api.act("/v1/consumers/hubspot/start").await;
    let error = &refused.body["errors"][0];
    assert_eq!(error["code"], "transaction_pooler", "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{error}");
    refused.expect_problem(422);

    let checked = check(&setup).await;
    assert_eq!(
        (&checked["ok"], &checked["reason"]["code"]),
        (&json!(false), &json!("transaction_pooler")),
        "{checked}"
    );
    let of = |name| step(&checked, name)["status"].as_str().expect("a status").to_owned();
    let statuses = ["dns", "tcp", "auth", "server", "pooler", "session_settings", "table", "latency"].map(of);
    assert_eq!(statuses, ["ok", "ok", "ok", "ok", "failed", "skipped", "skipped", "skipped"], "{checked}");
    let printed = run(api, "target check app").await;
    assert!(printed.stdout.contains("✗   pooler") && printed.stdout.contains("pool_mode=session"), "{printed:?}");
    // Nothing of ours is left where others work.
    let other = of_another_application(&setup, &pooler, None).await;
    let path = other.simple_query("show search_path").await.expect("an answer");
    let path = path.iter().find_map(|answer| match answer {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(path, Some("\"$user\", public"));

    // A mode in which not even a transaction keeps its process.
    pooler.change_mode(&setup.database, "statement");
    eventually("the other mode to be refused likewise", async || {
        let reason = &check(&setup).await["reason"];
        let is_so = reason["code"] == "transaction_pooler" && reason.to_string().contains("statement pooling mode");
        holds(is_so, || format!("it is {reason}"))
    })
    .await;

    pooler.change_mode(&setup.database, "session");
    api.target_state_is("app", "healthy").await;
    setup.act(HUBSPOT, "start").await;
    setup.hubspot_is(&model).await;
    api.is_well(HUBSPOT).await;
}

/// Forwards to the server what is not encrypted, and calls our sessions otherwise there.
async fn another_name_before(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
                let mut first = vec![0; 1024];
                let length = client.read(&mut first).await?;
                first.truncate(length);
                if let Some(at) = first.windows(7).position(|bytes| bytes == b"sequin/") {
                    first[at..at + 7].copy_from_slice(b"pooler/");
                }
                server.write_all(&first).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    port
}

#[tokio::test]
async fn where_the_server_does_not_hear_the_name_of_our_sessions_they_are_refused() {
    let database = Database::create().await;
    let mut connection = target(&database).connection;
    connection.tls = Tls { mode: TlsMode::Disable, ..Tls::default() };
    let visitor = Visitor::new("sequin/test".into(), Egress::default());
    visitor.check(&connection, &[]).await.came_to().expect("the server hears it");
    connection.port = another_name_before(database.server.port()).await;
    let fault = visitor.check(&connection, &[]).await.came_to().expect_err("it does not");
    assert_eq!(fault.code, "application_name_lost", "{fault}");
    assert!(fault.summary.contains("pooler/test"), "{fault}");
}

#[tokio::test]
async fn a_pooler_with_room_for_one_session_is_no_outage() {
    let database = Database::create().await;
    let pooler = PgBouncer::before(&database, "session\ndefault_pool_size = 1");
    let mut connection = target(&database).connection;
    connection.port = pooler.port();
    let visitor = Visitor::new("sequin/test".into(), Egress::default());
    visitor.check(&connection, &[]).await.came_to().expect("one session is enough");
}
