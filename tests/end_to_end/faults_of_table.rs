//! The table's fault: it, its columns or the rights on it are not as they should be. Its consumer halts and says which SQL
//! mends it; once that was run it goes on, at once if it is resumed, and nobody else notices any of it.

use std::ops::Range;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    eventually_within, holds,
    model::{HUBSPOT, Model, Version, contact, sync},
    setup::Setup,
    status::{reason, reason_with_cause, reasons, says},
};

/// What somebody does to the table `TABLE`, the code of what is then found, and what to do if not the SQL that the consumer
/// says. `USER` is the user that we connect as.
const CAUSES: &[(&str, &str, Option<&str>)] = &[
    ("alter table TABLE drop column sync_external_id", "column_missing", None),
    (
        "alter table TABLE rename column payload to body",
        "column_missing",
        Some("alter table TABLE rename body to payload"),
    ),
    ("alter table TABLE alter column sync_external_id type integer using 0", "column_type", None),
    ("alter table TABLE drop constraint TABLE_pkey", "primary_key_missing", None),
    ("alter table TABLE drop constraint TABLE_pkey, add primary key (upstream_id)", "primary_key_wrong", None),
    ("revoke insert on TABLE from USER", "table_privilege_missing", None),
    ("revoke all on TABLE from USER", "table_privilege_missing", None),
    // What was renamed is better renamed back than made again.
    ("alter table TABLE rename to gone", "table_missing", Some("alter table gone rename to TABLE")),
];

/// How often mending may uncover what was hidden behind the first finding.
const ROUNDS: usize = 4;

/// How soon a consumer that nobody resumes goes on.
const BY_ITSELF: std::time::Duration = std::time::Duration::from_secs(90);

fn contacts(numbers: Range<u128>, state: &str) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 7), number, json!(state))).collect()
}

/// A consumer that something is done to.
struct Patient<'a> {
    setup: &'a Setup,
    name: String,
}

impl<'a> Patient<'a> {
    async fn new(setup: &'a Setup, name: String) -> Self {
        setup.start(&name, &json!({"provider": HUBSPOT})).await;
        Self { setup, name }
    }

    /// Runs the customer's statement.
    async fn run(&self, sql: &str) {
        let sql = sql.replace("TABLE", &self.name).replace("USER", &self.setup.database.user);
        let session = self.setup.database.connect().await;
        session.batch_execute("set search_path = sequin").await.expect("the setting");
        session.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Waits until the consumer has halted, and says what was found, with the SQL that mends it.
    async fn halts(&self, code: &str) {
        // What the database said when it refused comes first; what was then found to be the matter follows.
        let has_found = |consumer: &Value| says(consumer, code, "") && !says(consumer, code, "SQLSTATE");
        let has_halted = |consumer: &Value| consumer["state"] == "halted" && has_found(consumer);
        let consumer = self.setup.consumer_is(&self.name, &format!("halted: {code}"), has_halted).await;
        assert_eq!(reason(&consumer, code)["severity"], "error", "{consumer}");
    }

    /// Runs what each reason says, word for word.
    async fn is_mended(&self) {
        let consumer = self.setup.consumer(&self.name).await;
        for reason in reasons(&consumer).iter().filter(|reason| reason["severity"] == "error") {
            self.run(reason["fix"].as_str().expect("SQL")).await;
        }
    }

    /// Does so and resumes the consumer, until nothing else is found.
    async fn is_mended_in_rounds(&self) {
        for _ in 0..ROUNDS {
            let before = self.setup.consumer(&self.name).await["health"]["reasons"].clone();
            self.is_mended().await;
            self.setup.act(&self.name, "resume").await;
            let is_news = |consumer: &Value| consumer["health"]["reasons"] != before;
            let consumer = self.setup.consumer_is(&self.name, "as it is now", is_news).await;
            if consumer["health"]["status"] == "healthy" {
                return;
            }
        }
        panic!("it was not mended in {ROUNDS} rounds: {}", self.setup.consumer(&self.name).await);
    }

    async fn is_well(&self, model: &Model) {
        self.setup.table_is(&self.name, &model.of_provider(HUBSPOT)).await;
        self.setup.node.api.is_well(&self.name).await;
    }
}

/// Does to each consumer what there is for it to suffer, waits until it says so, and mends that.
async fn suffer(patients: &[Patient<'_>], model: &mut Model, state: &str) {
    let setup = patients[0].setup;
    join_all(patients.iter().zip(CAUSES).map(|(patient, (cause, ..))| patient.run(cause))).await;
    setup.publish(model, &contacts(200..400, state)).await;
    join_all(patients.iter().zip(CAUSES).map(|(patient, (_, code, _))| patient.halts(code))).await;
    setup.publish(model, &contacts(300..500, "meanwhile")).await;
    setup.hubspot_is_undisturbed(model).await;
    assert_eq!(setup.node.api.target("app").await["state"], "healthy");
    for (patient, (.., mend)) in patients.iter().zip(CAUSES) {
        match mend {
            Some(mend) => patient.run(mend).await,
            None => patient.is_mended().await,
        }
    }
}

#[tokio::test]
async fn a_consumer_whose_table_goes_wrong_halts_and_goes_on_once_the_sql_that_it_says_was_run() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let patients = join_all((0..CAUSES.len()).map(|number| Patient::new(&setup, format!("t{number}")))).await;
    // While records flow: some come before, some after.
    setup.publish(&mut model, &contacts(0..300, "flowing")).await;
    suffer(&patients, &mut model, "flowing").await;
    join_all(patients.iter().map(|patient| setup.act(&patient.name, "resume"))).await;
    join_all(patients.iter().map(|patient| patient.is_well(&model))).await;
    // While none do: that shows at the next one. And nobody resumes.
    suffer(&patients, &mut model, "the next").await;
    let all_go_on = async || {
        let states = join_all(patients.iter().map(|patient| setup.consumer(&patient.name))).await;
        let halted: Vec<_> = states.iter().filter(|consumer| consumer["state"] == "halted").collect();
        holds(halted.is_empty(), || format!("there are {halted:?}"))
    };
    eventually_within(BY_ITSELF, "all to go on by themselves", all_go_on).await;
    join_all(patients.iter().map(|patient| patient.is_well(&model))).await;
    setup.hubspot_is_undisturbed(&model).await;
}

#[tokio::test]
async fn a_table_that_is_dropped_is_made_again() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    setup.start_hubspot().await;
    let patient = Patient::new(&setup, "t".into()).await;
    setup.node.api.is_well("t").await;
    patient.run("drop table TABLE").await;
    setup.publish(&mut model, &contacts(0..100, "missed")).await;
    patient.halts("table_missing").await;
    setup.hubspot_is_undisturbed(&model).await;
    patient.is_mended_in_rounds().await;
    patient.is_well(&model).await;
}

#[tokio::test]
async fn a_schema_that_is_dropped_is_made_again_with_its_table_and_the_rights_on_both() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let patient = Patient::new(&setup, "t".into()).await;
    setup.node.api.is_well("t").await;
    patient.run("drop schema sequin cascade").await;
    setup.publish(&mut model, &contacts(0..100, "missed")).await;
    patient.halts("schema_missing").await;
    patient.is_mended_in_rounds().await;
    patient.is_well(&model).await;
}

#[tokio::test]
async fn what_is_found_says_why_such_a_thing_happens() {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let patient = Patient::new(&setup, "t".into()).await;
    setup.node.api.is_well("t").await;
    patient.run("alter table TABLE drop constraint TABLE_pkey").await;
    setup.publish(&mut model, &contacts(0..1, "one")).await;
    patient.halts("primary_key_missing").await;
    reason_with_cause(&setup.consumer("t").await, "primary_key_missing");
}

/// A table that has rows goes wrong, and is mended by what the consumer says: it then holds everything, and nothing was
/// blamed on a record.
async fn is_mended_with_its_rows(changes: &[&str], code: &str) {
    let setup = Setup::new().await;
    let mut model = Model::default();
    let patient = Patient::new(&setup, "t".into()).await;
    setup.publish(&mut model, &contacts(0..100, "before")).await;
    patient.is_well(&model).await;
    for change in changes {
        patient.run(change).await;
    }
    setup.publish(&mut model, &contacts(50..150, "after")).await;
    patient.halts(code).await;
    assert_eq!(setup.consumer("t").await["quarantined"], 0);
    patient.is_mended_in_rounds().await;
    patient.is_well(&model).await;
}

#[tokio::test]
async fn a_column_that_must_have_a_value_is_added_again_though_there_are_rows() {
    is_mended_with_its_rows(&["alter table TABLE drop column upstream_updated_at"], "column_missing").await;
}

#[tokio::test]
async fn a_table_that_was_dropped_with_its_rows_and_made_again_gets_all_of_them() {
    is_mended_with_its_rows(&["drop table TABLE"], "table_missing").await;
}

#[tokio::test]
async fn a_column_that_only_somebody_else_could_fill_is_the_table_s_fault_and_not_that_of_each_record() {
    let changes = [
        "alter table TABLE add column theirs text not null default ''",
        "alter table TABLE alter column theirs drop default",
    ];
    is_mended_with_its_rows(&changes, "column_extra").await;
}
