//! The way to a database as people write it and read it: by the API, by URLs, by the command line and in files. Every setting
//! is shown as it was given, but for secrets, and what can't be is refused by the name of its field.

use std::{path::Path, process::Command};

use sequin_actors::model::Secret;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    model::HUBSPOT,
    node::{Node, free_port},
    setup::Setup,
    sshd::Sshd,
};

/// Secrets that nothing may show.
pub(crate) const PASSPHRASE: &str = "open-sesame-4711";
const SECRETS: [&str; 3] = [PASSPHRASE, "PRIVATE KEY", "hunter2"];

/// A public key of a host.
pub(crate) const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1IoFjHEfYYTqnpUYM2DzrzdgcI5EYD3pR1cIBFVbNm";

/// Keys and certificates of somebody who sets up a target.
pub(crate) struct Papers {
    directory: TempDir,
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) ssh_key: String,
}

impl Papers {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(["db.example.com".to_owned()]).expect("a certificate");
        let papers = Self {
            ssh_key: ssh_key(&directory.path().join("ssh_key")),
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            directory,
        };
        papers.write("certificate", &papers.certificate);
        papers.write("key", &papers.key);
        papers.write("host_keys", &format!("bastion.example.com {HOST_KEY}\n"));
        papers.write("passphrase", &format!("{PASSPHRASE}\n"));
        papers
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn bastion(&self) -> Value {
        json!({
            "host": "bastion.example.com", "port": 2222, "username": "tunnel", "private_key": self.ssh_key,
            "passphrase": PASSPHRASE, "host_key": HOST_KEY, "trust_on_first_use": false,
        })
    }

    fn tls(&self) -> Value {
        json!({
            "mode": "verify-full", "ca_pem": self.certificate, "client_cert_pem": self.certificate,
            "client_key_pem": self.key, "server_name": "db.example.com", "channel_binding": "require",
        })
    }

    pub(crate) fn target(&self, name: &str) -> Value {
        let connection = json!({
            "host": "db-1,db-2:6432,[::1]:5433", "port": 5433, "database": "app", "username": "sequin", "password": "hunter2",
            "tls": self.tls(), "bastion": self.bastion(),
        });
        json!({"name": name, "connection": connection, "limits": limits()})
    }
}

fn limits() -> Value {
    json!({
        "max_records_per_second": 500, "statement_timeout_seconds": 30, "lock_timeout_seconds": 5,
        "max_replica_lag_seconds": 60, "max_connections_percent": 80,
    })
}

/// A key that is encrypted with the passphrase.
fn ssh_key(path: &Path) -> String {
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-a", "1", "-N", PASSPHRASE, "-f"]).arg(path).status();
    assert!(made.expect("ssh-keygen").success());
    std::fs::read_to_string(path).expect("a key")
}

/// What is shown where this was given: secrets are null, and it is said that they are there.
fn shown(given: &Value, secrets: &[&str]) -> Value {
    let mut shown = given.clone();
    for secret in secrets {
        shown[format!("{secret}_set")] = json!(given.get(secret).is_some_and(|given| !given.is_null()));
        shown[*secret] = Value::Null;
    }
    shown
}

#[track_caller]
pub(crate) fn no_secret_in(said: &str) {
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret} is in {said}");
    }
}

#[tokio::test]
async fn each_setting_of_the_way_to_a_database_is_shown_but_secrets_and_null_takes_it_back() {
    let (node, papers) = (Node::start().await, Papers::new());
    let api = &node.api;
    let made = api.post("/v1/targets", &papers.target("app")).await.expect(201);
    let bastion = shown(&papers.bastion(), &["private_key", "passphrase", "password"]);
    let expected = (bastion, shown(&papers.tls(), &["client_key_pem"]), limits());
    let is = |target: &Value| {
        let connection = &target["connection"];
        (connection["bastion"].clone(), connection["tls"].clone(), target["limits"].clone())
    };
    assert_eq!(is(&made), expected);
    assert_eq!(is(&api.target("app").await), expected);
    assert_eq!(made["connection"]["host"], "db-1,db-2:6432,[::1]:5433");
    no_secret_in(&made.to_string());

    let patch = async |connection: Value| {
        let patched = api.patch("/v1/targets/app", &json!({"connection": connection})).await.expect(200);
        no_secret_in(&patched.to_string());
        patched["connection"].clone()
    };
    // What is not named stays.
    let patched = patch(json!({"bastion": {"port": null, "username": "other"}, "tls": {"server_name": null}})).await;
    let mut bastion = expected.0.clone();
    (bastion["port"], bastion["username"]) = (json!(22), json!("other"));
    assert_eq!(patched["bastion"], bastion);
    assert_eq!((&patched["tls"]["server_name"], &patched["tls"]["mode"]), (&Value::Null, &json!("verify-full")));
    assert_eq!(patched["tls"]["client_key_pem_set"], true);
    // Some bastions want both.
    let patched = patch(json!({"bastion": {"password": "hunter2"}})).await;
    assert_eq!(
        (&patched["bastion"]["private_key_set"], &patched["bastion"]["password_set"]),
        (&json!(true), &json!(true))
    );
    // One way to log in takes the other's place.
    let change = json!({"private_key": null, "passphrase": null, "password": "hunter2"});
    let patched = patch(json!({ "bastion": change })).await;
    assert_eq!(
        (&patched["bastion"]["private_key_set"], &patched["bastion"]["password_set"]),
        (&json!(false), &json!(true))
    );
    let patched = patch(json!({"bastion": null, "tls": {"client_cert_pem": null, "client_key_pem": null}})).await;
    assert_eq!((&patched["bastion"], &patched["tls"]["client_key_pem_set"]), (&Value::Null, &json!(false)));
    let patched =
        api.patch("/v1/targets/app", &json!({"limits": {"statement_timeout_seconds": null}})).await.expect(200);
    assert_eq!(
        (&patched["limits"]["statement_timeout_seconds"], &patched["limits"]["lock_timeout_seconds"]),
        (&json!(60), &json!(5))
    );
    let default = json!({
        "max_records_per_second": null, "statement_timeout_seconds": 60, "lock_timeout_seconds": 10,
        "max_replica_lag_seconds": null, "max_connections_percent": null,
    });
    assert_eq!(api.patch("/v1/targets/app", &json!({"limits": null})).await.expect(200)["limits"], default);
    no_secret_in(&node.log());
    no_secret_in(&api.get("/v1/audit").await.expect(200).to_string());
}

#[tokio::test]
async fn what_can_not_be_on_the_way_to_a_database_is_refused_by_its_field() {
    let (node, papers) = (Node::start().await, Papers::new());
    let api = &node.api;
    api.post("/v1/targets", &papers.target("there")).await.expect(201);
    let refused = async |change: Value, fields: &[&str]| {
        let mut target = papers.target("app");
        lay_over(&mut target, &change);
        let answer = api.post("/v1/targets", &target).await;
        no_secret_in(&answer.body.to_string());
        assert_eq!(answer.expect_problem(422), fields, "{change}");
        let answer = api.patch("/v1/targets/there", &change).await;
        no_secret_in(&answer.body.to_string());
        assert_eq!(answer.expect_problem(422), fields, "{change}");
    };
    for (connection, field) in [
        (json!({"host": "a,,b"}), "host"),
        (json!({"host": "a:0"}), "host"),
        (json!({"host": "a b"}), "host"),
        (json!({"host": "/var/run/postgresql"}), "host"),
        (json!({"password_file": "app-password"}), "password_file"),
        (json!({"password": null, "password_file": "../../etc/shadow"}), "password_file"),
        (json!({"password": null, "password_file": "app/password"}), "password_file"),
        // Nobody has said where files with passwords lie.
        (json!({"password": null, "password_file": "app-password"}), "password_file"),
        (json!({"tls": {"client_key_pem": null}}), "tls.client_key_pem"),
        (json!({"tls": {"client_cert_pem": null}}), "tls.client_cert_pem"),
        (json!({"tls": {"server_name": ""}}), "tls.server_name"),
        (json!({"tls": {"channel_binding": "perhaps"}}), "tls.channel_binding"),
        (json!({"tls": {"mode": "disable"}}), "tls.channel_binding"),
        (json!({"bastion": {"host": ""}}), "bastion.host"),
        (json!({"bastion": {"port": 0}}), "bastion.port"),
        (json!({"bastion": {"username": null}}), "bastion.username"),
        (json!({"bastion": {"passphrase": null}}), "bastion.passphrase"),
        (json!({"bastion": {"private_key": "hunter2"}}), "bastion.private_key"),
        (json!({"bastion": {"host_key": "hunter3"}}), "bastion.host_key"),
        (json!({"bastion": {"colour": "red"}}), "bastion.colour"),
        (json!({"bastion": {"trust_on_first_use": "yes"}}), "bastion.trust_on_first_use"),
    ] {
        refused(json!({ "connection": connection }), &[&format!("connection.{field}")]).await;
    }
    let without_login = json!({"connection": {"bastion": {"private_key": null, "passphrase": null}}});
    refused(without_login, &["connection.bastion.private_key"]).await;
    for (field, too_many) in [
        ("max_records_per_second", 1_000_001),
        ("statement_timeout_seconds", 121),
        ("lock_timeout_seconds", 61),
        ("max_replica_lag_seconds", 86_401),
        ("max_connections_percent", 101),
    ] {
        for wrong in [0, too_many] {
            refused(json!({"limits": {field: wrong}}), &[&format!("limits.{field}")]).await;
        }
    }
    assert_eq!(api.pages("/v1/targets").await.len(), 1);
}

/// Puts the fields of a change into a target; null takes a field away.
fn lay_over(target: &mut Value, change: &Value) {
    match change {
        Value::Object(fields) if target.is_object() => {
            for (name, field) in fields {
                lay_over(&mut target[name], field);
            }
        }
        other => *target = other.clone(),
    }
}

#[tokio::test]
async fn a_url_says_what_its_fields_say_and_nothing_beside_it_may_say_otherwise() {
    let node = Node::start().await;
    let api = &node.api;
    let url = "postgres://sequin:hunter2@db-1:6432,db-2/app?sslmode=require&channel_binding=prefer&target_session_attrs=read-write";
    let by_url =
        json!({"name": "by-url", "connection": {"url": url, "host": "db-1:6432,db-2", "tls": {"server_name": "db"}}});
    let made = api.post("/v1/targets", &by_url).await.expect(201);
    let fields = json!({
        "host": "db-1:6432,db-2", "database": "app", "username": "sequin", "password": "hunter2",
        "tls": {"mode": "require", "server_name": "db"},
    });
    let by_fields = api.post("/v1/targets", &json!({"name": "by-fields", "connection": fields})).await.expect(201);
    assert_eq!(made["connection"], by_fields["connection"]);
    no_secret_in(&made.to_string());
    // A change by URL says where the database is as a whole, and leaves alone what no URL says.
    let change = json!({"connection": {"url": "postgres://other@elsewhere"}});
    let connection = api.patch("/v1/targets/by-url", &change).await.expect(200)["connection"].clone();
    assert_eq!(
        (&connection["host"], &connection["port"], &connection["database"]),
        (&json!("elsewhere"), &json!(5432), &json!("other"))
    );
    assert_eq!((&connection["password_set"], &connection["tls"]), (&json!(true), &by_fields["connection"]["tls"]));

    for (beside, field) in [
        (json!({"host": "db-3"}), "connection.host"),
        (json!({"database": "other"}), "connection.database"),
        (json!({"username": "other"}), "connection.username"),
        (json!({"password": "hunter3"}), "connection.password"),
        (json!({"tls": {"mode": "prefer"}}), "connection.tls.mode"),
        (json!({"tls": {"channel_binding": "require"}}), "connection.tls.channel_binding"),
        (json!({"url": "postgres://u:hunter2@h/d?sslrootcert=/etc/ssl/ca.pem"}), "connection.url"),
        (json!({"url": "postgres://u:hunter2@h/d?target_session_attrs=standby"}), "connection.url"),
        (json!({"url": "postgres://u:hunter2@h/d?connect_timeout=3"}), "connection.url"),
        (json!({"url": "mysql://u:hunter2@h/d"}), "connection.url"),
        (json!({"url": 7}), "connection.url"),
    ] {
        let mut connection = json!({ "url": url });
        lay_over(&mut connection, &beside);
        let answer = api.post("/v1/targets", &json!({"name": "x", "connection": connection})).await;
        no_secret_in(&answer.body.to_string());
        assert_eq!(answer.expect_problem(422), [field], "{beside}");
    }
    let missing = api.post("/v1/targets", &json!({"name": "x", "connection": {"database": "d"}})).await;
    assert_eq!(missing.expect_problem(422), ["connection.host", "connection.username"]);
}

#[tokio::test]
async fn secrets_of_the_way_are_compared_without_being_told() {
    let (node, papers) = (Node::start().await, Papers::new());
    node.api.post("/v1/targets", &papers.target("app")).await.expect(201);
    let compare = async |connection: Value| {
        let body = json!({ "connection": connection });
        node.api.post("/v1/targets/app/compare-secrets", &body).await.expect(200)
    };
    let same = json!({
        "password": "hunter2", "tls": {"client_key_pem": papers.key},
        "bastion": {"private_key": papers.ssh_key, "passphrase": PASSPHRASE},
    });
    let fields = [
        "connection.password",
        "connection.tls.client_key_pem",
        "connection.bastion.private_key",
        "connection.bastion.passphrase",
    ];
    assert_eq!(compare(same).await, json!({"same": fields, "different": []}));
    let other =
        json!({"tls": {"client_key_pem": "x"}, "bastion": {"private_key": "x", "passphrase": "x", "password": "x"}});
    let fields = [fields[1], fields[2], fields[3], "connection.bastion.password"];
    assert_eq!(compare(other).await, json!({"same": [], "different": fields}));
}

#[tokio::test]
async fn no_consumer_starts_and_no_key_is_kept_before_the_key_of_the_bastion_is_seen() {
    let (node, papers) = (Node::start().await, Papers::new());
    let api = &node.api;
    let mut target = papers.target("app");
    let bastion = &mut target["connection"]["bastion"];
    (bastion["host"], bastion["port"], bastion["host_key"]) = (json!("127.0.0.1"), json!(free_port()), Value::Null);
    bastion["trust_on_first_use"] = json!(true);
    assert_eq!(api.post("/v1/targets", &target).await.expect_problem(422), ["connection.bastion.host_key"]);
    target["connection"]["bastion"]["trust_on_first_use"] = json!(false);
    let made = api.post("/v1/targets", &target).await.expect(201);
    assert_eq!(made["connection"]["bastion"]["host_key"], Value::Null);
    let trusting = json!({"connection": {"bastion": {"trust_on_first_use": true}}});
    assert_eq!(api.patch("/v1/targets/app", &trusting).await.expect_problem(422), ["connection.bastion.host_key"]);
    let consumer =
        json!({"name": "c", "target": "app", "filter": {"provider": "hubspot"}, "schema": "s", "table": "t"});
    api.post("/v1/consumers", &consumer).await.expect(201);
    let refused = api.act("/v1/consumers/c/start").await;
    assert_eq!(refused.body["errors"][0]["code"], "host_key_unconfirmed", "{}", refused.body);
    assert_eq!(refused.expect_problem(422), ["connection.bastion.host_key"]);
    assert_eq!(api.consumer("c").await["state"], "draft");
}

#[tokio::test]
async fn the_key_that_a_bastion_shows_is_kept_where_that_is_asked_for_and_shown_to_be_confirmed_otherwise() {
    let (setup, sshd) = (Setup::new().await, Sshd::start());
    let api = &setup.node.api;
    let given = sshd.bastion();
    let bastion = json!({
        "host": given.host, "port": given.port, "username": given.username,
        "private_key": given.private_key.as_ref().map(Secret::reveal),
    });
    api.patch("/v1/targets/app", &json!({"connection": {"bastion": bastion}})).await.expect(200);
    setup.draft("c", &json!({"provider": HUBSPOT})).await;
    setup.database.make_table("c").await;
    let refused = api.act("/v1/consumers/c/start").await;
    let message = refused.body["errors"][0]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(&sshd.host_key()), "{}", refused.body);
    assert_eq!(refused.expect_problem(422), ["connection.bastion.host_key"]);
    assert_eq!(sshd.logins(), 0, "nobody logs in to a host that is not confirmed");

    let trusting = json!({"connection": {"bastion": {"trust_on_first_use": true}}});
    let kept = api.patch("/v1/targets/app", &trusting).await.expect(200);
    assert_eq!(kept["connection"]["bastion"]["host_key"], sshd.host_key());
    api.act("/v1/consumers/c/start").await.expect(200);
    setup.state_is("c", "live").await;
    assert!(sshd.logins() > 0);
}
