//! The target's fault: it can't be reached, lets nobody in, or can't do its work. All its consumers wait, it and they say
//! why and what to do, no other target notices, and once it works again they go on by themselves.

use std::{net::TcpListener, ops::Range};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use sequin::demo::postgres::Stop;
use serde_json::{Value, json};
use tokio_postgres::{Client, error::SqlState};

use crate::support::{
    api::Api,
    database::{Database, PASSWORD, SCHEMA},
    disk::SmallDisk,
    eventually,
    model::{HUBSPOT, Model, Version, compare, contact, sync},
    node::{Node, free_port},
    setup::Setup,
    status::{reason_with_cause, says, since},
};

/// The server of a target that runs out of sessions: so many that anybody may have, and so many for the superuser.
const FEW: &[(&str, &str)] = &[("max_connections", "10"), ("superuser_reserved_connections", "3")];
const FOR_ANYBODY: i64 = 7;
const FOR_THE_SUPERUSER: i64 = 3;

/// What befalls a target, and what makes an end of it.
enum Illness {
    /// What the customer's statements do, and undo. `USER` and `DATABASE` stand for what they say.
    Statement { cause: &'static str, mend: &'static str },
    /// The database is not there.
    Gone,
    /// The server is down.
    Down,
    /// The server takes connections, and says nothing.
    Mute(Option<TcpListener>),
    /// The server follows another one, as after a failover, and takes no writes.
    Standby,
    /// Others have all of the server's connections.
    Crowded(Vec<Client>),
    /// The disk is full.
    Full,
}

/// An illness, what a check of the target then finds (`None` if that is not asked), and what is said of it.
type Case = (Illness, Option<&'static str>, &'static str);

/// A target that falls ill, with a consumer; both, and the table, have the same name.
struct Patient<'a> {
    api: &'a Api,
    name: String,
    database: Database,
    illness: Illness,
    /// What a check of it finds; `None` if that is not asked.
    code: Option<&'static str>,
    /// What is said of it, among other things.
    words: &'static str,
}

fn contacts(numbers: Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!(state))).collect()
}

/// Opens sessions until only so many of those that anybody may have are left.
async fn crowd(database: &Database, left: i64) -> Vec<Client> {
    let mut crowd = Vec::new();
    let taken = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
    while FOR_ANYBODY - database.ask::<i64>(taken).await > left {
        crowd.push(database.connect().await);
    }
    crowd
}

impl Illness {
    /// A database whose server may be treated in this way.
    async fn database(&self) -> Database {
        match self {
            Self::Statement { .. } | Self::Gone => Database::create().await,
            Self::Down | Self::Mute(_) | Self::Standby | Self::Full => Database::on_own_server().await,
            Self::Crowded(_) => Database::on_server_with(FEW).await,
        }
    }

    async fn breaks_out(&mut self, database: &mut Database, table: &str) {
        match self {
            Self::Statement { cause, .. } => run(database, cause).await,
            Self::Gone => {
                // Nobody may be there while it is renamed, and we are quick to come back.
                let (postgres, name) = (database.connect_to("postgres").await, &database.name);
                for sql in [
                    format!("alter database {name} allow_connections false"),
                    format!("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{name}'"),
                    format!("alter database {name} rename to {name}_gone"),
                ] {
                    postgres.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                }
            }
            Self::Down => database.crash(),
            Self::Mute(listener) => {
                database.crash();
                *listener = Some(TcpListener::bind(("127.0.0.1", database.server.port())).expect("the free port"));
            }
            Self::Standby => {
                // With this file in its data, a server starts as a standby.
                let data: String = database.ask("show data_directory").await;
                database.run(&format!("copy (select) to '{data}/standby.signal'")).await;
                tokio::task::block_in_place(|| database.server.stop(Stop::Fast));
                database.recover().await;
                assert!(database.ask::<bool>("select pg_is_in_recovery()").await);
            }
            Self::Crowded(crowd) => {
                *crowd = self::crowd(database, -FOR_THE_SUPERUSER).await;
                // What we leave behind is then the superuser's.
                assert!(database.end_our_sessions().await > 0);
            }
            Self::Full => {
                database.run(&format!("alter table {SCHEMA}.{table} set tablespace small")).await;
                database.run("create table filler (x text) tablespace small").await;
                let fill = "insert into filler select repeat('x', 1000) from generate_series(1, 100000)";
                let filled = database.owner.batch_execute(fill).await.expect_err("the disk to be full");
                assert_eq!(filled.code(), Some(&SqlState::DISK_FULL), "{filled:?}");
            }
        }
    }

    async fn ends(&mut self, database: &mut Database) {
        match self {
            Self::Statement { mend, .. } => run(database, mend).await,
            Self::Gone => {
                let (postgres, name) = (database.connect_to("postgres").await, &database.name);
                for sql in [
                    format!("alter database {name}_gone rename to {name}"),
                    format!("alter database {name} allow_connections true"),
                ] {
                    postgres.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                }
                database.owner = database.connect().await;
            }
            Self::Down => database.recover().await,
            Self::Mute(listener) => {
                *listener = None;
                database.recover().await;
            }
            Self::Standby => assert!(database.ask::<bool>("select pg_promote()").await),
            Self::Crowded(crowd) => crowd.clear(),
            Self::Full => database.run("drop table filler").await,
        }
    }
}

/// Runs a statement of the customer that shows at the next session.
async fn run(database: &Database, sql: &str) {
    let password = PASSWORD.replace('\'', "''");
    let sql = sql.replace("USER", &database.user).replace("DATABASE", &database.name).replace("PASSWORD", &password);
    database.run(&sql).await;
    database.end_our_sessions().await;
}

impl<'a> Patient<'a> {
    async fn new(api: &'a Api, name: String, (illness, code, words): Case) -> Self {
        let database = illness.database().await;
        Self::with(api, name, database, (illness, code, words)).await
    }

    /// Still in good health, and with its consumer started.
    async fn with(api: &'a Api, name: String, database: Database, (illness, code, words): Case) -> Self {
        database.make_table(&name).await;
        let target = json!({"name": name, "connection": database.connection()});
        api.post("/v1/targets", &target).await.expect(201);
        let filter = json!({"provider": HUBSPOT});
        let consumer = json!({"name": name, "target": name, "filter": filter, "schema": SCHEMA, "table": name});
        api.post("/v1/consumers", &consumer).await.expect(201);
        api.act(&format!("/v1/consumers/{name}/start")).await.expect(200);
        Self { api, name, database, illness, code, words }
    }

    async fn falls_ill(&mut self) {
        self.illness.breaks_out(&mut self.database, &self.name).await;
    }

    /// Waits until target and consumer say what is wrong with the target; returns since when.
    async fn complains(&self) -> DateTime<Utc> {
        let Self { api, name, words, .. } = self;
        let is_ill = |shown: &Value, state| shown["state"] == state && says(shown, "target_unhealthy", words);
        let consumer = api.consumer_is(name, &format!("waiting: {words}"), |shown| is_ill(shown, "waiting")).await;
        let target = api.target_is(name, &format!("unhealthy: {words}"), |shown| is_ill(shown, "unhealthy")).await;
        for shown in [&consumer, &target] {
            let reason = reason_with_cause(shown, "target_unhealthy");
            assert_eq!((&reason["target"], &reason["severity"]), (&json!(name), &json!("error")), "{reason}");
            let names_it = |summary: &str| summary.contains(&format!("target {name}"));
            assert!(reason["summary"].as_str().is_some_and(names_it), "{reason}");
        }
        if let Some(code) = self.code {
            let check = api.act(&format!("/v1/targets/{name}/check")).await.expect(200);
            assert_eq!((&check["ok"], &check["reason"]["code"]), (&json!(false), &json!(code)), "{check}");
        }
        since(reason_with_cause(&target, "target_unhealthy"))
    }

    /// An outage is one, however often it is looked whether it is over.
    async fn is_still_ill(&self, ill_since: DateTime<Utc>) {
        for shown in [self.api.target(&self.name).await, self.api.consumer(&self.name).await] {
            let reason = reason_with_cause(&shown, "target_unhealthy");
            assert_eq!(since(reason), ill_since, "{}: {shown}", self.words);
        }
    }

    async fn recovers(&mut self) {
        self.illness.ends(&mut self.database).await;
    }

    /// Waits until the consumer, which nobody helps, has everything, and all is well.
    async fn is_well(&self, model: &Model) {
        let expected = model.of_provider(HUBSPOT);
        eventually(&format!("table {} to be as it must ({})", self.name, self.words), async || {
            compare(&self.database.table(&self.name).await, &expected)
        })
        .await;
        self.api.is_well(&self.name).await;
        let target = self.api.target_state_is(&self.name, "healthy").await;
        assert_eq!(target["health"]["status"], "healthy", "{target}");
    }
}

/// Lets targets of one node fall ill, all at once, and recover, while another one is well. Records flow all the time.
async fn outlive(mut patients: Vec<Patient<'_>>, setup: &Setup) {
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..100, "before")).await;
    join_all(patients.iter().map(|patient| patient.is_well(&model))).await;
    join_all(patients.iter_mut().map(Patient::falls_ill)).await;
    setup.publish(&mut model, &contacts(50..6000, "during")).await;
    let ill_since = join_all(patients.iter().map(Patient::complains)).await;
    setup.hubspot_is_undisturbed(&model).await;
    setup.publish(&mut model, &contacts(0..300, "still")).await;
    setup.hubspot_is_undisturbed(&model).await;
    join_all(patients.iter().zip(ill_since).map(|(patient, since)| patient.is_still_ill(since))).await;
    join_all(patients.iter_mut().map(Patient::recovers)).await;
    join_all(patients.iter().map(|patient| patient.is_well(&model))).await;
    setup.publish(&mut model, &contacts(250..350, "after")).await;
    join_all(patients.iter().map(|patient| patient.is_well(&model))).await;
    setup.hubspot_is_undisturbed(&model).await;
}

async fn patients<const N: usize>(api: &Api, illnesses: [Case; N]) -> Vec<Patient<'_>> {
    let patients = illnesses.into_iter().enumerate().map(|(n, illness)| Patient::new(api, format!("ill{n}"), illness));
    join_all(patients).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_lets_nobody_in_or_takes_no_writes_waits_until_it_does() {
    let setup = Setup::new().await;
    let by = |cause, mend| Illness::Statement { cause, mend };
    let illnesses = [
        (
            by("alter role USER password 'another'", "alter role USER password 'PASSWORD'"),
            Some("authentication_failed"),
            "password authentication failed",
        ),
        (
            by("alter role USER nologin", "alter role USER login"),
            Some("authentication_failed"),
            "not permitted to log in",
        ),
        (
            by("alter role USER connection limit 0", "alter role USER connection limit -1"),
            Some("too_many_connections"),
            "too many connections for role",
        ),
        (
            by("revoke connect on database DATABASE from public, USER", "grant connect on database DATABASE to USER"),
            Some("insufficient_privilege"),
            "permission denied for database",
        ),
        (
            by(
                "alter database DATABASE set default_transaction_read_only = on",
                "alter database DATABASE set default_transaction_read_only = off",
            ),
            Some("read_only"),
            "only reads",
        ),
        (Illness::Gone, Some("database_missing"), "does not exist"),
    ];
    outlive(patients(&setup.node.api, illnesses).await, &setup).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_server_is_down_or_mute_or_full_or_a_standby_waits_until_it_no_longer_is() {
    let setup = Setup::new().await;
    let illnesses = [
        (Illness::Down, Some("connection_refused"), "refused"),
        // To check it would take twice as long again.
        (Illness::Mute(None), None, "timed out"),
        (Illness::Standby, Some("read_only"), "only reads"),
        (Illness::Crowded(Vec::new()), Some("too_many_connections"), "connection slots"),
    ];
    outlive(patients(&setup.node.api, illnesses).await, &setup).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_disk_is_full_waits_until_there_is_room_again() {
    let database = Database::on_own_server().await;
    let Some(_disk) = SmallDisk::as_tablespace_of(&database).await else { return };
    let setup = Setup::new().await;
    // Whoever asks is answered all the same: it shows when something is written.
    let illness = (Illness::Full, None, "No space left on device");
    let patient = Patient::with(&setup.node.api, "full".into(), database, illness).await;
    outlive(vec![patient], &setup).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_enough_to_go_on_with() {
    let setup = Setup::with(Node::start().await, Database::on_server_with(FEW).await).await;
    let mut model = Model::default();
    setup.publish(&mut model, &contacts(0..6000, "before")).await;
    setup.draft(HUBSPOT, &json!({"provider": HUBSPOT})).await;
    setup.database.make_table(HUBSPOT).await;
    let crowd = crowd(&setup.database, 1).await;
    setup.act(HUBSPOT, "start").await;
    setup.hubspot_is(&model).await;
    setup.node.api.is_well(HUBSPOT).await;
    setup.publish(&mut model, &contacts(3000..9000, "after")).await;
    setup.hubspot_is_undisturbed(&model).await;
    drop(crowd);
}

#[tokio::test]
async fn a_target_whose_settings_are_wrong_says_what_is_wrong_with_them() {
    let setup = Setup::new().await;
    let api = &setup.node.api;
    let nobody_listens = free_port();
    let wrong = [
        ("host", json!("nowhere.invalid"), "host_not_found", "lookup address"),
        ("port", json!(nobody_listens), "connection_refused", "refused"),
        ("database", json!("nothing"), "database_missing", "does not exist"),
        ("username", json!("nobody"), "authentication_failed", "authentication failed"),
        ("password", json!("wrong"), "authentication_failed", "authentication failed"),
        ("tls", json!({"mode": "require"}), "tls_not_offered", "offers no TLS"),
    ];
    for (setting, value, code, words) in wrong {
        let mut connection = setup.database.connection();
        connection[setting] = value;
        api.post("/v1/targets", &json!({"name": setting, "connection": connection})).await.expect(201);
        let is_down = |target: &Value| target["state"] == "unhealthy" && says(target, "target_unhealthy", words);
        let target = api.target_is(setting, &format!("unhealthy: {words}"), is_down).await;
        assert_eq!(reason_with_cause(&target, "target_unhealthy")["target"], setting, "{target}");
        let check = api.act(&format!("/v1/targets/{setting}/check")).await.expect(200);
        assert_eq!(check["reason"]["code"], code, "{check}");
    }
    api.target_state_is("app", "healthy").await;
}
