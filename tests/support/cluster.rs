//! A cluster: three nodes, three NATS servers, and customers' databases, with a gate before each server. Records are
//! published all the time, and what must come of them is known.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sequin_actors::store::Keyring;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{
    api::Api,
    database::{Database, SCHEMA},
    eventually, eventually_within,
    gate::Gate,
    holds,
    model::{HUBSPOT, Key, Version, contact, no_contact, sync},
    nats::Nats,
    node::Node,
};

/// How many nodes and NATS servers there are.
pub(crate) const NODES: usize = 3;

/// What a node that is silent for so long has lost.
pub(crate) const TTL: Duration = Duration::from_secs(4);

/// How long everything may take to come to rest after the last fault.
const REST: Duration = Duration::from_secs(90);

/// The sessions of a target's pool.
const POOL_SIZE: i64 = 4;

/// Now and then, two more see whether the database answers.
const BEYOND_THE_POOL: i64 = 2;

/// How often the sessions in the databases are counted.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// How long there is between two publications.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a node may take to answer one: one that is paused answers nobody.
const ANSWER: Duration = Duration::from_secs(40);

/// How many records are published again and again: few, so that each changes often.
const RECORDS: u32 = 120;

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) nats: Nats,
    pub(crate) databases: Vec<Database>,
    gates_to_nats: Vec<Gate>,
    gate_to_databases: Gate,
    settings: Vec<(&'static str, String)>,
}

impl Cluster {
    /// Starts it, with so many databases, each of which a consumer brings everything to.
    pub(crate) async fn start(databases: usize) -> Self {
        let nats = Nats::start_with(NODES, "", "no_advertise: true, ");
        let mut gates_to_nats = Vec::new();
        for server in 0..NODES {
            gates_to_nats.push(Gate::before(nats.port(server)).await);
        }
        let hosts: Vec<String> = gates_to_nats.iter().map(|gate| format!("127.0.0.1:{}", gate.port())).collect();
        let settings = vec![
            ("SEQUIN_BACKEND", format!("nats://{}", hosts.join(","))),
            ("SEQUIN_ENCRYPTION_KEY", Keyring::generate_base64()),
            ("SEQUIN_NATS_REPLICAS", NODES.to_string()),
            ("SEQUIN_SESSION_TTL_SECONDS", TTL.as_secs().to_string()),
        ];
        let first = Database::create().await;
        let gate_to_databases = Gate::before(first.server.port()).await;
        let mut cluster =
            Self { nodes: Vec::new(), nats, databases: vec![first], gates_to_nats, gate_to_databases, settings };
        for number in 0..NODES {
            cluster.join(&format!("node-{number}")).await;
        }
        while cluster.databases.len() < databases {
            cluster.databases.push(Database::create().await);
        }
        for number in 0..databases {
            cluster.start_consumer(number).await;
        }
        cluster
    }

    /// Starts one more node.
    pub(crate) async fn join(&mut self, name: &str) {
        let settings = settings_of(&self.settings, name, &[]);
        let node = Node::start_with(tempfile::tempdir().expect("a directory"), &settings).await;
        self.nodes.push(node);
    }

    /// Starts a node again that has ended.
    pub(crate) async fn start_again(&mut self, node: usize) {
        self.start_again_with(node, &[]).await;
    }

    /// Starts a node again whose clock is wrong by so much, such as `+1h`. What it measures of time is right.
    pub(crate) async fn start_again_at(&mut self, node: usize, wrong_by: &str) {
        let library = libfaketime();
        let clock = [("LD_PRELOAD", library.as_str()), ("FAKETIME", wrong_by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        self.start_again_with(node, &clock).await;
    }

    async fn start_again_with(&mut self, node: usize, more: &[(&str, &str)]) {
        let name = format!("node-{node}");
        let settings = settings_of(&self.settings, &name, more);
        self.nodes[node].start_again_with(&settings).await;
    }

    async fn start_consumer(&self, number: usize) {
        let (api, database, name) = (&self.nodes[number % NODES].api, &self.databases[number], format!("app-{number}"));
        let connection = database.connection_by(self.gate_to_databases.port());
        let target = json!({"name": name, "connection": connection, "pool_size": POOL_SIZE});
        api.post("/v1/targets", &target).await.expect(201);
        let filter = json!({"provider": HUBSPOT});
        let consumer = json!({"name": name, "target": name, "filter": filter, "schema": SCHEMA, "table": HUBSPOT});
        api.post("/v1/consumers", &consumer).await.expect(201);
        database.make_table(HUBSPOT).await;
        api.act(&format!("/v1/consumers/{name}/start")).await.expect(200);
    }

    /// Which node owns each target, as a node tells that runs.
    pub(crate) async fn owners(&self, told_by: usize) -> BTreeMap<String, String> {
        let nodes = self.nodes[told_by].api.get("/v1/nodes").await.expect(200);
        let mut owners = BTreeMap::new();
        for node in nodes["data"].as_array().expect("a list") {
            for target in node["targets"].as_array().expect("a list") {
                let name = |of: &Value| of.as_str().expect("a name").to_owned();
                owners.insert(name(&target["name"]), name(&node["node"]));
            }
        }
        owners
    }

    /// What all nodes together report of a metric.
    pub(crate) async fn sum_of(&self, series: &str) -> u64 {
        let mut sum = 0;
        for node in &self.nodes {
            let text = node.api.get("/metrics").await.expect(200);
            let mut lines = text.as_str().expect("text").lines();
            let value = lines.find_map(|line| line.strip_prefix(series)).expect("it is reported");
            sum += value.trim().parse::<u64>().expect("a whole number");
        }
        sum
    }

    /// Waits until the targets are owned as `is` wants them; `what` says how that is.
    pub(crate) async fn owners_are(
        &self,
        told_by: usize,
        what: &str,
        is: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> BTreeMap<String, String> {
        eventually(what, async || {
            let owners = self.owners(told_by).await;
            holds(owners.len() == self.databases.len() && is(&owners), || format!("they are {owners:?}"))
                .map(|()| owners)
        })
        .await
    }

    /// Which node owns each target, once that has been so for a while.
    pub(crate) async fn settled_owners(&self, told_by: usize) -> BTreeMap<String, String> {
        let mut last = BTreeMap::new();
        let mut since = Instant::now();
        eventually("the owners to stay as they are", async || {
            let owners = self.owners(told_by).await;
            if owners != last {
                (last, since) = (owners, Instant::now());
            }
            let is_settled = last.len() == self.databases.len() && since.elapsed() > TTL;
            holds(is_settled, || format!("they are {last:?}")).map(|()| last.clone())
        })
        .await
    }

    /// Waits until a node of this name has a session, and gives away nothing.
    pub(crate) async fn lives(&self, told_by: usize, name: &str) {
        eventually(&format!("{name} to take part"), async || {
            let nodes = self.nodes[told_by].api.get("/v1/nodes").await.expect(200);
            let mut data = nodes["data"].as_array().expect("a list").iter();
            let serves = data.any(|node| node["node"] == name && node["state"] == "serving");
            holds(serves, || format!("there are {nodes}"))
        })
        .await;
    }

    /// The number of a node that owns a target.
    pub(crate) async fn an_owner(&self, told_by: usize) -> usize {
        let owners = self.owners_are(told_by, "all targets to be owned", |_| true).await;
        let name = owners.values().find(|name| **name != format!("node-{told_by}")).or(owners.values().next());
        name.and_then(|name| name.strip_prefix("node-")?.parse().ok()).expect("a node")
    }

    /// Cuts a node off from NATS.
    pub(crate) fn cut_off_from_nats(&self, node: usize) {
        self.gates_to_nats.iter().for_each(|gate| gate.keep_out(self.nodes[node].pid()));
    }

    pub(crate) fn let_in_to_nats(&self, node: usize) {
        self.gates_to_nats.iter().for_each(|gate| gate.let_in(self.nodes[node].pid()));
    }

    /// Cuts a node off from all databases.
    pub(crate) fn cut_off_from_databases(&self, node: usize) {
        self.gate_to_databases.keep_out(self.nodes[node].pid());
    }

    pub(crate) fn let_in_to_databases(&self, node: usize) {
        self.gate_to_databases.let_in(self.nodes[node].pid());
    }

    /// Waits until every table is as it must be, and says what is so of a cluster at rest: each target has one owner, whose
    /// sessions alone are there, and no more than its pool has.
    pub(crate) async fn comes_to_rest(&self, expected: &Expected) {
        for (number, database) in self.databases.iter().enumerate() {
            eventually_within(REST, &format!("table {number} to be as it must"), async || {
                expected.compare(database).await
            })
            .await;
            eventually_within(REST, &format!("target {number} to have one owner"), async || {
                let epochs: i64 = database.ask(&of_sessions("count(distinct application_name)")).await;
                let sessions: i64 = database.ask(&of_sessions("count(*)")).await;
                let is_one = epochs <= 1 && sessions <= POOL_SIZE;
                holds(is_one, || format!("there are {sessions} sessions of {epochs} epochs"))
            })
            .await;
        }
    }
}

fn settings_of<'a>(
    common: &'a [(&'static str, String)],
    name: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut settings: Vec<_> = common.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("SEQUIN_NODE", name));
    settings.extend(more);
    settings
}

/// The library that gives a program another time, where Debian and others have it.
fn libfaketime() -> String {
    let places = ["/usr/lib", "/usr/lib64"].map(Path::new);
    let below =
        places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten().map(|entry| entry.path());
    let mut places = below.chain(places.map(Path::to_path_buf)).map(|place| place.join("faketime/libfaketime.so.1"));
    let found = places.find(|file| file.is_file()).expect("libfaketime: deploy/setup.sh installs it");
    found.to_str().expect("a path that is text").to_owned()
}

fn of_sessions(what: &str) -> String {
    format!(
        "select {what} from pg_stat_activity where datname = current_database() and application_name like 'sequin/%/%'"
    )
}

/// What each table must hold: the payload of each record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    records: BTreeMap<Key, Value>,
}

impl Expected {
    pub(crate) fn publish(&mut self, versions: &[Version]) {
        for version in versions {
            let key = (version.sync, version.collection.clone(), version.upstream_id.clone());
            match &version.payload {
                Some(payload) => drop(self.records.insert(key, payload.clone())),
                None => drop(self.records.remove(&key)),
            }
        }
    }

    async fn compare(&self, database: &Database) -> Result<(), String> {
        let table = database.table(HUBSPOT).await;
        let found: BTreeMap<Key, Value> = table.into_iter().map(|(key, row)| (key, row.payload)).collect();
        let wrong = found.iter().filter(|(key, payload)| self.records.get(*key) != Some(*payload)).count();
        let missing = self.records.keys().filter(|key| !found.contains_key(*key)).count();
        holds(wrong + missing == 0, || format!("{wrong} rows are not as they must be, and {missing} are missing"))
    }
}

/// Publishes all the time, by whichever node answers, until it is told to end; what was accepted is expected. Counts the
/// sessions in the databases meanwhile.
pub(crate) struct Publisher {
    nodes: Arc<Mutex<Vec<Api>>>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<Expected>,
    counting: Vec<JoinHandle<i64>>,
}

impl Publisher {
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let nodes = Arc::new(Mutex::new(apis(cluster)));
        let is_over = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(publish(Arc::clone(&nodes), Arc::clone(&is_over)));
        let mut counting = Vec::new();
        for database in &cluster.databases {
            counting.push(tokio::spawn(most_sessions(database.connect().await, Arc::clone(&is_over))));
        }
        Self { nodes, is_over, task, counting }
    }

    /// These are the nodes now.
    pub(crate) fn goes_on_with(&self, cluster: &Cluster) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = apis(cluster);
    }

    pub(crate) async fn end(self) -> Expected {
        self.is_over.store(true, Ordering::Relaxed);
        for counting in self.counting {
            let most = counting.await.expect("a count");
            assert!(most > 0 && most <= POOL_SIZE + BEYOND_THE_POOL, "an owner had {most} sessions with a target");
        }
        self.task.await.expect("the publisher")
    }
}

/// The most sessions that one owner ever had with a database.
async fn most_sessions(session: Client, is_over: Arc<AtomicBool>) -> i64 {
    let count = "select coalesce(max(number), 0) from (
        select count(*) as number from pg_stat_activity
        where datname = current_database() and application_name like 'sequin/%/%' group by application_name) as owner";
    let mut most = 0;
    while !is_over.load(Ordering::Relaxed) {
        most = most.max(session.query_one(count, &[]).await.expect("a count").get(0));
        tokio::time::sleep(COUNT_EVERY).await;
    }
    most
}

fn apis(cluster: &Cluster) -> Vec<Api> {
    cluster.nodes.iter().map(|node| node.api.clone()).collect()
}

async fn publish(nodes: Arc<Mutex<Vec<Api>>>, is_over: Arc<AtomicBool>) -> Expected {
    let mut expected = Expected::default();
    let mut round = 0;
    while !is_over.load(Ordering::Relaxed) {
        let versions: Vec<Version> = (0..30).map(|n| version(round, n)).collect();
        // Until somebody has it, nothing newer is published: else nobody knew which of the two was last.
        let deadline = Instant::now() + REST;
        while !is_accepted(&nodes, &versions).await {
            assert!(Instant::now() < deadline, "no node has taken what is published for {REST:?}");
            tokio::time::sleep(PAUSE).await;
        }
        expected.publish(&versions);
        round += 1;
        tokio::time::sleep(PAUSE).await;
    }
    expected
}

/// Whether a node, any of them, has accepted the versions.
async fn is_accepted(nodes: &Mutex<Vec<Api>>, versions: &[Version]) -> bool {
    let node = {
        let nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes[fastrand::usize(..nodes.len())].clone()
    };
    let accepted = tokio::time::timeout(ANSWER, node.try_publish(versions)).await;
    matches!(accepted, Ok(Some(_)))
}

fn version(round: u32, n: u32) -> Version {
    let record = (round * 37 + n * 7) % RECORDS;
    if n % 5 == 4 { no_contact(sync(1), record) } else { contact(sync(1), record, json!({"round": round, "n": n})) }
}
