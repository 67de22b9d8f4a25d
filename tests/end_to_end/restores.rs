//! Stream and control store put back to an earlier state, and the table not: its rows are newer than all that is read, so
//! nothing that is published would reach them. The consumer notices, says so, and stops until somebody has decided.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sequin_actors::store::Keyring;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    database::Database,
    model::{HUBSPOT, Model, Version, contact, no_contact, sync},
    nats::Nats,
    node::Node,
    setup::Setup,
};

fn contacts(numbers: std::ops::Range<u32>, payload: &str) -> Vec<Version> {
    numbers.map(|n| contact(sync(1), n, json!([payload, n]))).collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status().expect("cp");
    assert!(copied.success(), "{} is copied to {}", from.display(), to.display());
}

/// A node with the consumer `hubspot`, whose stream and store can be put back.
struct Restorable {
    setup: Setup,
    /// `None`: they lie in the node's own data directory.
    nats: Option<Nats>,
    settings: Vec<(&'static str, String)>,
    backups: TempDir,
}

impl Restorable {
    async fn embedded() -> Self {
        Self::with(None, Vec::new()).await
    }

    async fn on_nats() -> Self {
        let nats = Nats::start();
        let settings = vec![
            ("SEQUIN_BACKEND", nats.url()),
            ("SEQUIN_ENCRYPTION_KEY", Keyring::generate_base64()),
            ("SEQUIN_SESSION_TTL_SECONDS", "2".into()),
        ];
        Self::with(Some(nats), settings).await
    }

    async fn with(nats: Option<Nats>, settings: Vec<(&'static str, String)>) -> Self {
        let directory = || tempfile::tempdir().expect("a directory");
        let node = Node::start_with(directory(), &borrowed(&settings)).await;
        let setup = Setup::with(node, Database::create().await).await;
        setup.start_hubspot().await;
        Self { setup, nats, settings, backups: directory() }
    }

    /// Publishes, and waits until that is in the table and on record.
    async fn bring(&self, model: &mut Model, versions: &[Version]) {
        self.setup.publish(model, versions).await;
        self.setup.reached(HUBSPOT, model.last_idx(HUBSPOT)).await;
        self.setup.hubspot_is(model).await;
    }

    /// Where stream and store lie.
    fn place(&self) -> PathBuf {
        self.nats.as_ref().map_or_else(|| self.setup.node.data(), |nats| nats.place(0).join("jetstream"))
    }

    fn backup(&self, name: &str) -> PathBuf {
        self.backups.path().join(name)
    }

    /// Does something while neither the node nor its servers run.
    async fn while_stopped(&mut self, work: impl FnOnce(&Self)) {
        assert_eq!(self.setup.node.sigterm().await.code(), Some(0));
        if let Some(nats) = &mut self.nats {
            nats.kill(0);
        }
        work(self);
        if let Some(nats) = &mut self.nats {
            nats.restart(0);
        }
        self.setup.node.start_again_with(&borrowed(&self.settings)).await;
    }

    /// Brings five records, keeps a copy of everything under `earlier`, brings changes of three of them and more records, keeps
    /// that under `later`, and goes on from the first copy. What both states publish, in models.
    async fn gone_back(&mut self) -> (Model, Model) {
        let (mut earlier, mut later) = (Model::default(), Model::default());
        self.bring(&mut later, &contacts(0..5, "first")).await;
        earlier.publish(&contacts(0..5, "first"));
        self.while_stopped(|it| copy(&it.place(), &it.backup("earlier"))).await;
        self.bring(&mut later, &contacts(2..12, "later")).await;
        self.while_stopped(|it| {
            copy(&it.place(), &it.backup("later"));
            fs::remove_dir_all(it.place()).expect("removed");
            copy(&it.backup("earlier"), &it.place());
        })
        .await;
        (earlier, later)
    }

    /// Waits until the consumer has halted since its stream went back; returns the way out that it names.
    async fn is_halted_at(&self, checkpoint: u64) -> String {
        let halted = self.setup.state_is(HUBSPOT, "halted").await;
        let reason = &halted["health"]["reasons"][0];
        assert_eq!(
            (&reason["code"], &halted["checkpoint"]),
            (&json!("stream_went_back"), &json!(checkpoint)),
            "{halted}"
        );
        let summary = reason["summary"].as_str().expect("a summary");
        assert!(summary.contains("rows that are newer than the record stream"), "{summary}");
        reason["fix"].as_str().expect("a fix").into()
    }

    /// The way out.
    async fn empty_and_read_again(&self) {
        self.setup.database.run("truncate sequin.hubspot").await;
        self.setup.node.api.post("/v1/consumers/hubspot/rewind", &json!({"to": 0})).await.expect(200);
    }
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn halts_and_is_right_once_the_table_is_emptied(mut restorable: Restorable) {
    let (mut earlier, later) = restorable.gone_back().await;
    // Record 4 is of position 8 in the table, and of 6 now; and with the others the stream gets past that at once.
    let versions = [contacts(4..5, "anew"), contacts(20..60, "anew")].concat();
    restorable.setup.publish(&mut earlier, &versions).await;
    let fix = restorable.is_halted_at(5).await;
    assert!(fix.contains("sequin consumer rewind hubspot --to 0") && fix.contains("sequin.hubspot"), "{fix}");
    // Neither a restart makes it go on, nor that the record has a version beyond its row now.
    restorable.while_stopped(|_| {}).await;
    restorable.setup.publish(&mut earlier, &contacts(4..5, "again")).await;
    restorable.setup.act(HUBSPOT, "pause").await;
    restorable.setup.state_is(HUBSPOT, "paused").await;
    restorable.setup.act(HUBSPOT, "resume").await;
    restorable.is_halted_at(5).await;
    let table = restorable.setup.database.table(HUBSPOT).await;
    let of_later = later.of_provider(HUBSPOT);
    assert!(of_later.iter().all(|(key, row)| table.get(key) == Some(row)), "no row went back: {table:?}");

    restorable.empty_and_read_again().await;
    restorable.setup.hubspot_is(&earlier).await;
    restorable.bring(&mut earlier, &contacts(0..80, "last")).await;
    restorable.setup.node.api.is_well(HUBSPOT).await;
}

#[tokio::test]
async fn a_consumer_whose_table_is_newer_than_its_data_directory_halts_and_is_right_once_the_table_is_emptied() {
    halts_and_is_right_once_the_table_is_emptied(Restorable::embedded().await).await;
}

#[tokio::test]
async fn a_consumer_whose_table_is_newer_than_the_streams_in_nats_halts_and_is_right_once_the_table_is_emptied() {
    halts_and_is_right_once_the_table_is_emptied(Restorable::on_nats().await).await;
}

#[tokio::test]
async fn a_delete_that_finds_a_newer_row_halts_the_consumer_which_goes_on_with_a_newer_backup() {
    let mut restorable = Restorable::embedded().await;
    let (mut earlier, mut later) = restorable.gone_back().await;
    // One that finds no row is as it should be, one that finds a row of position 8 is not.
    restorable.setup.publish(&mut earlier, &[no_contact(sync(1), 100)]).await;
    restorable.setup.reached(HUBSPOT, 6).await;
    restorable.setup.node.api.is_well(HUBSPOT).await;
    restorable.setup.publish(&mut earlier, &[no_contact(sync(1), 4)]).await;
    let fix = restorable.is_halted_at(6).await;
    assert!(fix.contains("restore a newer backup"), "{fix}");
    restorable.setup.hubspot_is(&later).await;

    // The stream alone, whose positions say nothing of what was brought.
    restorable.while_stopped(|it| copy(&it.backup("later").join("records.db"), &it.place())).await;
    restorable.is_halted_at(6).await;
    restorable.empty_and_read_again().await;
    restorable.bring(&mut later, &contacts(0..20, "last")).await;
    restorable.setup.node.api.is_well(HUBSPOT).await;
}

/// More than a writer brings at once, with as many on each side.
const BETWEEN: u32 = 10_000;

#[tokio::test]
async fn records_of_two_syncs_that_share_an_id_and_so_a_row_are_no_sign_of_a_stream_that_went_back() {
    let setup = Setup::new().await;
    let shared = |n: u128| {
        let record = contact(sync(n), "shared", json!(n)).to_json();
        let mut record = record.as_object().expect("a record").clone();
        record.insert("sequin_id".into(), json!(sync(77)));
        Value::Object(record).to_string()
    };
    let mut model = Model::default();
    setup.start_hubspot().await;
    setup.node.api.publish(shared(1)).await.expect(200);
    model.publish(&[contact(sync(1), "shared", json!(1))]);
    setup.publish(&mut model, &contacts(0..BETWEEN, "other")).await;
    setup.node.api.publish(shared(2)).await.expect(200);
    let last = i64::from(BETWEEN) + 2;
    setup.reached(HUBSPOT, last).await;
    // The row is of the second sync, and the version of the first is brought once more.
    setup.act(HUBSPOT, "pause").await;
    setup.state_is(HUBSPOT, "paused").await;
    setup.node.api.post("/v1/consumers/hubspot/rewind", &json!({"to": 0})).await.expect(200);
    setup.consumer_is(HUBSPOT, "at the start", |consumer| consumer["checkpoint"] == 0).await;
    setup.act(HUBSPOT, "resume").await;
    setup.reached(HUBSPOT, last).await;
    let consumer = setup.node.api.is_well(HUBSPOT).await;
    assert_eq!(consumer["backfill"]["total"], last, "both are in the stream: {consumer}");
}
