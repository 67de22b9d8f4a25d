//! The data directory: full, damaged, lost, or somebody else's. Each says so, with the way out, and nothing is lost
//! that was acknowledged, nor made anew over what was there.

use std::{fs, path::Path};

use sequin_actors::store::{SqliteStore, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    database::Database,
    disk::SmallDisk,
    eventually, holds,
    model::{HUBSPOT, Model, Version, contact, lines, sync},
    node::{Node, Refusal, refuse_to_start},
    setup::Setup,
};

fn contacts(numbers: std::ops::Range<u32>) -> Vec<Version> {
    numbers.map(|n| contact(sync(1), n, json!({"text": "x".repeat(1000)}))).collect()
}

/// The files of a data directory that matter, with what is in them.
fn content(data: &Path) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let names = ["records.db", "control.db", "encryption-key", "admin-token"];
    names.map(|name| (name, fs::read(data.join(name)).ok())).into()
}

/// What a node leaves behind that has had something to do and was asked to end.
async fn left_behind() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Node::start().await;
    let connection = json!({"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin", "password": "x"});
    node.api.post("/v1/targets", &json!({"name": "app", "connection": connection})).await.expect(201);
    node.api.publish(lines(&contacts(0..3000))).await.expect(200);
    assert_eq!(node.sigterm().await.code(), Some(0));
    copy(&node.data(), &directory.path().join("data"));
    fs::write(directory.path().join("data/admin-token"), "a-token-of-some-length").expect("a token");
    directory
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for file in fs::read_dir(from).expect("the files").flatten() {
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

fn one_line(refusal: &Refusal) -> &str {
    let [line] = refusal.lines.as_slice() else { panic!("one line: {refusal:?}") };
    line
}

#[tokio::test]
async fn what_is_damaged_or_missing_is_refused_by_name_with_the_way_out_and_left_as_it_is() {
    type Damage = fn(&Path);
    let truncate = |file: &Path| {
        let bytes = fs::read(file).expect("the file");
        fs::write(file, &bytes[..bytes.len() / 3]).expect("truncated");
    };
    let damages: [(&str, Damage, &str); 10] = [
        ("records.db", |file| fs::write(file, "my diary\n".repeat(2000)).expect("overwritten"), "it is damaged"),
        ("control.db", |file| fs::write(file, "my diary\n".repeat(2000)).expect("overwritten"), "it is damaged"),
        ("records.db", truncate, "it is damaged"),
        ("records.db", |file| fs::write(file, "").expect("emptied"), "missing or empty"),
        ("records.db", |file| fs::remove_file(file).expect("removed"), "missing or empty"),
        ("control.db", |file| fs::remove_file(file).expect("removed"), "missing or empty"),
        ("records.db", |file| fs::remove_file(file).and_then(|()| fs::create_dir(file)).expect("replaced"), "unable"),
        ("encryption-key", |file| fs::remove_file(file).expect("removed"), "SEQUIN_ENCRYPTION_KEY is not set"),
        ("encryption-key", |file| fs::write(file, "not a key").expect("overwritten"), "holds no encryption key"),
        ("admin-token", |file| fs::write(file, "").expect("emptied"), "holds no token"),
    ];
    let whole = left_behind().await;
    for (name, damage, expected) in damages {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        copy(&whole.path().join("data"), &data);
        damage(&data.join(name));
        let before = content(&data);
        let refusal = refuse_to_start(directory.path(), &[("SEQUIN_ADMIN_TOKEN", "")]).await;
        assert_eq!(refusal.status, Some(1), "{refusal:?}");
        let line = one_line(&refusal);
        let file = data.join(name).display().to_string();
        assert!(line.contains(&file) && line.contains(expected), "{name} is {expected}: {line}");
        assert!(content(&data) == before, "something was written where {name} is {expected}");
    }
}

#[tokio::test]
async fn an_encryption_key_that_sealed_nothing_here_is_refused_and_the_right_one_is_taken() {
    let directory = left_behind().await;
    let data = directory.path().join("data");
    let right = fs::read_to_string(data.join("encryption-key")).expect("the key");
    let wrong = sequin_actors::store::Keyring::generate_base64();
    let before = content(&data);
    let refusal = refuse_to_start(directory.path(), &[("SEQUIN_ENCRYPTION_KEY", &wrong)]).await;
    assert_eq!(refusal.status, Some(2), "{refusal:?}");
    assert!(one_line(&refusal).contains("SEQUIN_ENCRYPTION_KEY is not the encryption key"), "{refusal:?}");
    assert!(content(&data) == before && !one_line(&refusal).contains(&wrong));

    fs::write(data.join("encryption-key"), &wrong).expect("overwritten");
    let refusal = refuse_to_start(directory.path(), &[]).await;
    assert_eq!(refusal.status, Some(1), "{refusal:?}");
    assert!(one_line(&refusal).contains("encryption-key is not the encryption key"), "{refusal:?}");

    fs::write(data.join("encryption-key"), right).expect("put back");
    let node = Node::start_on(directory).await;
    let targets = node.api.get("/v1/targets").await.expect(200);
    assert_eq!((&targets["data"][0]["name"], targets.get("unreadable")), (&json!("app"), None));
}

#[tokio::test]
async fn a_file_in_the_place_of_the_directory_is_a_wrong_setting() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("data"), "my diary").expect("a file");
    let refusal = refuse_to_start(directory.path(), &[]).await;
    assert_eq!(refusal.status, Some(2), "{refusal:?}");
    assert!(one_line(&refusal).contains("SEQUIN_BACKEND") && one_line(&refusal).contains("is not a directory"));
    assert_eq!(fs::read_to_string(directory.path().join("data")).expect("the file"), "my diary");
}

#[tokio::test]
async fn a_stream_that_ends_before_what_was_read_of_it_is_refused() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..5)).await;
    setup.reached(HUBSPOT, 5).await;
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    let data = setup.node.data();
    let earlier = fs::read(data.join("records.db")).expect("the stream");
    setup.node.start_again().await;
    setup.publish(&mut model, &contacts(5..9)).await;
    setup.reached(HUBSPOT, 9).await;
    assert_eq!(setup.node.sigterm().await.code(), Some(0));

    // A part of a backup alone.
    let now = fs::read(data.join("records.db")).expect("the stream");
    fs::write(data.join("records.db"), earlier).expect("put in its place");
    let refusal = refuse_to_start(data.parent().expect("its directory"), &[]).await;
    assert_eq!(refusal.status, Some(1), "{refusal:?}");
    let expected = "the record stream ends at 5, but consumer hubspot has read up to 9";
    assert!(one_line(&refusal).contains(expected), "{refusal:?}");
    fs::write(data.join("records.db"), now).expect("put back");
    setup.node.start_again().await;
    setup.publish(&mut model, &contacts(3..12)).await;
    setup.hubspot_is(&model).await;
}

#[tokio::test]
async fn a_second_process_is_kept_off_the_data_of_the_first_which_goes_on_unharmed() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let data = setup.node.data();
    let backend = format!("embedded:{}", data.display());
    for _ in 0..2 {
        let elsewhere = tempfile::tempdir().expect("a directory");
        let refusal = refuse_to_start(elsewhere.path(), &[("SEQUIN_BACKEND", &backend)]).await;
        assert_eq!(refusal.status, Some(1), "{refusal:?}");
        let line = one_line(&refusal);
        assert!(line.contains(&data.display().to_string()) && line.contains("in use by another process"), "{line}");
        setup.publish(&mut model, &contacts(0..10)).await;
        setup.hubspot_is(&model).await;
    }
    // What a process held that was killed is free.
    setup.node.sigkill();
    setup.node.start_again().await;
    setup.publish(&mut model, &contacts(5..15)).await;
    setup.hubspot_is(&model).await;
}

/// Waits until the node ends by itself, and expects it to say why in its last line.
async fn ends_and_says(node: &mut Node, expected: &[&str]) {
    assert_eq!(node.end().await.code(), Some(1));
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{last}");
    for expected in expected {
        assert!(last.contains(expected), "{expected:?} is not in {last:?}");
    }
}

#[tokio::test]
async fn a_node_whose_data_directory_is_deleted_or_replaced_ends_with_status_1_and_says_so() {
    type Lose = fn(&Path);
    let losses: [(Lose, &str, &str); 3] = [
        (|data| fs::remove_dir_all(data).expect("removed"), "records.db", "the record stream is lost"),
        (
            |data| fs::remove_file(data.join("control.db-wal")).expect("removed"),
            "control.db",
            "the control store is lost",
        ),
        (
            |data| {
                let backup = data.join("backup");
                fs::copy(data.join("records.db"), &backup).expect("a backup");
                fs::rename(backup, data.join("records.db")).expect("restored under a running node");
            },
            "records.db",
            "the record stream is lost",
        ),
    ];
    for (lose, file, expected) in losses {
        let mut node = Node::start().await;
        node.api.publish(lines(&contacts(0..10))).await.expect(200);
        let data = node.data();
        lose(&data);
        // Whether it ends before it answers or after: nothing is acknowledged that nobody will find.
        if file == "records.db" {
            assert_eq!(node.api.try_publish(&contacts(10..20)).await, None);
        }
        let file = data.join(file).display().to_string();
        ends_and_says(&mut node, &[expected, &file, "deleted or replaced", "restore it from a backup"]).await;
    }
}

#[tokio::test]
async fn a_node_that_meets_damage_ends_with_status_1_and_says_which_file() {
    let directory = left_behind().await;
    let file = directory.path().join("data/records.db");
    let mut bytes = fs::read(&file).expect("the stream");
    let (middle, end) = (bytes.len() / 2, bytes.len());
    bytes[middle..end].fill(0xa5);
    fs::write(&file, bytes).expect("damaged");
    let mut node = Node::start_on(directory).await;
    let request = node.api.request(reqwest::Method::GET, "/v1/syncs").send().await.expect("an answer");
    assert_eq!(request.status(), 503);
    ends_and_says(&mut node, &["the record stream is lost", &file.display().to_string(), "it is damaged"]).await;
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_is_named_and_no_other_suffers() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.publish(&mut model, &contacts(0..10)).await;
    setup.hubspot_is(&model).await;
    let connection = json!({"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"});
    let other = json!({"name": "other", "connection": connection});
    let other = setup.node.api.post("/v1/targets", &other).await.expect(201)["id"].clone();
    setup.draft("draft", &json!({"provider": HUBSPOT})).await;
    let draft = setup.consumer("draft").await["id"].clone();
    assert_eq!(setup.node.sigterm().await.code(), Some(0));

    // As a later version of this program writes it: a map of v, which is 9, and doc, which is nil.
    let newer = b"\x82\xa1v\x09\xa3doc\xc0";
    let store = SqliteStore::open(&setup.node.data().join("control.db")).await.expect("the store");
    let keys = [("target", &other), ("consumer", &draft)];
    for (kind, id) in keys {
        store.put(&format!("{kind}/{}", id.as_str().expect("an id")), newer.to_vec()).await.expect("written");
    }
    // And of a kind that this one does not know.
    store.put("session/a/b", newer.to_vec()).await.expect("written");
    drop(store);
    setup.node.start_again().await;

    setup.publish(&mut model, &contacts(5..15)).await;
    setup.hubspot_is(&model).await;
    let api = &setup.node.api;
    for ((kind, id), readable) in keys.into_iter().zip(["app", HUBSPOT]) {
        let list = api.get(&format!("/v1/{kind}s")).await.expect(200);
        let names: Vec<&Value> = list["data"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
        assert_eq!((names, &list["unreadable"][0]["id"]), (vec![&json!(readable)], id), "{list}");
        let detail = list["unreadable"][0]["detail"].as_str().expect("a detail");
        assert!(detail.contains("version 9") && detail.contains("upgrade the node"), "{detail}");
        let one = api.get(&format!("/v1/{kind}s/{}", id.as_str().expect("an id"))).await;
        assert_eq!(one.body["detail"], detail);
        one.expect_problem(500);
        // What the later version wrote is neither changed nor deleted.
        let path = format!("/v1/{kind}s/{}", id.as_str().expect("an id"));
        for refused in [api.patch(&path, &json!({"name": "mine"})).await, api.delete(&path).await] {
            assert_eq!(refused.body["detail"], detail);
            refused.expect_problem(500);
        }
    }
    // It may be the target of the consumer that can't be read.
    let refused = api.delete("/v1/targets/app").await;
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("upgrade the node")), "{refused:?}");
    refused.expect_problem(500);
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    let store = SqliteStore::open(&setup.node.data().join("control.db")).await.expect("the store");
    for key in
        keys.map(|(kind, id)| format!("{kind}/{}", id.as_str().expect("an id"))).iter().chain(&["session/a/b".into()])
    {
        assert_eq!(store.get(key).await.expect("an answer").expect("there").value, newer, "{key}");
    }
}

/// A consumer that has acknowledged records to bring and no room for its checkpoint. The disk is full.
async fn on_a_full_disk(disk: &SmallDisk, model: &mut Model) -> Setup {
    let node = Node::start_on(disk.directory_with_data()).await;
    let setup = Setup::with(node, Database::create().await).await;
    setup.start_hubspot().await;
    setup.publish(model, &contacts(0..100)).await;
    setup.reached(HUBSPOT, 100).await;
    let blocker = setup.database.connect().await;
    blocker.batch_execute("begin; lock table sequin.hubspot in access exclusive mode").await.expect("a lock");
    setup.publish(model, &contacts(50..150)).await;
    disk.fill();

    for size in [1, 2000] {
        let refused = setup.node.api.publish(lines(&contacts(0..size))).await;
        let detail = refused.body["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains("disk") && detail.contains("full") && detail.contains("nothing"), "{detail}");
        refused.expect_problem(503);
    }
    blocker.batch_execute("rollback").await.expect("the lock is gone");
    setup.hubspot_is(model).await;
    eventually("the consumer to say that it can't save its checkpoint", async || {
        holds(setup.node.log().contains("the checkpoint was not saved"), || "it does not".into())
    })
    .await;
    assert!(setup.node.api.is_ready().await);
    let synced = setup.node.api.get(&format!("/v1/syncs/{}", sync(1))).await.expect(200);
    assert_eq!(synced["last_updated_idx"], 200, "what was refused is in the stream");
    setup
}

async fn goes_on(setup: &Setup, mut model: Model) {
    setup.publish(&mut model, &contacts(120..180)).await;
    setup.reached(HUBSPOT, 260).await;
    setup.hubspot_is(&model).await;
    setup.consumer_is(HUBSPOT, "healthy", |consumer| consumer["health"]["status"] == "healthy").await;
}

#[tokio::test]
async fn a_full_disk_refuses_publications_and_all_goes_on_by_itself_once_there_is_room() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let mut model = Model::default();
    let setup = on_a_full_disk(&disk, &mut model).await;
    disk.free();
    setup.reached(HUBSPOT, 200).await;
    goes_on(&setup, model).await;
}

#[tokio::test]
async fn a_node_that_is_killed_while_its_disk_is_full_starts_there_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let mut model = Model::default();
    let mut setup = on_a_full_disk(&disk, &mut model).await;
    setup.node.sigkill();
    setup.node.start_again().await;
    setup.node.api.publish(lines(&contacts(0..10))).await.expect_problem(503);
    disk.free();
    goes_on(&setup, model).await;
}
