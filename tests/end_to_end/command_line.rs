//! The command line's comforts: changing things, watching them, completions and manual pages.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    cli::{Running, run},
    database::PASSWORD,
    model::{HUBSPOT, Model, Version, contact, sync},
    setup::Setup,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_target_and_a_consumer_are_changed_by_what_is_given_and_nothing_else() {
    let setup = Setup::new().await;
    let api = &setup.node.api;
    setup.draft("c", &json!({"provider": HUBSPOT})).await;
    let directory = tempfile::tempdir().expect("a directory");
    let password = directory.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).expect("a file");
    let password = password.display();

    let update = format!("target update app --pool-size 2 --tls-mode disable --password-file {password} --output json");
    let ran = run(api, &update).await;
    assert!(!ran.stdout.contains(PASSWORD) && ran.stderr.contains("target app is changed"), "{ran:?}");
    let target = ran.expect_json();
    assert_eq!((&target["pool_size"], &target["connection"]["tls"]["mode"]), (&json!(2), &json!("disable")));
    assert_eq!(target["connection"]["host"], "127.0.0.1");
    assert!(run(api, "target check app").await.expect_done().starts_with("ok: "));
    let renamed = run(api, "target update app --name prod --metadata {\"team\":\"data\"}").await.expect_done();
    assert!(renamed.starts_with("target     prod\n"), "{renamed}");
    assert_eq!(api.target("prod").await["metadata"], json!({"team": "data"}));

    let update = "consumer update c --table t --provider stripe --unsupported-text replace --lag-threshold-seconds 60";
    run(api, &format!("{update} --lag-threshold-records 5000 --metadata {{}}")).await.expect_done();
    let consumer = api.consumer("c").await;
    assert_eq!((&consumer["table"], &consumer["schema"]), (&json!("t"), &json!("sequin")));
    assert_eq!(
        (&consumer["filter"], &consumer["unsupported_text"]),
        (&json!({"provider": "stripe"}), &json!("replace"))
    );
    assert_eq!((&consumer["lag_threshold_seconds"], &consumer["lag_threshold_records"]), (&json!(60), &json!(5000)));
    run(api, "consumer update c --lag-threshold-records none").await.expect_done();
    assert_eq!(api.consumer("c").await["lag_threshold_records"], Value::Null);

    for wrong in [
        "target update prod",
        "consumer update c",
        "consumer update c --metadata 7",
        "consumer update c --provider a --sync b",
    ] {
        assert_eq!(run(api, wrong).await.status, Some(2), "{wrong}");
    }
    for failing in
        ["target update nobody --pool-size 2", "consumer update nobody --table t", "target update prod --pool-size 0"]
    {
        let ran = run(api, failing).await;
        assert!(ran.status == Some(1) && ran.stderr.starts_with("error: "), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_to_read_again() {
    let (setup, mut model) = (Setup::new().await, Model::default());
    setup.start_hubspot().await;
    setup.publish(&mut model, &[contact(sync(1), 1, json!({"a": 1}))]).await;
    setup.hubspot_is(&model).await;
    setup.reached(HUBSPOT, 1).await;
    setup.database.run("truncate sequin.hubspot").await;
    let ran = run(&setup.node.api, "consumer rewind hubspot").await;
    assert!(ran.stderr.contains("consumer hubspot reads again"), "{ran:?}");
    ran.expect_done();
    setup.hubspot_is(&model).await;
    let ran = run(&setup.node.api, "consumer rewind hubspot --to 99").await;
    assert!(ran.status == Some(1) && ran.stderr.contains("takes at most"), "{ran:?}");
    assert_eq!(run(&setup.node.api, "provider list").await.expect_done(), "PROVIDER\nhubspot\n");
    let listed = run(&setup.node.api, "provider list --output json").await.expect_json();
    assert_eq!(listed["data"][0]["name"], "hubspot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_is_described_and_removed_and_the_sql_for_its_rows_is_printed() {
    let (setup, mut model) = (Setup::new().await, Model::default());
    setup.start_hubspot().await;
    let (api, id) = (&setup.node.api, sync(1));
    let set =
        format!("sync set {id} --provider hubspot --external-id acme --metadata {{\"plan\":\"pro\"}} --output json");
    let described = run(api, &set).await.expect_json();
    assert_eq!((&described["external_id"], &described["metadata"]), (&json!("acme"), &json!({"plan": "pro"})));
    let deal = Version { collection: "deal".into(), ..contact(id, 2, json!({})) };
    setup.publish(&mut model, &[contact(id, 1, json!({})), deal]).await;
    setup.hubspot_is(&model).await;

    let ran = run(api, &format!("sync delete-collection {id} deal")).await;
    assert!(ran.stderr.contains("1 record removed from the stream"), "{ran:?}");
    let sql = ran.expect_done();
    assert!(sql.starts_with("-- in target app, written by consumer hubspot\n"), "{sql}");
    setup.database.run(&sql).await;
    assert_eq!(setup.database.count(HUBSPOT).await, 1);
    let sql = run(api, &format!("sync delete {id}")).await.expect_done();
    setup.database.run(&sql).await;
    assert_eq!(setup.database.count(HUBSPOT).await, 0);
    for failing in [format!("sync delete {id}"), format!("sync set {id}"), "sync delete-collection nobody deal".into()]
    {
        assert_eq!(run(api, &failing).await.status, Some(1), "{failing}");
    }
    let json = run(api, &set).await.expect_json();
    assert_eq!(json["id"], id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_are_listed_with_their_targets() {
    let setup = Setup::new().await;
    setup.node.api.target_state_is("app", "healthy").await;
    let listed = run(&setup.node.api, "node list").await.expect_done();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("NODE") && lines[1].ends_with(" ago  app"), "{listed}");
    let json = run(&setup.node.api, "node list --output json").await.expect_json();
    assert_eq!(json["data"][0]["targets"][0]["name"], "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_is_told_when_it_changes_until_ctrl_c() {
    let mut setup = Setup::new().await;
    let mut status = Running::start(setup.node.api.url(), "status --watch");
    let mut list = Running::start(setup.node.api.url(), "consumer list --watch --interval 1s");
    status.line_with("target app: healthy, healthy, 0 consumers").await;
    setup.start_hubspot().await;
    list.line_with("consumer hubspot: live, healthy, lag 0 records").await;
    status.line_with("target app: healthy, healthy, 1 consumer,").await;
    let mut one = Running::start(setup.node.api.url(), "consumer show hubspot --watch --output json");
    let shown: Value = serde_json::from_str(&one.line_with("hubspot").await).expect("a line of JSON");
    assert_eq!(shown["name"], HUBSPOT);
    setup.act(HUBSPOT, "pause").await;
    list.line_with("consumer hubspot: paused").await;
    let shown: Value = serde_json::from_str(&one.line_with("\"state\":\"paused\"").await).expect("a line of JSON");
    assert_eq!(shown["name"], HUBSPOT);

    // A node that is away for a while ends nothing.
    assert!(setup.node.sigterm().await.success());
    setup.node.start_again().await;
    assert_eq!(one.interrupt().await, Some(0));
    assert_eq!((list.interrupt().await, status.interrupt().await), (Some(0), Some(0)));

    let mut list = Running::start(setup.node.api.url(), "consumer list --watch");
    list.line_with("consumer hubspot: paused").await;
    setup.node.api.delete("/v1/consumers/hubspot").await.expect(204);
    list.line_with("consumer hubspot: gone").await;
    assert_eq!(list.interrupt().await, Some(0));
    assert_eq!(run(&setup.node.api, "consumer show nobody --watch").await.status, Some(1));
    assert_eq!(run(&setup.node.api, "status --interval 1s").await.status, Some(2));
}

/// The names of the files in a directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn shells_and_man_know_every_command() {
    // Neither needs a node.
    let api = crate::support::api::Api::new("http://127.0.0.1:1".into());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&api, &format!("completions {shell}")).await.expect_done();
        for word in ["setup-sql", "rewind", "delete-collection", "export"] {
            assert!(script.contains(word), "{word} is not in the completions of {shell}");
        }
    }
    let script = run(&api, "completions bash").await.expect_done();
    let check = Command::new("bash").args(["-n", "-c", &script]).status().await.expect("bash");
    assert!(check.success());
    assert_eq!(run(&api, "completions tcsh").await.status, Some(2));

    assert!(run(&api, "man").await.expect_done().contains(".TH sequin 1"));
    let directory = tempfile::tempdir().expect("a directory");
    let pages = directory.path().join("man1");
    run(&api, &format!("man --dir {}", pages.display())).await.expect_done();
    let found = files(&pages);
    for page in [
        "sequin.1",
        "sequin-apply.1",
        "sequin-consumer.1",
        "sequin-consumer-views.1",
        "sequin-sync-delete-collection.1",
    ] {
        assert!(found.iter().any(|name| name == page), "{page} is not in {found:?}");
    }
    let ran = run(&api, "man --dir /dev/null/man1").await;
    assert!(ran.status == Some(1) && ran.stderr.contains("/dev/null/man1"), "{ran:?}");
}
