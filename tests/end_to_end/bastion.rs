//! Databases behind a bastion: a real sshd that lets us in and through, or doesn't, and what a person is told of it.

use std::net::{Ipv4Addr, TcpListener};

use sequin_actors::{
    EngineSettings, Inspector,
    model::{Bastion, Connection, Secret, Target},
    postgres::{Egress, Fault},
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::{
    database::Database,
    engine::{CameTo, Place, forwarding, of_provider, target},
    eventually, holds,
    model::{HUBSPOT, Model, compare, contact, sync},
    node::free_port,
    sshd::{PASSWORD, Sshd},
};

fn inspector() -> Inspector {
    Inspector::new(&EngineSettings::default())
}

/// The way to a database through a bastion.
fn through(database: &Database, bastion: Bastion) -> Connection {
    Connection { bastion: Some(bastion), ..target(database).connection }
}

/// Asserts that there is no way, and that a person is told why.
#[track_caller]
fn assert_says(fault: &Fault, code: &str, words: &[&str]) {
    assert_eq!(fault.code, code, "{fault}");
    for words in words {
        assert!(fault.summary.contains(words), "{words:?} in {fault}");
    }
    assert!(!fault.cause.is_empty() && !fault.fix.is_empty(), "{fault:?}");
}

async fn refused(connection: &Connection) -> Fault {
    inspector().check(connection, &[]).await.came_to().expect_err("no way through")
}

#[tokio::test]
async fn each_kind_of_private_key_leads_through_a_bastion() {
    let (database, sshd) = (Database::create().await, Sshd::start());
    let kinds: [(&str, &[&str], Option<&str>); 7] = [
        ("ed25519", &["-t", "ed25519"], None),
        ("encrypted", &["-t", "ed25519", "-N", "open sesame"], Some("open sesame")),
        ("rsa", &["-t", "rsa", "-b", "2048"], None),
        ("rsa-pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"], None),
        ("rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "open sesame"], Some("open sesame")),
        ("p256", &["-t", "ecdsa", "-b", "256", "-m", "PEM"], None),
        ("p384", &["-t", "ecdsa", "-b", "384"], None),
    ];
    for (name, how, _) in kinds {
        sshd.make_key(name, how);
    }
    sshd.authorise(&kinds.map(|(name, ..)| (name, "")));
    for (name, _, passphrase) in kinds {
        let private_key = Some(sshd.private_key(name));
        let bastion = Bastion { private_key, passphrase: passphrase.map(Secret::new), ..sshd.bastion() };
        let connection = through(&database, bastion);
        assert_eq!(inspector().check_settings(&connection).await, Ok(()), "{name}");
        inspector()
            .check(&connection, &[])
            .await
            .came_to()
            .unwrap_or_else(|fault| panic!("{name}: {fault}\n{}", sshd.log()));
    }
    assert_eq!(sshd.logins(), kinds.len());
}

#[tokio::test]
async fn a_password_leads_through_a_bastion_however_it_is_asked_for_and_a_wrong_one_does_not() {
    let asked = [
        "PasswordAuthentication yes\nKbdInteractiveAuthentication no",
        "PasswordAuthentication no\nKbdInteractiveAuthentication yes\nUsePAM yes",
    ];
    let database = Database::create().await;
    for asked in asked {
        let Some(sshd) = Sshd::with_passwords(asked) else {
            eprintln!("not tried: passwords for sshd take root, and the right to mount");
            return;
        };
        let by = |password: &str| {
            let password = Some(Secret::new(password));
            through(&database, Bastion { private_key: None, password, ..sshd.bastion() })
        };
        let checked = inspector().check(&by(PASSWORD), &[]).await.came_to();
        checked.unwrap_or_else(|fault| panic!("{asked}: {fault}\n{}", sshd.log()));
        let fault = refused(&by("a wrong one")).await;
        assert_says(&fault, "bastion_auth_failed", &["postgres", "with this password", &sshd.port().to_string()]);
        assert!(!format!("{fault:?}").contains("a wrong one"), "{fault:?}");
    }
    let both = "PasswordAuthentication yes\nAuthenticationMethods publickey,password";
    let sshd = Sshd::with_passwords(both).expect("as before");
    let with =
        |password: Option<&str>| through(&database, Bastion { password: password.map(Secret::new), ..sshd.bastion() });
    let checked = inspector().check(&with(Some(PASSWORD)), &[]).await.came_to();
    checked.unwrap_or_else(|fault| panic!("{both}: {fault}\n{}", sshd.log()));
    assert_says(&refused(&with(None)).await, "bastion_auth_failed", &["would take password"]);
}

#[tokio::test]
async fn a_bastion_that_shows_no_key_of_its_own_is_told_nothing_and_the_key_that_it_shows_is() {
    let (database, mut sshd) = (Database::create().await, Sshd::start());
    let known = sshd.bastion();
    let unknown = Bastion { host_key: None, ..known.clone() };
    let fault = refused(&through(&database, unknown.clone())).await;
    assert_says(&fault, "host_key_unconfirmed", &[&sshd.host_key(), "SHA256:", "127.0.0.1"]);
    assert_eq!(inspector().see_host_key(&unknown).await, Ok(sshd.host_key()));

    sshd.make_key("host", &["-t", "ed25519"]);
    sshd.restart();
    let fault = refused(&through(&database, known.clone())).await;
    assert_says(&fault, "bastion_host_key", &["which is not its host_key", &sshd.host_key()]);
    // A host that is known by one kind of key, and has only another.
    sshd.make_key("host", &["-t", "ecdsa"]);
    sshd.restart();
    let fault = refused(&through(&database, known.clone())).await;
    assert_says(&fault, "bastion_host_key", &["no key of the kind", "ecdsa-sha2-nistp256"]);
    assert_eq!(sshd.logins(), 0);

    let host_key = Some(format!("{}\n[bastion]:22 {} the new one", known.host_key.expect("a key"), sshd.host_key()));
    let either = Bastion { host_key, ..sshd.bastion() };
    inspector().check(&through(&database, either), &[]).await.came_to().expect("one of several keys");
}

#[tokio::test]
async fn whom_a_bastion_does_not_let_in_or_through_is_told_which_of_the_two() {
    let (database, sshd) = (Database::create().await, Sshd::start());
    for name in ["stranger", "revoked", "nowhere", "elsewhere"] {
        sshd.make_key(name, &["-t", "ed25519"]);
    }
    let options = [("user", ""), ("revoked", ""), ("nowhere", "restrict"), ("elsewhere", "permitopen=\"127.0.0.1:1\"")];
    sshd.authorise(&options);
    sshd.revoke("revoked");
    let server = format!("127.0.0.1:{}", database.server.port());
    let cases: [(&str, &str, &[&str]); 4] = [
        ("stranger", "bastion_auth_failed", &["with this private key"]),
        ("revoked", "bastion_auth_failed", &["with this private key"]),
        ("nowhere", "bastion_refused", &["permits no forwarding", &server]),
        ("elsewhere", "bastion_refused", &["permits no forwarding", &server]),
    ];
    for (name, code, words) in cases {
        let bastion = Bastion { private_key: Some(sshd.private_key(name)), ..sshd.bastion() };
        assert_says(&refused(&through(&database, bastion)).await, code, words);
    }
    let nobody_listens = free_port();
    let connection = Connection { port: nobody_listens, ..through(&database, sshd.bastion()) };
    let fault = refused(&connection).await;
    assert_says(&fault, "bastion_refused", &["can't connect to", &format!("127.0.0.1:{nobody_listens}")]);
    assert!(fault.fix.contains("database runs"), "{fault:?}");
}

#[tokio::test]
async fn settings_of_a_bastion_that_can_not_be_used_are_told_by_field_before_anything_is_connected() {
    let (database, sshd) = (Database::create().await, Sshd::start());
    sshd.make_key("encrypted", &["-t", "ed25519", "-N", "open sesame"]);
    sshd.make_key("encrypted-pem", &["-t", "ecdsa", "-m", "PKCS8", "-N", "open sesame"]);
    sshd.make_key("small", &["-t", "rsa", "-b", "1024"]);
    let with = |name: &str, passphrase: Option<&str>| Bastion {
        private_key: Some(sshd.private_key(name)),
        passphrase: passphrase.map(Secret::new),
        ..sshd.bastion()
    };
    let nonsense = Bastion { private_key: Some(Secret::new("nonsense")), ..sshd.bastion() };
    let no_host_key = Bastion { host_key: Some("ssh-ed25519".into()), ..sshd.bastion() };
    let wrong = [
        (with("encrypted", None), "connection.bastion.passphrase", "is needed"),
        (with("encrypted", Some("open barley")), "connection.bastion.passphrase", "does not open"),
        (with("encrypted-pem", None), "connection.bastion.passphrase", "is needed"),
        (with("encrypted-pem", Some("open barley")), "connection.bastion.passphrase", "does not open"),
        (with("small", None), "connection.bastion.private_key", "1024 bits"),
        (nonsense, "connection.bastion.private_key", "is none"),
        (no_host_key, "connection.bastion.host_key", "line 1 is no public key"),
    ];
    for (bastion, field, words) in wrong {
        let connection = through(&database, bastion);
        let error = inspector().check_settings(&connection).await.expect_err(words);
        assert!(error.field == field && error.message.contains(words), "{error}");
        // A document that says so, as by another release.
        let fault = refused(&connection).await;
        assert_says(&fault, "bad_settings", &[field, words]);
        assert!(!format!("{fault:?}{error:?}").contains("open barley"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_bastion_that_is_not_there_or_no_bastion_or_too_old_is_told_apart() {
    let (database, sshd) = (Database::create().await, Sshd::start());
    let gone = Bastion { port: free_port(), ..sshd.bastion() };
    let fault = refused(&through(&database, gone.clone())).await;
    assert_says(&fault, "bastion_unreachable", &["refused", &gone.port.to_string()]);
    let unnamed = Bastion { host: "nowhere.invalid".into(), ..sshd.bastion() };
    assert_says(&refused(&through(&database, unnamed)).await, "bastion_unreachable", &["nowhere.invalid", "lookup"]);

    let old = Sshd::with("KexAlgorithms diffie-hellman-group14-sha1");
    let fault = refused(&through(&database, old.bastion())).await;
    assert_says(&fault, "bastion_algorithms", &["diffie-hellman-group14-sha1"]);
    let old = Sshd::with("Ciphers aes128-cbc,3des-cbc");
    assert_says(&refused(&through(&database, old.bastion())).await, "bastion_algorithms", &["aes128-cbc"]);

    let denied = "127.0.0.0/8,::1".parse().expect("networks");
    let settings = EngineSettings { egress: Egress { denied, ..Egress::default() }, ..EngineSettings::default() };
    let by_name = Bastion { host: "localhost".into(), ..sshd.bastion() };
    for (bastion, words) in [(sshd.bastion(), "127.0.0.1"), (by_name, "localhost")] {
        let connection = Connection { host: "db.example.com".into(), ..through(&database, bastion.clone()) };
        let inspector = Inspector::new(&settings);
        assert_says(
            &inspector.check(&connection, &[]).await.came_to().expect_err("denied"),
            "address_denied",
            &["bastion", words],
        );
        assert_says(&inspector.see_host_key(&bastion).await.expect_err("denied"), "address_denied", &[words]);
    }
    assert_eq!(sshd.logins(), 0);
}

#[tokio::test]
async fn what_answers_and_speaks_no_ssh_is_no_bastion() {
    let database = Database::create().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let answers = std::thread::spawn(move || {
        use std::io::Write;
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").expect("an answer");
    });
    let sshd = Sshd::start();
    let fault = refused(&through(&database, Bastion { port, ..sshd.bastion() })).await;
    assert_says(&fault, "bastion_unreachable", &["the connection broke off", &port.to_string()]);
    answers.join().expect("it has answered");
}

/// Sessions that come one after the other, and at once, are channels of one connection; once that is cut they end, and those
/// that come then are in another.
#[test]
fn when_a_bastion_is_killed_in_mid_stream_the_consumer_waits_and_then_catches_up() {
    const RECORDS: u128 = 400;
    let runtime = Runtime::new().expect("a runtime");
    let database = runtime.block_on(Database::create());
    runtime.block_on(database.make_table(HUBSPOT));
    let mut sshd = Sshd::start();
    let reached = Target { connection: through(&database, sshd.bastion()), ..target(&database) };
    let mut place = Place::to(&reached, &[forwarding(HUBSPOT, of_provider(HUBSPOT))]);
    let mut model = Model::default();
    let mut publish = |place: &mut Place, state: &str| {
        let versions: Vec<_> = (0..RECORDS).map(|number| contact(sync(number % 3), number, json!(state))).collect();
        model.publish(&versions);
        place.publish(&versions)
    };
    let before = publish(&mut place, "before");
    place.start(3, 1 << 20);
    place.reaches(&[before]);
    assert_eq!(sshd.logins(), 1, "one connection:\n{}", sshd.log());

    sshd.kill();
    let after = publish(&mut place, "while it is gone");
    place.target_says("can't be reached");
    sshd.restart();
    place.reaches(&[after]);
    let table = runtime.block_on(database.table(HUBSPOT));
    assert_eq!(compare(&table, &model.of_provider(HUBSPOT)), Ok(()));

    // Nothing of it stays once nobody needs it: of all connections, the one that was killed had no time to say so.
    place.stop();
    runtime.block_on(eventually("the connections to the bastion to end", async || {
        let log = sshd.log();
        // Said of those alone that had logged in.
        let ended = log.lines().filter(|line| line.starts_with("Closing connection to ")).count();
        let began = sshd.logins();
        holds(ended == began - 1, || format!("{began} began and {ended} ended:\n{log}"))
    }));
    place.cut_off();
}
