//! Secrets stay in: whatever goes wrong, nothing that a node says, logs or writes holds a password or a token.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use sequin_actors::store::Keyring;
use serde_json::{Value, json};

use crate::support::{
    api::{Api, TOKEN},
    database::{Database, PASSWORD},
    eventually, holds,
    model::{HUBSPOT, Model, contact, sync},
    node::{Node, free_port},
    setup::Setup,
};

/// A password that is not the right one is a secret too: it may be that of something else.
const WRONG_PASSWORD: &str = "the-one-for-production-4711";

/// A bastion's, which is no secret.
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1IoFjHEfYYTqnpUYM2DzrzdgcI5EYD3pR1cIBFVbNm";

/// The forms in which a secret may come out.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let percent = secret.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    let json = json!(secret).to_string();
    let forms = [
        secret.to_owned(),
        json.trim_matches('"').to_owned(),
        secret.replace('\'', "''"),
        percent.collect(),
        STANDARD.encode(secret).trim_end_matches('=').to_owned(),
    ];
    forms.into_iter().map(String::into_bytes).collect()
}

fn finds(said: &[u8], form: &[u8]) -> bool {
    said.windows(form.len()).any(|part| part == form)
}

/// What nobody may say.
struct Secrets(Vec<String>);

impl Secrets {
    /// Whoever says this must not say a secret.
    fn are_not_in(&self, who: &str, said: &[u8]) {
        for secret in &self.0 {
            for form in forms(secret) {
                assert!(!finds(said, &form), "{who} holds the secret {secret}, as {}", String::from_utf8_lossy(&form));
            }
        }
    }

    fn are_in_no_file(&self, directory: &Path) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.are_in_no_file(&path);
            } else {
                // One that is gone meanwhile holds nothing.
                self.are_not_in(&path.display().to_string(), &fs::read(&path).unwrap_or_default());
            }
        }
    }
}

/// A consumer whose table somebody makes such that something goes wrong.
async fn consumer(setup: &Setup, name: &str, sql: &str) {
    setup.start(name, &json!({"provider": HUBSPOT})).await;
    setup.node.api.is_well(name).await;
    setup.database.run(sql).await;
}

/// A target that can't be reached, and whose setting says why.
async fn target(setup: &Setup, setting: &str, value: Value) {
    let mut connection = setup.database.connection();
    connection[setting] = value;
    setup.node.api.post("/v1/targets", &json!({"name": setting, "connection": connection})).await.expect(201);
}

/// Tokens of each role that were used, one of which was revoked.
async fn tokens(api: &Api) -> Vec<String> {
    let mut tokens = Vec::new();
    for role in ["admin", "read", "publish"] {
        let made = api.post("/v1/tokens", &json!({"name": role, "role": role})).await.expect(201);
        let token = made["token"].as_str().expect("a token").to_owned();
        let asked = api.anonymous(reqwest::Method::GET, "/v1/audit").bearer_auth(&token).send().await;
        assert_eq!(asked.expect("an answer").status(), if role == "admin" { 200 } else { 403 });
        // Shown once: what is made of it is another token.
        let again = json!({"name": "again", "role": role, "token": token});
        api.post("/v1/tokens", &again).await.expect_problem(422);
        tokens.push(token);
    }
    api.delete("/v1/tokens/admin").await.expect(204);
    let revoked = api.anonymous(reqwest::Method::GET, "/v1/audit").bearer_auth(&tokens[0]).send().await;
    assert_eq!(revoked.expect("an answer").status(), 401);
    tokens
}

/// All that can be asked, of all that is there.
async fn ask_everything(api: &Api, secrets: &Secrets) {
    let lists = ["/v1/targets", "/v1/consumers", "/v1/providers", "/v1/syncs"];
    let also = [
        "/v1/nodes",
        "/v1/incidents",
        "/v1/alerting",
        "/v1/tokens",
        "/v1/audit",
        "/openapi.json",
        "/docs",
        "/readyz",
        "/",
    ];
    let mut paths: Vec<String> = lists.into_iter().chain(also).map(str::to_owned).collect();
    let mut actions = Vec::new();
    for (list, views, acts) in
        [("targets", ["setup-sql", ""], "check"), ("consumers", ["create-table-sql", "quarantine"], "verify")]
    {
        let found = api.get(&format!("/v1/{list}")).await.expect(200);
        for name in found["data"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()) {
            paths.push(format!("/v1/{list}/{name}"));
            paths.extend(views.map(|view| format!("/v1/{list}/{name}/{view}")));
            actions.push(format!("/v1/{list}/{name}/{acts}"));
        }
    }
    for path in paths {
        let answer = api.get(&path).await;
        secrets.are_not_in(&path, answer.body.to_string().as_bytes());
    }
    for path in actions {
        let answer = api.act(&path).await.expect(200);
        secrets.are_not_in(&path, answer.to_string().as_bytes());
    }
}

#[tokio::test]
async fn no_fault_brings_a_password_or_a_token_into_the_log_an_answer_or_a_file() {
    let key = Keyring::generate_base64();
    let settings = [("SEQUIN_ENCRYPTION_KEY", key.as_str())];
    let node = Node::start_with(tempfile::tempdir().expect("a directory"), &settings).await;
    let setup = Setup::with(node, Database::create().await).await;
    let api = &setup.node.api;
    let mut secrets = Secrets([PASSWORD, WRONG_PASSWORD, TOKEN, &key].map(str::to_owned).into());
    secrets.0.extend(tokens(api).await);
    let mut model = Model::default();
    consumer(&setup, "of_table", "alter table sequin.of_table drop constraint of_table_pkey").await;
    consumer(&setup, "of_record", "alter table sequin.of_record add constraint never check (payload <> '1')").await;
    let in_the_way = "
        create function sequin.in_the_way() returns trigger language plpgsql as
          $$ begin raise 'not now' using errcode = '40001'; end $$;
        create trigger in_the_way before insert on sequin.contended execute function sequin.in_the_way()";
    consumer(&setup, "contended", in_the_way).await;
    target(&setup, "password", json!(WRONG_PASSWORD)).await;
    target(&setup, "username", json!("nobody")).await;
    target(&setup, "database", json!("nothing")).await;
    target(&setup, "host", json!("nowhere.invalid")).await;
    target(&setup, "port", json!(free_port())).await;
    target(&setup, "tls", json!({"mode": "require"})).await;
    let bastion = json!({
        "host": "127.0.0.1", "port": free_port(), "username": "tunnel", "password": WRONG_PASSWORD, "host_key": HOST_KEY,
    });
    target(&setup, "bastion", bastion).await;
    setup.publish(&mut model, &[contact(sync(1), 1, json!(1))]).await;

    for name in ["password", "username", "database", "host", "port", "tls", "bastion"] {
        api.target_state_is(name, "unhealthy").await;
    }
    setup.state_is("of_table", "halted").await;
    setup.consumer_is("of_record", "one with a quarantine", |consumer| consumer["quarantined"] == 1).await;
    eventually("the contention to be logged", async || {
        holds(setup.node.log().contains("not now"), || "it is not".into())
    })
    .await;
    // What is refused at the door may be quoted to whoever knocks, and to nobody else.
    let misplaced = json!({"name": PASSWORD, "connection": {"host": PASSWORD, "password": {"is": PASSWORD}}});
    api.post("/v1/targets", &misplaced).await.expect_problem(422);
    let no_keys = [
        ("bastion", json!({"host": "h", "username": "u", "private_key": WRONG_PASSWORD, "host_key": HOST_KEY})),
        ("bastion", json!({"host": "h", "username": "u", "password": WRONG_PASSWORD, "host_key": WRONG_PASSWORD})),
        ("tls", json!({"mode": "require", "client_key_pem": WRONG_PASSWORD})),
        ("url", json!(format!("postgres://u:{WRONG_PASSWORD}@h:port/d"))),
    ];
    for (field, value) in no_keys {
        let mut connection = setup.database.connection();
        connection[field] = value;
        let refused = api.post("/v1/targets", &json!({"name": "refused", "connection": connection})).await;
        secrets.are_not_in("a refusal", refused.body.to_string().as_bytes());
        assert!(!refused.expect_problem(422).is_empty());
    }
    let wrong_token = api.anonymous(reqwest::Method::GET, "/v1/targets").bearer_auth(WRONG_PASSWORD);
    assert_eq!(wrong_token.send().await.expect("an answer").status(), 401);

    api.act("/v1/rotate-keys").await.expect(200);
    ask_everything(api, &secrets).await;
    secrets.are_not_in("the log", setup.node.log().as_bytes());
    secrets.are_in_no_file(&setup.node.data());
    // What is no secret is found in the same way.
    assert!(finds(api.target("app").await.to_string().as_bytes(), setup.database.user.as_bytes()));
}
