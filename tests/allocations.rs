//! What a record costs in allocations on its way, from the request that publishes it to its row: counted, since a time
//! says nothing on a machine that others use.
//!
//! The program itself, in this process, with a server of its own. What SQLite allocates is not seen: it is C.
//! `ALLOCATIONS=profile.json cargo test --test allocations` also writes where they come from, for
//! <https://nnethercote.github.io/dh_view/dh_view.html>.

#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
mod support;

use sequin::{
    config::Config,
    demo::crm::{Crm, PROVIDER},
    service::Service,
};
use sequin_actors::{EngineSettings, model::Secret};
use serde_json::{Value, json};
use support::{
    api::{Api, TOKEN},
    database::{Database, SCHEMA},
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What one record may cost on each stretch of its way.
const MOST: f64 = 2.0;

/// It is done with so many records and with so many: in the difference, what is there once cancels out.
const RECORDS: [u32; 2] = [20_000, 40_000];

/// How many syncs they belong to: what a publication remembers of each sync is no cost of a record.
const SYNCS: u32 = 50;

/// How many records one request publishes.
const RECORDS_A_REQUEST: usize = 5000;

const TABLE: &str = "hubspot";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_costs_at_most_two_allocations_on_each_stretch_of_its_way() {
    let (few, many) = (Lines::of(RECORDS[0]), Lines::of(RECORDS[1]));
    let profile = match std::env::var_os("ALLOCATIONS") {
        Some(path) => dhat::Profiler::builder().file_name(path),
        None => dhat::Profiler::builder().testing(),
    };
    // Counting is slow: it begins when what is published is there.
    let _profiler = profile.build();
    let few = Way::of(&few).await;
    let many = Way::of(&many).await;
    let more = |few: u64, many: u64| i32::try_from(many.cast_signed() - few.cast_signed()).expect("not that many");
    let cost = |few, many| f64::from(more(few, many)) / f64::from(RECORDS[1] - RECORDS[0]);
    let costs = few.iter().zip(&many).map(|((stretch, few), (_, many))| (*stretch, cost(*few, *many)));
    let costs: Vec<_> = costs.collect();
    println!("allocations a record: {costs:.3?}");
    assert!(costs.iter().all(|(_, cost)| *cost <= MOST), "at most {MOST} allocations a record, not {costs:.3?}");
}

/// What is published: a line of JSON each.
struct Lines {
    upserts: Vec<String>,
    deletes: Vec<String>,
}

impl Lines {
    fn of(records: u32) -> Self {
        let upserts: Vec<String> = Crm::new(42, SYNCS).backfill(records.into()).collect();
        let deletes = upserts.iter().map(|line| delete_of(line)).collect();
        Self { upserts, deletes }
    }
}

/// A service, and the customer's database.
struct Way {
    api: Api,
    database: Database,
    counted: Vec<(&'static str, u64)>,
}

impl Way {
    /// Brings these records, then an update of each, then their deletes, and counts the allocations of each stretch.
    async fn of(Lines { upserts, deletes }: &Lines) -> Vec<(&'static str, u64)> {
        let directory = tempfile::tempdir().expect("a directory");
        let config = Config { admin_token: Some(Secret::new(TOKEN)), ..Config::embedded(directory.path(), "test") };
        let service = Service::start(&config, EngineSettings::default()).await.expect("a service");
        let api = Api::new(format!("http://{}", service.address()));
        let mut way = Self { api, database: Database::create().await, counted: Vec::new() };
        way.set_up().await;

        let records = upserts.len();
        let is_there = format!("count(*) = {records}");
        way.publish("publishing creates", upserts).await;
        way.bring("bringing creates", &is_there).await;
        way.publish("publishing updates", upserts).await;
        way.bring("bringing updates", &format!("{is_there} and min(updated_idx) > {records}")).await;
        way.publish("publishing deletes", deletes).await;
        way.bring("bringing deletes", "count(*) = 0").await;
        service.stop().await;
        way.counted
    }

    /// Makes a target, and a consumer with its table, which does not run.
    async fn set_up(&self) {
        let target = json!({"name": "app", "connection": self.database.connection()});
        self.api.post("/v1/targets", &target).await.expect(201);
        let filter = json!({"provider": PROVIDER});
        let consumer = json!({"name": TABLE, "target": "app", "filter": filter, "schema": SCHEMA, "table": TABLE});
        self.api.post("/v1/consumers", &consumer).await.expect(201);
        self.database.make_table(TABLE).await;
    }

    async fn publish(&mut self, stretch: &'static str, lines: &[String]) {
        let requests: Vec<String> = lines.chunks(RECORDS_A_REQUEST).map(|lines| lines.join("\n")).collect();
        let before = allocations();
        for request in requests {
            self.api.publish(request).await.expect(200);
        }
        self.counted.push((stretch, allocations() - before));
    }

    /// Lets the consumer run until its table is so.
    async fn bring(&mut self, stretch: &'static str, is_so: &str) {
        let begin = if self.counted.len() == 1 { "start" } else { "resume" };
        // The server waits, since asking again and again would be counted too.
        let wait = format!(
            "do $$ begin
               while not (select {is_so} from {SCHEMA}.{TABLE}) loop perform pg_catalog.pg_sleep(0.05); end loop;
             end $$"
        );
        let before = allocations();
        self.act(begin).await;
        self.database.run(&wait).await;
        self.counted.push((stretch, allocations() - before));
        self.act("pause").await;
        self.api.consumer_is(TABLE, "paused", |consumer| consumer["state"] == "paused").await;
    }

    async fn act(&self, action: &str) {
        self.api.act(&format!("/v1/consumers/{TABLE}/{action}")).await.expect(200);
    }
}

fn delete_of(line: &str) -> String {
    let record: Value = serde_json::from_str(line).expect("a record");
    let field = |name: &str| record[name].clone();
    let delete = json!({
        "op": "delete", "provider": PROVIDER, "sync_id": field("sync_id"),
        "collection_id": field("collection_id"), "upstream_id": field("upstream_id"),
    });
    delete.to_string()
}

/// How many there were up to now.
fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}
