//! Encryption keys: several open, the first seals, and a rotation leaves the others behind.

use std::fs;

use sequin_actors::store::{Keyring, SqliteStore, Store};
use serde_json::{Value, json};

use crate::support::{
    cli::run,
    model::{HUBSPOT, Model, contact, sync},
    node::{Node, refuse_to_start},
    setup::Setup,
};

const KEY: &str = "SEQUIN_ENCRYPTION_KEY";

fn nowhere(name: &str) -> Value {
    let connection = json!({"host": "127.0.0.1", "port": 1, "database": "a", "username": "s", "password": "hunter2"});
    json!({"name": name, "connection": connection})
}

#[tokio::test]
async fn keys_are_rotated_beside_changes_and_the_old_one_is_not_needed_afterwards() {
    let mut setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    for number in 0..10 {
        setup.node.api.post("/v1/targets", &nowhere(&format!("before-{number}"))).await.expect(201);
    }
    let data = setup.node.data();
    let directory = data.parent().expect("its directory");
    let old = fs::read_to_string(data.join("encryption-key")).expect("the key");
    let new = Keyring::generate_base64();
    let both = format!("{new},{old}");

    // Until it is rotated, the old one is needed.
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    let refusal = refuse_to_start(directory, &[(KEY, &new)]).await;
    assert!(refusal.status == Some(2) && refusal.lines[0].contains("sequin rotate-keys"), "{refusal:?}");
    setup.node.start_again_with(&[(KEY, &both)]).await;
    setup.publish(&mut model, &[contact(sync(1), 1, json!({}))]).await;
    setup.hubspot_is(&model).await;

    let api = &setup.node.api;
    let change = async {
        for number in 0..10 {
            api.post("/v1/targets", &nowhere(&format!("meanwhile-{number}"))).await.expect(201);
            api.delete(&format!("/v1/targets/before-{number}")).await.expect(204);
        }
    };
    let (first, beside, ()) = tokio::join!(api.act("/v1/rotate-keys"), api.act("/v1/rotate-keys"), change);
    for rotation in [first, beside] {
        assert_eq!(rotation.expect(200)["unreadable"], json!([]));
    }
    let done = run(api, "rotate-keys").await;
    assert!(done.stderr.contains("everything is sealed under the first key"), "{done:?}");
    assert_eq!(done.expect_done(), "0 documents sealed anew\n");

    setup.node.sigkill();
    setup.node.start_again_with(&[(KEY, &new)]).await;
    setup.publish(&mut model, &[contact(sync(1), 2, json!({}))]).await;
    setup.hubspot_is(&model).await;
    let targets = setup.node.api.get("/v1/targets").await.expect(200);
    let are_set = targets["data"].as_array().expect("a list").iter().map(|one| &one["connection"]["password_set"]);
    assert_eq!(are_set.collect::<Vec<_>>(), vec![&json!(true); 11]);
    assert_eq!(targets.get("unreadable"), None);

    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    let refusal = refuse_to_start(directory, &[(KEY, &old)]).await;
    assert!(refusal.status == Some(2) && refusal.lines[0].contains("is not the encryption key"), "{refusal:?}");
    assert!(!refusal.lines[0].contains(&old) && !refusal.lines[0].contains(&new), "{refusal:?}");
}

#[tokio::test]
async fn the_file_of_the_key_takes_a_new_one_on_a_line_before_the_old_one() {
    let mut node = Node::start().await;
    node.api.post("/v1/targets", &nowhere("app")).await.expect(201);
    let file = node.data().join("encryption-key");
    let old = fs::read_to_string(&file).expect("the key");
    let new = Keyring::generate_base64();
    assert_eq!(node.sigterm().await.code(), Some(0));
    fs::write(&file, format!("{new}\nnot a key\n")).expect("written");
    let refusal = refuse_to_start(file.parent().and_then(|data| data.parent()).expect("its directory"), &[]).await;
    let [line] = refusal.lines.as_slice() else { panic!("{refusal:?}") };
    assert!(line.contains("encryption-key holds no encryption key: key 2 is none"), "{line}");

    fs::write(&file, format!("{new}\n{old}\n")).expect("written");
    node.start_again().await;
    assert_eq!(
        run(&node.api, "rotate-keys --output json").await.expect_json(),
        json!({"resealed": 1, "unreadable": []})
    );
    assert_eq!(node.sigterm().await.code(), Some(0));
    fs::write(&file, new).expect("written");
    node.start_again().await;
    let targets = node.api.get("/v1/targets").await.expect(200);
    assert_eq!((&targets["data"][0]["name"], targets.get("unreadable")), (&json!("app"), None));
}

#[tokio::test]
async fn what_cannot_be_read_is_named_by_a_rotation_which_keeps_the_old_key_needed() {
    let mut setup = Setup::new().await;
    let other = setup.node.api.post("/v1/targets", &nowhere("other")).await.expect(201);
    let id = other["id"].as_str().expect("an id").to_owned();
    let data = setup.node.data();
    let (old, new) = (fs::read_to_string(data.join("encryption-key")).expect("the key"), Keyring::generate_base64());
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    // As a later version of this program writes it: a map of v, which is 9, and doc, which is nil.
    let store = SqliteStore::open(&data.join("control.db")).await.expect("the store");
    let written = store.put(&format!("target/{id}"), b"\x82\xa1v\x09\xa3doc\xc0".to_vec()).await;
    written.expect("written");
    drop(store);

    setup.node.start_again_with(&[(KEY, &format!("{new},{old}"))]).await;
    let done = run(&setup.node.api, "rotate-keys").await;
    assert_eq!((done.status, done.stdout.as_str()), (Some(1), "1 document sealed anew\n"), "{done:?}");
    assert!(done.stderr.contains(&id) && done.stderr.contains("upgrade the node"), "{done:?}");
    assert!(done.stderr.contains("keep the other keys"), "{done:?}");
    assert_eq!(setup.node.sigterm().await.code(), Some(0));
    let refusal = refuse_to_start(data.parent().expect("its directory"), &[(KEY, &new)]).await;
    assert_eq!(refusal.status, Some(2), "{refusal:?}");
    setup.node.start_again_with(&[(KEY, &format!("{new},{old}"))]).await;
    setup.start_hubspot().await;
    setup.state_is(HUBSPOT, "live").await;
}
