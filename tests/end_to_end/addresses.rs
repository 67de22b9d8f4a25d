//! Where a database is: IPv6, several servers of which one takes writes, a Unix socket, and where nobody may connect to.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    sync::mpsc,
    thread,
};

use sequin::demo::postgres::ThrowawayPostgres;
use sequin_actors::{
    EngineSettings, Inspector,
    model::{Connection, Tls, TlsMode},
    postgres::Egress,
};

use crate::support::{
    database::{Database, PASSWORD, connect},
    engine::{CameTo, target},
    node::free_port,
};

fn inspector(denied: &str) -> Inspector {
    let denied = denied.parse().expect("networks");
    Inspector::new(&EngineSettings { egress: Egress { denied, ..Egress::default() }, ..EngineSettings::default() })
}

/// A server that takes no writes, as a replica, and has the same user and the same database.
async fn replica_of(database: &Database) -> ThrowawayPostgres {
    let replica = ThrowawayPostgres::with_settings(&[("default_transaction_read_only", "on")]).expect("a server");
    let owner = connect(&replica.url("postgres")).await;
    let Database { name, user, .. } = database;
    let password = PASSWORD.replace('\'', "''");
    for statement in [
        "set default_transaction_read_only = off".to_owned(),
        format!("create user {user} password '{password}'"),
        format!("create database {name}"),
    ] {
        owner.batch_execute(&statement).await.expect("a database on the replica");
    }
    replica
}

#[tokio::test]
async fn a_database_is_reached_by_ipv6_and_by_the_socket_on_its_machine() {
    let database = Database::on_server_with(&[("listen_addresses", "127.0.0.1,::1")]).await;
    let (port, own) = (database.server.port(), target(&database).connection);
    let directory: String = database.ask("show unix_socket_directories").await;
    let mut hosts = vec![directory.clone()];
    // Not every machine has IPv6.
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        hosts.extend(["::1".to_owned(), "[::1]".to_owned(), format!("[::1]:{port}")]);
    }
    for host in hosts {
        let connection = Connection { host: host.clone(), ..own.clone() };
        inspector("").check(&connection, &[]).await.came_to().unwrap_or_else(|fault| panic!("{host}: {fault}"));
    }
    // On one machine there is nobody to hide from, whatever is demanded elsewhere.
    let tls = Tls { mode: TlsMode::VerifyFull, ..Tls::default() };
    let connection = Connection { host: directory.clone(), tls, ..own.clone() };
    inspector("").check(&connection, &[]).await.came_to().expect("a session");

    let connection = Connection { host: directory.clone(), ..own.clone() };
    let fault = inspector("127.0.0.0/8").check(&connection, &[]).await.came_to().expect_err("denied");
    assert_eq!(fault.code, "address_denied", "{fault}");
    let connection = Connection { host: "/nowhere".into(), ..own };
    let fault = inspector("").check(&connection, &[]).await.came_to().expect_err("no socket");
    assert!(fault.summary.contains(&format!("/nowhere/.s.PGSQL.{port}")), "{fault}");
}

#[tokio::test]
async fn of_several_servers_the_first_that_takes_writes_is_the_one_and_else_each_is_told_of() {
    let database = Database::create().await;
    let replica = replica_of(&database).await;
    let own = target(&database).connection;
    let at = |ports: &[u16]| {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Connection { host: hosts.join(","), ..own.clone() }
    };
    let (gone, primary) = (free_port(), database.server.port());
    inspector("").check(&at(&[gone, replica.port(), primary]), &[]).await.came_to().expect("the primary");

    let fault = inspector("").check(&at(&[replica.port(), gone]), &[]).await.came_to().expect_err("no primary");
    assert_eq!(fault.code, "read_only", "{fault}");
    let expected = [format!("127.0.0.1:{}: the server only reads", replica.port()), format!("127.0.0.1:{gone}: ")];
    assert!(expected.iter().all(|words| fault.summary.contains(words)), "{fault}");

    // A password that is wrong at the one is tried at no other, where it would be right.
    let owner = connect(&replica.url("postgres")).await;
    for statement in [
        "set default_transaction_read_only = off".to_owned(),
        format!("alter user {} password 'another'", database.user),
    ] {
        owner.batch_execute(&statement).await.expect("another password on the replica");
    }
    let fault =
        inspector("").check(&at(&[replica.port(), primary]), &[]).await.came_to().expect_err("a wrong password");
    assert_eq!(fault.code, "authentication_failed", "{fault}");
}

#[tokio::test]
async fn who_gave_the_last_session_is_asked_first_for_the_next() {
    let database = Database::create().await;
    let turns_away = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = turns_away.local_addr().expect("its address").port();
    let (knocks, heard) = mpsc::channel();
    thread::spawn(move || {
        for client in turns_away.incoming() {
            // Before the client hears of it.
            knocks.send(()).expect("the test");
            drop(client);
        }
    });
    let host = format!("127.0.0.1:{port},127.0.0.1:{}", database.server.port());
    let connection = Connection { host, ..target(&database).connection };
    inspector("").check(&connection, &[]).await.came_to().expect("the other server");
    // The check looks who listens, and then opens three sessions, the last two of them where the first was.
    assert_eq!(heard.try_iter().count(), 2);
}

#[tokio::test]
async fn nobody_connects_to_a_denied_network_by_address_or_by_whatever_name_leads_there() {
    let database = Database::create().await;
    let own = target(&database).connection;
    let denied = inspector("127.0.0.0/8,::1");
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "0.0.0.0", "2130706433"] {
        let fault =
            denied.check(&Connection { host: host.into(), ..own.clone() }, &[]).await.came_to().expect_err("denied");
        assert_eq!(fault.code, "address_denied", "{host}: {fault}");
        assert!(fault.summary.contains(host) && fault.fix.contains("ask the operator"), "{fault:?}");
    }
    // Where one of two is allowed, that one is it.
    let named = Connection { host: "localhost".into(), ..own.clone() };
    inspector("::1").check(&named, &[]).await.came_to().expect("the other address");
    let metadata = Connection { host: "169.254.169.254".into(), ..own };
    let fault = Inspector::new(&EngineSettings::default())
        .check(&metadata, &[])
        .await
        .came_to()
        .expect_err("denied by default");
    assert_eq!(fault.code, "address_denied", "{fault}");
}
