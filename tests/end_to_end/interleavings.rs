//! Whatever order things happen in, the tables end up as the map does that the same operations went to.

use std::{collections::BTreeMap, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::{
    database::{Database, slow_writes},
    engine::{Place, forwarding, of_provider, of_sync},
    eventually,
    model::{HUBSPOT, Model, Table, Version, compare, contact, no_contact, sync},
};

/// How many cases are tried, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 16;

/// How long a smaller case that fails too is looked for, in milliseconds.
const SHRINK_FOR: u32 = 120_000;

const STRIPE: &str = "stripe";

/// Syncs 0 to 2 are HubSpot's, 3 is Stripe's.
const SYNCS: u128 = 4;

/// So few records for each sync that most operations meet earlier ones.
const RECORDS: u32 = 4;

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// One publication.
    Publish(Vec<Operation>),
    /// An engine starts, if there is none.
    Start(Shape),
    /// The engine finishes what is in flight, and ends; what follows happens without one.
    Stop,
    /// Everything that the engine does is cut off where it is.
    CutOff,
    Pause,
    Resume,
    /// The tables refuse what is longer than others.
    Forbid,
    /// They take everything again; what was refused stays so until somebody resumes.
    Allow,
    /// Time goes by, in milliseconds.
    Pass(u64),
    /// Whatever runs comes to the end of the stream.
    CatchUp,
}

/// How an engine is built.
#[derive(Clone, Copy, Debug)]
struct Shape {
    writers: usize,
    budget_bytes: usize,
}

#[derive(Clone, Debug)]
struct Operation {
    sync: u128,
    record: u32,
    /// How many bytes of payload; `None` deletes.
    size: Option<usize>,
}

fn operation() -> impl Strategy<Value = Operation> {
    let size = prop_oneof![
        12 => Just(None),
        24 => (0usize..200).prop_map(Some),
        1 => (0usize..100_000).prop_map(Some),
    ];
    (0..SYNCS, 0..RECORDS, size).prop_map(|(sync, record, size)| Operation { sync, record, size })
}

/// A few operations, or so many that a writer's transactions are large.
fn operations() -> impl Strategy<Value = Vec<Operation>> {
    prop_oneof![
        6 => prop::collection::vec(operation(), 1..8),
        3 => prop::collection::vec(operation(), 8..100),
        1 => prop::collection::vec(operation(), 100..2000),
    ]
}

/// Room for one page at a time, or for many, which writers bring in any order.
fn shape() -> impl Strategy<Value = Shape> {
    let budget = prop_oneof![1 => 1usize..300_000, 3 => 16_000_000usize..32_000_000];
    (1usize..=6, budget).prop_map(|(writers, budget_bytes)| Shape { writers, budget_bytes })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => operations().prop_map(Step::Publish),
        4 => shape().prop_map(Step::Start),
        1 => Just(Step::Stop),
        2 => Just(Step::CutOff),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Forbid),
        1 => Just(Step::Allow),
        5 => (0u64..40).prop_map(Step::Pass),
        4 => Just(Step::CatchUp),
    ]
}

#[test]
fn tables_equal_the_model_whatever_the_order_of_publishing_starting_stopping_and_cutting_off() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, max_shrink_time: SHRINK_FOR, failure_persistence: None, ..Config::default() };
    let runtime = Runtime::new().expect("a runtime");
    let database = runtime.block_on(Database::create());
    let steps = (shape(), prop::collection::vec(step(), 1..60));
    let run = |(shape, steps): (Shape, Vec<Step>)| {
        let mut play = Play::new(&runtime, &database);
        play.start(shape);
        for step in &steps {
            play.step(step);
        }
        play.end(shape);
        Ok::<_, TestCaseError>(())
    };
    TestRunner::new(config).run(&steps, run).unwrap_or_else(|error| panic!("{error}"));
}

/// One case: a data directory, and a table for each of three consumers.
struct Play<'a> {
    runtime: &'a Runtime,
    database: &'a Database,
    model: Model,
    place: Place,
    is_paused: bool,
    /// Whether something may be in quarantine.
    may_lack: bool,
}

impl<'a> Play<'a> {
    fn new(runtime: &'a Runtime, database: &'a Database) -> Self {
        let consumers = [
            forwarding("all", of_provider(HUBSPOT)),
            forwarding("one_sync", of_sync(sync(1))),
            forwarding("others", of_provider(STRIPE)),
        ];
        runtime.block_on(async {
            for consumer in &consumers {
                database.run(&format!("drop table if exists sequin.{}", consumer.table.table)).await;
                database.make_table(&consumer.table.table).await;
                // So that transactions that begin together end in any order.
                database.run(&slow_writes(&consumer.table.table, "0.05 * random() ^ 3")).await;
            }
        });
        let (model, place) = (Model::default(), Place::new(database, &consumers));
        Self { runtime, database, model, place, is_paused: false, may_lack: false }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(operations) => {
                let versions: Vec<_> = operations.iter().map(Operation::version).collect();
                assert_eq!(self.place.publish(&versions), self.model.publish(&versions));
            }
            Step::Start(shape) => self.start(*shape),
            Step::Stop => self.place.stop(),
            Step::CutOff => self.place.cut_off(),
            Step::Pause => self.pause(true),
            Step::Resume => self.pause(false),
            Step::Forbid => self.forbid(),
            Step::Allow => self.constrain(""),
            Step::Pass(milliseconds) => std::thread::sleep(Duration::from_millis(*milliseconds)),
            Step::CatchUp => self.catch_up(),
        }
    }

    fn start(&mut self, shape: Shape) {
        self.place.start(shape.writers, shape.budget_bytes);
    }

    fn pause(&mut self, pause: bool) {
        self.is_paused = pause;
        self.place.pause(pause);
    }

    fn forbid(&mut self) {
        self.may_lack = true;
        self.constrain(", add constraint short check (length(payload->>'text') < 150) not valid");
    }

    /// Drops the constraint of all tables, and does what else is said.
    fn constrain(&self, and: &str) {
        let alter = |table| format!("alter table sequin.{table} drop constraint if exists short{and};");
        let alter = self.expected().into_keys().map(alter).collect::<String>();
        self.runtime.block_on(self.database.run(&alter));
    }

    fn catch_up(&self) {
        if self.is_paused || self.may_lack || !self.place.is_running() {
            return;
        }
        self.runtime.block_on(eventually("the tables to equal the model", async || self.compare().await));
    }

    async fn compare(&self) -> Result<(), String> {
        for (table, expected) in self.expected() {
            compare(&self.database.table(table).await, &expected).map_err(|seen| format!("in {table}, {seen}"))?;
        }
        Ok(())
    }

    fn expected(&self) -> BTreeMap<&'static str, Table> {
        BTreeMap::from([
            ("all", self.model.of_provider(HUBSPOT)),
            ("one_sync", self.model.of_sync(sync(1))),
            ("others", self.model.of_provider(STRIPE)),
        ])
    }

    /// However it went: with an engine that runs, and tables that take everything, everything is brought, and the
    /// checkpoints say so.
    fn end(mut self, shape: Shape) {
        self.constrain("");
        self.start(shape);
        self.pause(false);
        let (hubspot, stripe) = (self.model.last_idx(HUBSPOT), self.model.last_idx(STRIPE));
        self.place.reaches(&[hubspot, self.model.last_idx_of_sync(sync(1)), stripe]);
        self.place.holds_nothing_in_quarantine();
        self.runtime.block_on(self.compare()).unwrap_or_else(|seen| panic!("all is brought, but {seen}"));
    }
}

impl Operation {
    fn version(&self) -> Version {
        let Self { sync: number, record, size } = *self;
        let version = match size {
            Some(size) => contact(sync(number), record, json!({"text": "x".repeat(size)})),
            None => no_contact(sync(number), record),
        };
        Version { provider: if number < 3 { HUBSPOT } else { STRIPE }, ..version }
    }
}
