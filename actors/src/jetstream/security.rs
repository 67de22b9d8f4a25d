//! Coming in to servers that do not let everybody in: each way that the settings know, against real servers.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair as TlsKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    tests::{Nats, settings},
    *,
};

async fn refusal(settings: &NatsSettings) -> String {
    let error = JetStream::connect(settings, "sequin").await.err().expect("it is not let in");
    assert!(matches!(error, JetStreamError::Connect { .. }), "{error}");
    format!("{error} {error:?}")
}

/// Comes in, and may use JetStream.
async fn comes_in(settings: &NatsSettings) {
    let connection = JetStream::connect(settings, "sequin").await.expect("it is let in");
    connection.ask::<serde::de::IgnoredAny>("INFO", &()).await.expect("an answer");
}

#[tokio::test]
async fn a_key_is_let_in_and_no_other_and_no_seed_is_printed() {
    let (ours, theirs) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", ours.public_key());
    let nats = Nats::start_with(1, &users, "");
    let seed = |key: &KeyPair| key.seed().expect("a seed");
    let with = |seed: String| NatsSettings { login: NatsLogin::NkeySeed(Secret::new(seed)), ..settings(&nats) };
    comes_in(&with(seed(&ours))).await;
    let refused = with(seed(&theirs));
    let said = refusal(&refused).await + &format!("{refused:?}");
    assert!(!said.contains(&seed(&theirs)), "{said}");
    refusal(&settings(&nats)).await;
}

/// An authority, a server's certificate and a client's, in files.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = || TlsKey::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let write = |name: &str, text: String| fs::write(directory.path().join(name), text).expect("a file");
        write("ca.pem", authority.pem());
        for name in ["server", "client"] {
            let key = key();
            let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address");
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        Self(directory)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a server is told of them.
    fn server(&self, more: &str) -> String {
        let [certificate, key, authority] = ["server.pem", "server-key.pem", "ca.pem"].map(|name| self.file(name));
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {authority:?}, {more} }}")
    }
}

fn by_tls(nats: &Nats, authority: Option<PathBuf>) -> NatsSettings {
    NatsSettings { servers: vec![format!("tls://127.0.0.1:{}", nats.port(0))], ca_file: authority, ..settings(nats) }
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_by_no_other() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let nats = Nats::start_with(1, &certificates.server(""), "");
    let authority = certificates.file("ca.pem");
    comes_in(&by_tls(&nats, Some(authority.clone()))).await;
    // It asks for TLS by itself.
    comes_in(&NatsSettings { ca_file: Some(authority), ..settings(&nats) }).await;
    for other in [None, Some(others.file("ca.pem"))] {
        let said = refusal(&by_tls(&nats, other)).await;
        assert!(said.contains("certificate"), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let certificates = Certificates::new();
    let nats = Nats::start_with(1, &certificates.server("verify: true"), "");
    let without = by_tls(&nats, Some(certificates.file("ca.pem")));
    refusal(&without).await;
    let [cert_file, key_file] = ["client.pem", "client-key.pem"].map(|name| Some(certificates.file(name)));
    comes_in(&NatsSettings { cert_file, key_file, ..without }).await;
}

#[tokio::test]
async fn a_server_without_tls_is_not_talked_to_in_clear_when_tls_is_asked_for() {
    let certificates = Certificates::new();
    let nats = Nats::start();
    refusal(&by_tls(&nats, Some(certificates.file("ca.pem")))).await;
}

/// What `signer` says of `subject`, as `nsc` would write it.
fn token(signer: &KeyPair, subject: &KeyPair, name: &str, says: &Value) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": signer.public_key(), "sub": subject.public_key(), "name": name,
        "nats": says,
    });
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let signature = signer.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn credentials(file: &Path, token: &str, user: &KeyPair) {
    let seed = user.seed().expect("a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(file, text).expect("a file");
}

#[tokio::test]
async fn a_file_with_credentials_is_let_in_and_one_that_nobody_has_signed_is_not() {
    let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let mut with_jetstream = limits.clone();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        with_jetstream[limit] = json!(-1);
    }
    let of_account = |key, limits: &Value| {
        token(&operator, key, "account", &json!({"type": "account", "version": 2, "limits": limits}))
    };
    let configuration = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}",
        token(&operator, &operator, "operator", &json!({"type": "operator", "version": 2})),
        system.public_key(),
        system.public_key(),
        of_account(&system, &limits),
        account.public_key(),
        of_account(&account, &with_jetstream),
    );
    let nats = Nats::start_with(1, &configuration, "");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sequin.creds");
    let of_user = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let with_file = NatsSettings { login: NatsLogin::CredentialsFile(file.clone()), ..settings(&nats) };
    credentials(&file, &token(&account, &user, "sequin", &of_user), &user);
    comes_in(&with_file).await;
    credentials(&file, &token(&stranger, &user, "sequin", &of_user), &user);
    refusal(&with_file).await;
    fs::remove_file(&file).expect("removed");
    let missing = JetStream::connect(&with_file, "sequin").await.err().expect("no credentials").to_string();
    assert!(missing.contains("sequin.creds"), "{missing}");
}
