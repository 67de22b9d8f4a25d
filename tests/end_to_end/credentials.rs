//! Passwords that somebody else changes: in the database, and in the file or in the store that we have them from.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
};

use chrono::Utc;
use sequin_actors::{
    Engine, EngineSettings,
    model::{Connection, Secret, Target, TargetState, TargetStatus},
    postgres::Egress,
    store::{Documents, Keyring, SqliteStore},
    stream::{RecordStream, SqliteStream},
};
use serde_json::json;

use crate::support::{
    database::{Database, PASSWORD},
    engine::{forwarding, of_provider, target},
    eventually, holds,
    model::{HUBSPOT, Model, compare, contact, publication, sync},
    scripted::{ScriptedStore, StoreScript},
};

/// Sets another password, and ends the sessions that were opened with the one before.
async fn change_password(database: &Database, password: &str) {
    database.run(&format!("alter role {} password '{password}'", database.user)).await;
    database.end_our_sessions().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_changed_in_the_database_counts_once_the_file_or_the_store_has_it_too_and_is_told_nobody() {
    let database = Database::create().await;
    let directory = tempfile::tempdir().expect("a directory");
    let secrets = tempfile::tempdir().expect("a directory");
    let file = secrets.path().join("app-password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("written");

    let stream = Arc::new(SqliteStream::open(&directory.path().join("records.db")).expect("a stream"));
    let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
    let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
    let script = Arc::new(StoreScript::default());
    let documents = Documents::new(Arc::new(ScriptedStore::new(store, &script)), Arc::new(keyring));
    let by_file = target(&database);
    let connection =
        Connection { password: None, password_file: Some("app-password".into()), ..by_file.connection.clone() };
    let by_file = Target { connection, ..by_file };
    documents.create(&by_file, Utc::now()).await.expect("a target");
    documents.create(&forwarding(HUBSPOT, of_provider(HUBSPOT)), Utc::now()).await.expect("a consumer");
    database.make_table(HUBSPOT).await;

    let egress = Egress { secrets_directory: Some(secrets.path().to_owned()), ..Egress::default() };
    let settings = EngineSettings { egress, ..EngineSettings::default() };
    let as_stream: Arc<dyn RecordStream> = stream.clone();
    let engine = Engine::start(settings, as_stream, documents.clone()).await.expect("an engine");
    let mut model = Model::default();
    let publish_and_see = async |model: &mut Model, number| {
        let versions = [contact(sync(1), number, json!("new"))];
        let published = stream.publish(publication(&versions)).await.expect("published");
        assert_eq!(published.last.as_bigint(), model.publish(&versions));
        let expected = model.of_provider(HUBSPOT);
        eventually("the table to be as it must", async || compare(&database.table(HUBSPOT).await, &expected)).await;
    };
    let refused = async || {
        eventually("the target to say that it is not let in", async || {
            let status = documents.get::<TargetStatus>(by_file.id).await.expect("read").expect("a status").value;
            let said = format!("{status:?}");
            assert!(!["second one", "third one", PASSWORD].iter().any(|secret| said.contains(secret)), "{said}");
            let is_so = status.state == TargetState::Unhealthy
                && status
                    .reason
                    .is_some_and(|reason| reason.cause.is_some_and(|cause| cause.contains("let this user in")));
            holds(is_so, || said)
        })
        .await;
    };
    publish_and_see(&mut model, 1).await;

    change_password(&database, "second one").await;
    refused().await;
    fs::write(&file, "second one\n").expect("written");
    publish_and_see(&mut model, 2).await;

    // Nobody hears of the change but who asks.
    script.is_deaf.store(true, Ordering::SeqCst);
    change_password(&database, "third one").await;
    refused().await;
    let connection =
        Connection { password: Some(Secret::new("third one")), password_file: None, ..by_file.connection.clone() };
    let by_store = Target { connection, updated_at: Utc::now(), ..by_file.clone() };
    documents.put(by_store.id, &by_store).await.expect("written");
    publish_and_see(&mut model, 3).await;
    engine.stop().await;
}
