//! Everything fails, at random and at once: the network, the server, its sessions, the node. Records come all the while,
//! and whenever the faults are over, the tables must equal the model. Every other round the way to the database is through a
//! bastion, with TLS that is verified inside.
//!
//! The faults and the records are drawn from a seed, which a failure shows: with the same seed come the same faults in
//! the same order, though they meet what happens at other moments. CONTRIBUTING.md says how to run it for longer.

use std::{
    collections::{BTreeSet, HashMap},
    str::FromStr,
    time::{Duration, Instant},
};

use fastrand::Rng;
use sequin::demo::postgres::Stop;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::{
    PATIENCE,
    api::Api,
    certificates::{Authority, Secured, Valid},
    database::{Database, SCHEMA, slow_writes},
    eventually_within, holds,
    model::{HUBSPOT, Model, Version, compare, contact, no_contact, sync},
    proxy::{Ending, Mode, Proxy},
    setup::Setup,
    sshd::Sshd,
};

/// How long faults come, in seconds, unless `CHAOS_SECONDS` says otherwise: until each has come about once.
const SECONDS: u64 = 40;

/// How long faults come, in seconds, until everything is allowed to heal.
const ROUND_SECONDS: std::ops::Range<u64> = 4..16;

/// How long everything stays as a fault has left it, until the next comes, in milliseconds.
const LULL_MILLISECONDS: std::ops::Range<u64> = 10..800;

/// How long it may take until all is well once the faults are over: a consumer that has failed many times waits for up
/// to half a minute before it tries again, and so does a target.
const HEALED_WITHIN: Duration = Duration::from_secs(90);

/// How long a publisher waits for a node that is about to start.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How often rows are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The consumer of one sync; its table has the same name.
const ONE_SYNC: &str = "one_sync";

const CONSUMERS: [&str; 2] = [HUBSPOT, ONE_SYNC];

const SYNCS: u8 = 3;

/// How many records each sync has, roughly.
const RECORDS: u32 = 1000;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// From now on, the network is like this: for all connections, or for those that are there, or for new ones.
    Network(Mode),
    Cut(Ending),
    StopServer(Stop),
    StartServer,
    EndSessions,
    /// It starts again at once, without the connections that it had.
    KillBastion,
    PauseOrResume(&'static str),
    KillNode,
    StopNode,
}

/// The faults, and how often each comes before all are shuffled anew.
const DECK: [(usize, Fault); 20] = [
    (2, Fault::Network(Mode::Pass)),
    (1, Fault::Network(Mode::Refuse)),
    (1, Fault::Network(Mode::Delay(Duration::from_millis(10)))),
    (1, Fault::Network(Mode::Delay(Duration::from_millis(300)))),
    (2, Fault::Network(Mode::BlackHole)),
    (3, Fault::Network(Mode::HoldAnswers)),
    (2, Fault::Network(Mode::LoseServer)),
    (2, Fault::Network(Mode::CutBeforeCommit)),
    (3, Fault::Network(Mode::CutAfterCommit)),
    (1, Fault::Cut(Ending::Close)),
    (2, Fault::Cut(Ending::Reset)),
    (1, Fault::StopServer(Stop::Fast)),
    (1, Fault::StopServer(Stop::Immediate)),
    (3, Fault::StartServer),
    (2, Fault::EndSessions),
    (2, Fault::KillBastion),
    (2, Fault::PauseOrResume(HUBSPOT)),
    (2, Fault::PauseOrResume(ONE_SYNC)),
    (6, Fault::KillNode),
    (1, Fault::StopNode),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_ends_in_tables_that_equal_the_model() {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = setting("CHAOS_SECONDS").unwrap_or(SECONDS);
    eprintln!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    // Each draws from a seed of its own, so that none depends on how far another has come.
    let mut rng = Rng::with_seed(seed);
    let (mut chaos, api) = Chaos::prepare(rng.fork()).await;
    let mut publisher = Publisher { model: Model::default(), rng: rng.fork(), api, busy_from: 0, deletes_in_10: 0 };
    let mut left = seconds;
    while left > 0 {
        let round = rng.u64(ROUND_SECONDS).min(left);
        left -= round;
        publisher = chaos.round(Duration::from_secs(round), publisher).await;
    }
    let published = publisher.model.last_idx(HUBSPOT);
    let (faults, log) = (chaos.faults, chaos.setup.node.log());
    let counts = [&chaos.to_server, &chaos.to_bastion].map(Proxy::counts);
    let pipelines = log.matches("running").count();
    eprintln!("{faults} faults, {published} versions published, {pipelines} pipelines, {counts:?}");
    eprintln!("the longest heal took {:?}", chaos.longest_heal);
    assert!(!log.contains("panicked"), "something panicked in the node");
    let met_something = counts.iter().any(|counts| counts.held > 0) && counts.iter().any(|counts| counts.cut > 0);
    assert!(met_something || seconds < SECONDS, "the faults met nothing: {counts:?}");
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// What is made to fail, and how it is now.
struct Chaos {
    setup: Setup,
    /// Before the server, for those rounds in which that is the way.
    to_server: Proxy,
    /// Before the bastion, for the others.
    to_bastion: Proxy,
    sshd: Sshd,
    authority: Authority,
    goes_by_bastion: bool,
    rng: Rng,
    deck: Vec<Fault>,
    is_server_stopped: bool,
    paused: BTreeSet<&'static str>,
    /// The versions at which rows were seen last.
    seen: HashMap<(&'static str, Uuid), i64>,
    /// How the node is spoken to, which another start changes.
    api: watch::Sender<Api>,
    begun: Instant,
    faults: usize,
    longest_heal: Duration,
}

impl Chaos {
    async fn prepare(rng: Rng) -> (Self, watch::Receiver<Api>) {
        let (setup, to_server) = Setup::by_proxy(Database::on_own_server().await).await;
        let authority = Authority::new("the customer's authority");
        let identity = authority.signs("the server", &["127.0.0.1"], Valid::Now);
        setup.database.secure(Secured { identity: Some(&identity), ..Secured::default() }).await;
        let sshd = Sshd::start();
        let to_bastion = Proxy::before(sshd.port());
        setup.start_hubspot().await;
        setup.start(ONE_SYNC, &json!({"sync": sync(1)})).await;
        for table in CONSUMERS {
            // So that faults meet transactions that are under way, some of which outlive those who wait for them.
            setup.database.run(&slow_writes(table, "2.5 * (random() < 0.15)::int * random()")).await;
        }
        let (api, of_publisher) = watch::channel(setup.node.api.clone());
        let chaos = Self {
            setup,
            to_server,
            to_bastion,
            sshd,
            authority,
            goes_by_bastion: false,
            rng,
            deck: Vec::new(),
            is_server_stopped: false,
            paused: BTreeSet::new(),
            seen: HashMap::new(),
            api,
            begun: Instant::now(),
            faults: 0,
            longest_heal: Duration::ZERO,
        };
        (chaos, of_publisher)
    }

    /// Faults, while records come; and then none, until all is well.
    async fn round(&mut self, long: Duration, publisher: Publisher) -> Publisher {
        self.go_the_other_way().await;
        let until = Instant::now() + long;
        let publishing = tokio::spawn(publisher.publish_until(until));
        while Instant::now() < until {
            let fault = self.draw();
            eprintln!("{:>8.3} s: {fault:?}", self.begun.elapsed().as_secs_f64());
            self.inflict(fault).await;
            self.lull().await;
            // Of two faults, one lasts while others join it.
            if self.rng.bool() {
                self.end_faults().await;
                self.lull().await;
            }
        }
        let publisher = publishing.await.expect("a publisher that is not refused");
        self.heal(&publisher.model).await;
        publisher
    }

    /// While nothing fails, as a customer who changes a target.
    async fn go_the_other_way(&mut self) {
        self.goes_by_bastion = !self.goes_by_bastion;
        eprintln!("{:>8.3} s: by bastion: {}", self.begun.elapsed().as_secs_f64(), self.goes_by_bastion);
        let database = &self.setup.database;
        let connection = if self.goes_by_bastion {
            let bastion = self.sshd.bastion();
            let mut connection = database.connection();
            connection["tls"] = json!({"mode": "verify-full", "ca_pem": self.authority.pem()});
            connection["bastion"] = json!({
                "host": bastion.host, "port": self.to_bastion.port(), "username": bastion.username,
                "private_key": self.sshd.private_key("user").reveal(), "host_key": self.sshd.host_key(),
            });
            connection
        } else {
            // What a proxy is to recognise has to be told openly.
            let mut connection = database.connection_by(self.to_server.port());
            connection["tls"] = json!({"mode": "disable", "ca_pem": null});
            connection["bastion"] = json!(null);
            connection
        };
        self.setup.node.api.patch("/v1/targets/app", &json!({"connection": connection})).await.expect(200);
    }

    /// Before whatever the node connects to.
    fn proxy(&self) -> &Proxy {
        if self.goes_by_bastion { &self.to_bastion } else { &self.to_server }
    }

    async fn lull(&mut self) {
        let long = self.rng.u64(LULL_MILLISECONDS);
        self.watch_rows(Duration::from_millis(long)).await;
    }

    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = DECK.iter().flat_map(|(times, fault)| std::iter::repeat_n(*fault, *times)).collect();
            self.rng.shuffle(&mut self.deck);
        }
        self.faults += 1;
        self.deck.pop().expect("a deck that has just been filled")
    }

    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Network(mode) => match self.rng.u8(..3) {
                0 => self.proxy().set_for_existing(mode),
                1 => self.proxy().set_for_new(mode),
                _ => self.proxy().set(mode),
            },
            Fault::Cut(ending) => drop(self.proxy().cut(ending)),
            Fault::StopServer(how) => self.stop_server(how),
            Fault::StartServer => self.start_server().await,
            Fault::EndSessions => self.end_sessions().await,
            Fault::KillBastion => tokio::task::block_in_place(|| self.sshd.restart()),
            Fault::PauseOrResume(consumer) => self.pause_or_resume(consumer).await,
            Fault::KillNode => {
                self.setup.node.sigkill();
                self.start_node().await;
            }
            Fault::StopNode => {
                assert_eq!(self.setup.node.sigterm().await.code(), Some(0));
                self.start_node().await;
            }
        }
    }

    async fn start_node(&mut self) {
        self.setup.node.start_again().await;
        self.api.send_replace(self.setup.node.api.clone());
    }

    fn stop_server(&mut self, how: Stop) {
        self.is_server_stopped = true;
        tokio::task::block_in_place(|| self.setup.database.server.stop(how));
    }

    async fn start_server(&mut self) {
        if self.is_server_stopped {
            tokio::task::block_in_place(|| self.setup.database.server.start_again()).expect("the server again");
            self.setup.database.owner = self.setup.database.connect().await;
            self.is_server_stopped = false;
        }
    }

    async fn end_sessions(&self) {
        if !self.is_server_stopped {
            let user = &self.setup.database.user;
            let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}'");
            self.setup.database.run(&end).await;
        }
    }

    async fn pause_or_resume(&mut self, consumer: &'static str) {
        let pause = self.paused.insert(consumer);
        if !pause {
            self.paused.remove(consumer);
        }
        self.setup.act(consumer, if pause { "pause" } else { "resume" }).await;
    }

    /// Lets time go by, and looks at the rows meanwhile: none may go back to an older version.
    async fn watch_rows(&mut self, long: Duration) {
        let until = Instant::now() + long;
        while Instant::now() < until {
            if !self.is_server_stopped {
                for consumer in CONSUMERS {
                    self.look(consumer).await;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&mut self, table: &'static str) {
        let sql = format!("select sequin_id, updated_idx from {SCHEMA}.{table}");
        let rows = self.setup.database.owner.query(&sql, &[]).await.expect("the rows");
        for row in rows {
            let (record, idx): (Uuid, i64) = (row.get(0), row.get(1));
            let before = self.seen.insert((table, record), idx).unwrap_or(idx);
            assert!(before <= idx, "{record} of {table} was at {before}, and is at {idx}");
        }
    }

    async fn end_faults(&mut self) {
        self.start_server().await;
        self.proxy().set(Mode::Pass);
        for consumer in std::mem::take(&mut self.paused) {
            self.setup.act(consumer, "resume").await;
        }
    }

    /// Waits until all is well, once no fault is left.
    async fn heal(&mut self, model: &Model) {
        self.end_faults().await;
        let healing = Instant::now();
        eventually_within(HEALED_WITHIN, "all to be well", async || self.is_well(model).await).await;
        let took = healing.elapsed();
        self.longest_heal = self.longest_heal.max(took);
        eprintln!("{:>8.3} s: healed in {took:?}", self.begun.elapsed().as_secs_f64());
    }

    async fn is_well(&self, model: &Model) -> Result<(), String> {
        let expected = [
            (HUBSPOT, model.of_provider(HUBSPOT), model.last_idx(HUBSPOT)),
            (ONE_SYNC, model.of_sync(sync(1)), model.last_idx_of_sync(sync(1))),
        ];
        for (name, table, last_idx) in expected {
            compare(&self.setup.database.table(name).await, &table).map_err(|seen| format!("in {name}, {seen}"))?;
            let consumer = self.setup.consumer(name).await;
            let has_all = consumer["checkpoint"].as_i64() >= Some(last_idx) && consumer["lag"]["records"] == 0;
            let is_well = consumer["state"] == "live" && consumer["health"]["status"] == "healthy";
            holds(has_all && is_well && consumer["quarantined"] == 0, || format!("{name} is {consumer}"))?;
        }
        Ok(())
    }
}

/// Publishes at random, to whichever process the node is now.
struct Publisher {
    model: Model,
    rng: Rng,
    api: watch::Receiver<Api>,
    /// Where the few records begin that are just now changed again and again. Later they are left alone, and what was
    /// done to them wrongly stays to be seen.
    busy_from: u32,
    /// At times all records are there, or none: a batch that only inserts or only deletes is a single statement, which
    /// commits by itself, without the node.
    deletes_in_10: u8,
}

impl Publisher {
    async fn publish_until(mut self, until: Instant) -> Self {
        while Instant::now() < until {
            if self.rng.u8(..30) == 0 {
                self.busy_from = self.rng.u32(..RECORDS);
            }
            if self.rng.u8(..10) == 0 {
                self.deletes_in_10 = self.rng.choice([0, 0, 3, 9]).expect("one of four");
            }
            // Mostly little; at times enough for large batches.
            let (records, versions) = match self.rng.u8(..60) {
                0 => (500, self.rng.usize(1000..3000)),
                _ => (5, self.rng.usize(1..40)),
            };
            let versions: Vec<_> = (0..versions).map(|_| self.version(records)).collect();
            self.publish(&versions).await;
            tokio::time::sleep(Duration::from_millis(self.rng.u64(..40))).await;
        }
        self
    }

    /// The next version of one of so many records of any sync.
    fn version(&mut self, records: u32) -> Version {
        let sync = sync(self.rng.u8(..SYNCS).into());
        let record = self.busy_from + self.rng.u32(..records);
        if self.rng.u8(..10) < self.deletes_in_10 {
            return no_contact(sync, record);
        }
        contact(sync, record, json!({"number": self.rng.u32(..), "text": "x".repeat(self.rng.usize(..200))}))
    }

    /// Publishes until the node says that it has accepted. What it did not say so of, it may have accepted as well.
    async fn publish(&mut self, versions: &[Version]) {
        let deadline = Instant::now() + PATIENCE;
        let mut attempts = 1;
        let last = loop {
            let api = self.api.borrow().clone();
            if let Some(last) = api.try_publish(versions).await {
                break last;
            }
            assert!(Instant::now() < deadline, "the node did not accept in {attempts} attempts");
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            attempts += 1;
        };
        let before = self.model.last_idx(HUBSPOT);
        for _ in 0..attempts {
            if self.model.last_idx(HUBSPOT) < last {
                self.model.publish(versions);
            }
        }
        let number = versions.len();
        assert_eq!(self.model.last_idx(HUBSPOT), last, "after {before}, {attempts} times {number} versions");
    }
}
