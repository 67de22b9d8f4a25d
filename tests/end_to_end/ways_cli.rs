//! The way to a database by the command line, in files and by settings: secrets come by files, variables and the environment.

use serde_json::{Value, json};

use super::ways::{HOST_KEY, PASSPHRASE, Papers, no_secret_in};
use crate::support::{
    cli,
    node::{Node, refuse_to_start},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_secrets_by_files_and_shows_the_way() {
    let (node, papers) = (Node::start().await, Papers::new());
    let api = &node.api;
    let [certificate, key, ssh_key, host_keys, passphrase] =
        ["certificate", "key", "ssh_key", "host_keys", "passphrase"].map(|name| papers.path(name));
    let add = format!(
        "target add app postgres://sequin:hunter2@db-1,db-2:6432/app?sslmode=verify-full&sslrootcert={certificate} \
         --client-cert-file {certificate} --client-key-file {key} --server-name db.example.com --channel-binding require \
         --bastion-host bastion.example.com --bastion-user tunnel --bastion-key-file {ssh_key} \
         --bastion-passphrase-file {passphrase} --bastion-host-key-file {host_keys} --max-records-per-second 500"
    );
    let ran = cli::run(api, &add).await;
    no_secret_in(&format!("{ran:?}"));
    let shown = ran.expect_done();
    for line in [
        "database   sequin@db-1:5432,db-2:6432/app",
        "tls        verify-full, as db.example.com, with a certificate of its own, channel binding: require",
        "bastion    tunnel@bastion.example.com:22",
        &format!("host key   bastion.example.com {HOST_KEY}"),
        "limits     500 records/s, 60 s a statement, 10 s for a lock",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
    }
    let compared = json!({"connection": {"bastion": {"private_key": papers.ssh_key, "passphrase": PASSPHRASE}}});
    let compared = api.post("/v1/targets/app/compare-secrets", &compared).await.expect(200);
    assert_eq!(compared["different"], json!([]), "{compared}");

    // What happens to be in the environment takes no place of what is known.
    let variable = [("SEQUIN_BASTION_PASSWORD", "hunter3")];
    let renamed = "target update app --bastion-user other --output json";
    let renamed = cli::run_with_variables(api, renamed, &variable, "").await.expect_json();
    let bastion = &renamed["connection"]["bastion"];
    assert_eq!((&bastion["private_key_set"], &bastion["password_set"]), (&json!(true), &json!(false)));
    let asked = "target update app --bastion-user tunnel --bastion-password-env --output json";
    let asked = cli::run_with_variables(api, asked, &variable, "").await.expect_json();
    let bastion = &asked["connection"]["bastion"];
    assert_eq!((&bastion["private_key_set"], &bastion["password_set"]), (&json!(false), &json!(true)));
    cli::run(api, &format!("target update app --bastion-key-file {ssh_key} --bastion-passphrase-file {passphrase}"))
        .await
        .expect_done();

    // A password takes the place of the key.
    let update = format!(
        "target update app --bastion-password-file {passphrase} --max-records-per-second none --lock-timeout-seconds 3 \
         --output json"
    );
    let updated = cli::run(api, &update).await.expect_json();
    let bastion = &updated["connection"]["bastion"];
    assert_eq!((&bastion["private_key_set"], &bastion["passphrase_set"]), (&json!(false), &json!(false)));
    assert_eq!((&bastion["password_set"], &bastion["username"]), (&json!(true), &json!("tunnel")));
    assert_eq!(
        (&updated["limits"]["max_records_per_second"], &updated["limits"]["lock_timeout_seconds"]),
        (&Value::Null, &json!(3))
    );
    let back = "target update app --ca-file none --client-cert-file none --server-name none --bastion-host-key none \
                --output json";
    let back = cli::run(api, back).await.expect_json();
    let (tls, bastion) = (&back["connection"]["tls"], &back["connection"]["bastion"]);
    for taken in [&tls["ca_pem"], &tls["client_cert_pem"], &tls["server_name"], &bastion["host_key"]] {
        assert_eq!(taken, &Value::Null, "{back}");
    }
    assert_eq!((&tls["mode"], &tls["client_key_pem_set"]), (&json!("verify-full"), &json!(false)));
    let updated = cli::run(api, "target update app --no-bastion --output json").await.expect_json();
    assert_eq!(updated["connection"]["bastion"], Value::Null);
    for wrong in [
        "target update app --no-bastion --bastion-host b",
        "target update app --channel-binding perhaps",
        "target update app --bastion-password-env",
        "target update app --max-records-per-second many",
        "target update app --secrets-file a --password-file b",
    ] {
        assert_eq!(cli::run(api, wrong).await.status, Some(2), "{wrong}");
    }
    for wrong in ["target add other postgres://sequin:hunter2@", "demo --target-url postgres://sequin:hunter2@"] {
        let ran = cli::run(api, wrong).await;
        no_secret_in(&format!("{ran:?}"));
        assert_eq!(ran.status, Some(2), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_says_the_way_and_what_is_exported_says_the_same() {
    let (node, papers) = (Node::start().await, Papers::new());
    let file = "targets:
  - name: app
    connection:
      url: ${URL}
      tls: { mode: verify-full, ca_pem: \"${CERTIFICATE}\", client_cert_pem: \"${CERTIFICATE}\", client_key_pem: \"${KEY}\" }
      bastion: { host: bastion.example.com, username: tunnel, private_key: \"${SSH_KEY}\", passphrase: \"${PASSPHRASE}\", host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1IoFjHEfYYTqnpUYM2DzrzdgcI5EYD3pR1cIBFVbNm }
    limits: { max_records_per_second: 500 }
";
    let url = "postgres://sequin:hunter2@db-1,db-2/app?sslmode=verify-full";
    let secrets = [("SSH_KEY", papers.ssh_key.as_str()), ("PASSPHRASE", PASSPHRASE), ("KEY", &papers.key)];
    let variables = [&secrets[..], &[("URL", url), ("CERTIFICATE", &papers.certificate)]].concat();
    let run = async |command: &str, file: &str, variables: &[(&str, &str)]| {
        let ran = cli::run_with_variables(&node.api, &format!("{command} -f -"), variables, file).await;
        no_secret_in(&format!("{ran:?}"));
        ran.expect_done()
    };
    let planned = run("plan", file, &variables).await;
    for line in ["    connection.bastion.private_key: (secret)", "    limits.max_records_per_second: 500"] {
        assert!(planned.lines().any(|planned| planned == line), "{line:?} is not in\n{planned}");
    }
    run("apply", file, &variables).await;
    let nothing = "nothing to do: everything is as the file says\n";
    assert_eq!(run("plan", file, &variables).await, nothing);
    // A host key that is left out stays, as what the server keeps of itself.
    let without_key = file
        .split(", host_key")
        .next()
        .map(|start| format!("{start} }}\n    limits: {{ max_records_per_second: 500 }}\n"));
    assert_eq!(run("plan", &without_key.expect("a file"), &variables).await, nothing);
    let other = [&[("PASSPHRASE", "another")][..], &variables].concat();
    let other: Vec<_> =
        other.into_iter().filter(|(name, value)| *name != "PASSPHRASE" || *value == "another").collect();
    let planned = run("plan", file, &other).await;
    assert!(planned.contains("    connection.bastion.passphrase: (secret) → (another one)\n"), "{planned}");

    let exported = cli::run(&node.api, "export").await.expect_done();
    no_secret_in(&exported);
    let variables = [
        ("TARGET_APP_PASSWORD", "hunter2"),
        ("TARGET_APP_CLIENT_KEY_PEM", &papers.key),
        ("TARGET_APP_BASTION_PRIVATE_KEY", &papers.ssh_key),
        ("TARGET_APP_BASTION_PASSPHRASE", PASSPHRASE),
    ];
    assert_eq!(run("plan", &exported, &variables).await, nothing, "{exported}");
    let gone = file.split_inclusive('\n').filter(|line| !line.contains("bastion:")).collect::<String>();
    run("apply", &gone, &[&secrets[..], &[("URL", url), ("CERTIFICATE", &papers.certificate)]].concat()).await;
    assert_eq!(node.api.target("app").await["connection"]["bastion"], Value::Null);
}

#[tokio::test]
async fn where_a_node_connects_to_and_from_are_settings_and_who_has_to_let_it_in_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    for (setting, wrong) in [
        ("SEQUIN_DENY_TARGET_CIDRS", "10.0.0.0/33"),
        ("SEQUIN_EGRESS_IPS", "gateway.example.com"),
        ("SEQUIN_SECRETS_DIR", "/nowhere/secrets"),
    ] {
        let refused = refuse_to_start(directory.path(), &[(setting, wrong)]).await;
        assert_eq!(refused.status, Some(2), "{refused:?}");
        assert!(refused.lines.iter().any(|line| line.contains(setting) && line.contains(wrong)), "{refused:?}");
    }
    let secrets = directory.path().display().to_string();
    let settings = [
        ("SEQUIN_EGRESS_IPS", "203.0.113.7, 2001:db8::/48"),
        ("SEQUIN_DENY_TARGET_CIDRS", "127.0.0.0/8"),
        ("SEQUIN_SECRETS_DIR", secrets.as_str()),
    ];
    let (node, papers) = (Node::start_with(tempfile::tempdir().expect("a directory"), &settings).await, Papers::new());
    let api = &node.api;
    let connection = json!({
        "host": "127.0.0.1", "database": "app", "username": "sequin", "password_file": "app-password",
        "tls": {"mode": "require"},
    });
    let made = api.post("/v1/targets", &json!({"name": "direct", "connection": connection})).await.expect(201);
    assert_eq!(made["connection"]["password_file"], "app-password");
    let setup_sql = async |target: &str| {
        let answer = api.get(&format!("/v1/targets/{target}/setup-sql")).await.expect(200);
        answer["sql"].as_str().expect("SQL").to_owned()
    };
    let sql = setup_sql("direct").await;
    for line in [
        "-- Sequin connects from 203.0.113.7, 2001:db8::/48",
        "--   hostssl app sequin 203.0.113.7/32 scram-sha-256",
        "--   hostssl app sequin 2001:db8::/48 scram-sha-256",
    ] {
        assert!(sql.lines().any(|told| told == line), "{line:?} is not in\n{sql}");
    }
    api.post("/v1/targets", &papers.target("behind")).await.expect(201);
    let sql = setup_sql("behind").await;
    let line = "--   restrict,port-forwarding,permitopen=\"db-1:5433\",permitopen=\"db-2:6432\",permitopen=\"[::1]:5433\" PUBLIC_KEY";
    assert!(sql.lines().any(|told| told == line), "{line:?} is not in\n{sql}");
}
