//! TLS, with a real server: which certificates each mode takes, and what a person reads of those it does not.

use sequin_actors::{
    model::{ChannelBinding, Connection, Secret, Tls, TlsMode},
    postgres::{Egress, Fault, Visitor},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{
    certificates::{Authority, Identity, Secured, Valid, self_signed, self_signed_of_version_1},
    database::Database,
    engine::{CameTo, target},
    proxy::Proxy,
};

const HOST: &str = "127.0.0.1";

const NO_TLS: &str = "tls_not_offered";
const UNTRUSTED: &str = "tls_untrusted";
const EXPIRED: &str = "tls_expired";
const WRONG_NAME: &str = "tls_wrong_name";

async fn visit(connection: &Connection) -> Result<(), Fault> {
    Visitor::new("sequin/test".into(), Egress::default()).check(connection, &[]).await.came_to().map(drop)
}

fn with(database: &Database, tls: &Tls) -> Connection {
    Connection { tls: tls.clone(), ..target(database).connection }
}

fn tls(mode: TlsMode, ca_pem: Option<&str>) -> Tls {
    Tls { mode, ca_pem: ca_pem.map(str::to_owned), ..Tls::default() }
}

fn showing(identity: &Identity) -> Secured<'_> {
    Secured { identity: Some(identity), ..Secured::default() }
}

/// Visits with the modes that verify, and compares how that ended. Returns what they said.
async fn verified(database: &Database, ca_pem: Option<&str>, ca: Option<&str>, full: Option<&str>) -> [String; 2] {
    let mut said = [String::new(), String::new()];
    for (said, (mode, expected)) in said.iter_mut().zip([(TlsMode::VerifyCa, ca), (TlsMode::VerifyFull, full)]) {
        let outcome = visit(&with(database, &tls(mode, ca_pem))).await;
        let code = outcome.as_ref().err().map(|fault| fault.code);
        assert_eq!(code, expected, "{mode:?}: {outcome:?}");
        *said = outcome.err().map(|fault| fault.summary).unwrap_or_default();
    }
    said
}

/// Visits with the modes that don't verify; with an authority, `require` does, as in libpq.
async fn not_verified(database: &Database, ca_pem: &str, ca: Option<&str>) {
    for (mode, ca_pem, expected) in [
        (TlsMode::Disable, Some(ca_pem), None),
        (TlsMode::Prefer, Some(ca_pem), None),
        (TlsMode::Require, None, None),
        (TlsMode::Require, Some(ca_pem), ca),
    ] {
        let outcome = visit(&with(database, &tls(mode, ca_pem))).await;
        assert_eq!(outcome.as_ref().err().map(|fault| fault.code), expected, "{mode:?}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_takes_what_libpqs_does_and_says_which_certificate_it_refuses_and_why() {
    let database = Database::on_own_server().await;
    let (ours, others) = (Authority::new("Our CA"), Authority::new("Other CA"));
    let ca = ours.pem();
    let ca = Some(ca.as_str());

    let right = ours.signs("db", &[HOST], Valid::Now);
    database.secure(showing(&right)).await;
    verified(&database, ca, None, None).await;
    not_verified(&database, &ours.pem(), None).await;
    not_verified(&database, &others.pem(), Some(UNTRUSTED)).await;
    let [said, _] = verified(&database, Some(&others.pem()), Some(UNTRUSTED), Some(UNTRUSTED)).await;
    let expected = "the server's certificate (CN=db, signed by CN=Our CA, valid until 3000-01-01 00:00:00 UTC) leads to CN=Our \
                    CA, which is not among those that are trusted: CN=Other CA";
    assert!(said.ends_with(expected), "{said}");
    let [said, _] = verified(&database, None, Some(UNTRUSTED), Some(UNTRUSTED)).await;
    assert!(said.ends_with("those of this system, since the target has no ca_pem"), "{said}");

    // A new authority of the old name.
    let [said, _] = verified(&database, Some(&Authority::new("Our CA").pem()), Some(UNTRUSTED), Some(UNTRUSTED)).await;
    assert!(said.contains("one of that name, but with another key, is trusted"), "{said}");

    for (valid, why) in [
        (Valid::Before, "expired at 2021-01-01 00:00:00 UTC"),
        (Valid::Later, "is valid only from 3000-01-01 00:00:00 UTC"),
    ] {
        database.secure(showing(&ours.signs("db", &[HOST], valid))).await;
        let [said, _] = verified(&database, ca, Some(EXPIRED), Some(EXPIRED)).await;
        assert!(said.ends_with(&format!(": the server's certificate (CN=db, signed by CN=Our CA) {why}")), "{said}");
    }

    database.secure(showing(&ours.signs("db", &["db.internal", "db-2.internal"], Valid::Now))).await;
    let [_, said] = verified(&database, ca, None, Some(WRONG_NAME)).await;
    assert!(said.ends_with("is for db.internal, db-2.internal, and not for 127.0.0.1"), "{said}");

    database.secure(showing(&ours.signs(HOST, &[], Valid::Now))).await;
    let [_, said] = verified(&database, ca, None, Some(WRONG_NAME)).await;
    assert!(
        said.ends_with(
            "is for no host, and so not for 127.0.0.1: it has no subjectAltName, and its CN is not looked at"
        ),
        "{said}"
    );

    let between = ours.below("In between").signs("db", &[HOST], Valid::Now);
    database.secure(showing(&between)).await;
    verified(&database, ca, None, None).await;
    let alone = between.certificate.split_inclusive("-----END CERTIFICATE-----").next().expect("a certificate");
    database.secure(showing(&Identity { certificate: alone.into(), ..between.clone() })).await;
    let [said, _] = verified(&database, ca, Some(UNTRUSTED), Some(UNTRUSTED)).await;
    assert!(said.contains("leads to CN=In between, which is not among"), "{said}");

    // What has signed itself is its own authority, whether it may sign others or not.
    for is_authority in [false, true] {
        let own = self_signed("db", &[HOST], is_authority);
        database.secure(showing(&own)).await;
        verified(&database, Some(&own.certificate), None, None).await;
        let [said, _] = verified(&database, ca, Some(UNTRUSTED), Some(UNTRUSTED)).await;
        assert!(said.contains("(CN=db, signed by itself, valid until 3000"), "{said}");
        assert!(said.contains("is signed by nobody else"), "{said}");
    }

    // One of version 1 has no place for names. By its key it is known all the same.
    let old = self_signed_of_version_1("db");
    database.secure(showing(&old)).await;
    visit(&with(&database, &tls(TlsMode::Require, None))).await.expect("a session");
    let [_, said] = verified(&database, Some(&old.certificate), None, Some(UNTRUSTED)).await;
    assert!(said.ends_with("is of X.509's version 1, which can't be verified"), "{said}");

    database.secure(Secured::default()).await;
    for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let fault = visit(&with(&database, &tls(mode, ca))).await.expect_err("no TLS");
        assert_eq!(fault.code, NO_TLS);
        assert!(fault.summary.ends_with(": the server offers no TLS, which tls.mode demands"), "{fault:?}");
    }
    visit(&with(&database, &tls(TlsMode::Prefer, ca))).await.expect("a session without TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_a_certificate_lets_in_who_has_the_right_one_and_the_others_read_why_not() {
    let database = Database::on_own_server().await;
    let (ours, clients) = (Authority::new("Our CA"), Authority::new("Clients CA"));
    let server = ours.signs("db", &[HOST], Valid::Now);
    let (clients_of, revoked) = (clients.pem(), clients.revokes("certified"));
    let secured = Secured {
        identity: Some(&server),
        clients_of: Some(&clients_of),
        by_certificate: Some("certified"),
        ..Secured::default()
    };
    database.secure(secured).await;
    database.run("create role certified login").await;

    let visit_as = async |identity: Option<&Identity>| {
        let tls = Tls {
            client_cert_pem: identity.map(|identity| identity.certificate.clone()),
            client_key_pem: identity.map(|identity| Secret::new(&identity.key)),
            ..tls(TlsMode::VerifyFull, Some(&ours.pem()))
        };
        visit(&Connection { username: "certified".into(), password: None, ..with(&database, &tls) }).await
    };
    let right = clients.signs("certified", &[], Valid::Now);
    visit_as(Some(&right)).await.expect("a session by certificate alone");
    visit_as(Some(&clients.below("In between").signs("certified", &[], Valid::Now))).await.expect("the same");

    for (identity, why, ours) in [
        (None, "connection requires a valid client certificate", "the target has none"),
        (Some(clients.signs("somebody", &[], Valid::Now)), "certificate authentication failed", "ours is CN=somebody"),
        (
            Some(Authority::new("Nobody's CA").signs("certified", &[], Valid::Now)),
            "the server refused our certificate: it does not trust the authority that signed it",
            "ours is CN=certified, signed by CN=Nobody's CA, valid until 3000-01-01 00:00:00 UTC",
        ),
        (
            Some(clients.signs("certified", &[], Valid::Before)),
            "the server refused our certificate: it has expired, or is not valid yet",
            "valid until 2021-01-01 00:00:00 UTC",
        ),
    ] {
        let fault = visit_as(identity.as_ref()).await.expect_err("refused");
        assert_eq!(fault.code, "client_certificate_refused", "{fault:?}");
        assert!(fault.summary.contains(why) && fault.summary.contains(ours), "{fault:?}");
    }

    database.secure(Secured { revoked: Some(&revoked), ..secured }).await;
    let fault = visit_as(Some(&right)).await.expect_err("refused");
    assert_eq!(fault.code, "client_certificate_refused", "{fault:?}");
    assert!(fault.summary.contains("it was revoked; ours is CN=certified, signed by CN=Clients CA"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_else_is_agreed_on_is_a_name_behind_a_proxy_a_version_and_channel_binding() {
    let database = Database::on_own_server().await;
    let ours = Authority::new("Our CA");
    let server = ours.signs("db", &["db.internal"], Valid::Now);
    database.secure(Secured { asks_for_passwords: true, ..showing(&server) }).await;
    let full = tls(TlsMode::VerifyFull, Some(&ours.pem()));

    // By a proxy, whose name is not the database's.
    let proxy = Proxy::before(database.server.port());
    let by_proxy = |tls: Tls| Connection { port: proxy.port(), ..with(&database, &tls) };
    assert_eq!(visit(&by_proxy(full.clone())).await.expect_err("another name").code, WRONG_NAME);
    let named = Tls { server_name: Some("db.internal".into()), ..full.clone() };
    visit(&by_proxy(named.clone())).await.expect("the name of the certificate");
    let misnamed = Tls { server_name: Some("db.external".into()), ..full };
    let fault = visit(&by_proxy(misnamed)).await.expect_err("another name");
    assert!(fault.summary.ends_with("is for db.internal, and not for db.external"), "{fault:?}");

    // Channel binding, which the server offers with TLS and SCRAM.
    let bound = |channel_binding, mode| Tls { channel_binding, mode, ..named.clone() };
    for channel_binding in [ChannelBinding::Disable, ChannelBinding::Prefer, ChannelBinding::Require] {
        visit(&with(&database, &bound(channel_binding, TlsMode::VerifyFull))).await.expect("a session");
    }
    let hashed_otherwise = format!("set password_encryption = 'md5'; alter role {} password 'old'", database.user);
    database.run(&hashed_otherwise).await;
    let with_md5 = |channel_binding| Connection {
        password: Some(Secret::new("old")),
        ..with(&database, &bound(channel_binding, TlsMode::VerifyFull))
    };
    visit(&with_md5(ChannelBinding::Prefer)).await.expect("a session without channel binding");
    let fault = visit(&with_md5(ChannelBinding::Require)).await.expect_err("no channel binding");
    assert!(fault.summary.ends_with("did not use channel binding, which tls.channel_binding demands"), "{fault:?}");
    assert!(fault.cause.contains("scram-sha-256"), "{fault:?}");
    let fault = visit(&Connection { password: None, ..with(&database, &named) }).await.expect_err("no password");
    assert_eq!((fault.code, fault.fix), ("authentication_failed", "set the target's password, or its password_file"));
    let fault = visit(&with(&database, &bound(ChannelBinding::Require, TlsMode::Disable))).await.expect_err("no TLS");
    assert_eq!(fault.summary, "connection.tls.channel_binding takes TLS, which tls.mode disables");

    // What answers to the offer, and has no TLS.
    let listener = TcpListener::bind((HOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // Who only looks whether somebody listens asks nothing.
            if client.read_exact(&mut [0; 8]).await.is_ok() {
                client.write_all(b"SHTTP/1.1 400 Bad Request\r\n\r\n").await.expect("said");
                drop(client.read_to_end(&mut Vec::new()).await);
            }
        }
    });
    let fault = visit(&Connection { port, ..with(&database, &named) }).await.expect_err("no TLS");
    assert_eq!(fault.code, "tls_failed");
    assert!(fault.summary.ends_with(": what answers offers TLS, and then speaks something else"), "{fault:?}");
}
