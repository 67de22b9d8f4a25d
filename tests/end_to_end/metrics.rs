//! What an engine reports of itself: every metric of the table in `actors/README.md`, as the table says, and nothing of what
//! is not there any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use chrono::{DateTime, TimeDelta, Utc};
use sequin::{config::Config, service::Service};
use sequin_actors::{
    EngineSettings,
    flow::budget::NodeBudget,
    model::{IncidentKind, Secret},
    telemetry::{Channel, Outcome, Telemetry},
};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{
    api::{Api, TOKEN},
    database::{Database, SCHEMA},
    engine::{forwarding, of_provider},
    eventually, holds,
    metrics::{Collected, Metrics, value},
    model::{HUBSPOT, Version, contact, lines, no_contact, sync},
    proxy::{Ending, Mode, Proxy},
};

/// A consumer of one sync, beside the one of all of HubSpot's.
const ONE_SYNC: &str = "one_sync";

/// A row of the table.
#[derive(Debug)]
struct Row {
    kind: String,
    unit: String,
    always: BTreeSet<String>,
    /// Attributes that only some of its points have.
    sometimes: BTreeSet<String>,
    meaning: String,
}

/// The rows of the table, by the names of their metrics.
fn table() -> BTreeMap<String, Row> {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actors/README.md")).expect("the README");
    let section = readme.split("\n## ").find(|section| section.starts_with("Metrics\n")).expect("a section on metrics");
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, attributes, meaning] = cells[..] else { panic!("five cells, not {line}") };
        let code = |text: &str| text.trim_matches('`').to_owned();
        let attributes = attributes.split(',').map(str::trim).filter(|attribute| !attribute.is_empty());
        let (sometimes, always): (Vec<_>, Vec<_>) = attributes.partition(|attribute| attribute.ends_with('?'));
        let row = Row {
            kind: kind.into(),
            unit: code(unit),
            always: always.into_iter().map(code).collect(),
            sometimes: sometimes.into_iter().map(|attribute| code(attribute.trim_end_matches('?'))).collect(),
            meaning: meaning.into(),
        };
        (code(name), row)
    });
    rows.collect()
}

/// A service whose metrics can be looked at, and its customer's database behind a proxy.
struct Life {
    _directory: TempDir,
    service: Service,
    metrics: Metrics,
    api: Api,
    database: Database,
    proxy: Proxy,
    /// All that was seen so far: each metric with the sets of attributes that it had.
    seen: BTreeMap<String, BTreeSet<BTreeMap<String, String>>>,
}

impl Life {
    async fn begin() -> Self {
        let (directory, metrics) = (tempfile::tempdir().expect("a directory"), Metrics::new());
        let config = Config { admin_token: Some(Secret::new(TOKEN)), ..Config::embedded(directory.path(), "test") };
        let settings = EngineSettings { meter: Some(metrics.meter()), ..EngineSettings::default() };
        let service = Service::start(&config, settings).await.expect("a service");
        let api = Api::new(format!("http://{}", service.address()));
        let database = Database::create().await;
        let proxy = Proxy::before(database.server.port());
        let target = json!({"name": "app", "connection": database.connection_by(proxy.port())});
        api.post("/v1/targets", &target).await.expect(201);
        Self { _directory: directory, service, metrics, api, database, proxy, seen: BTreeMap::new() }
    }

    async fn start(&self, name: &str, filter: serde_json::Value) {
        let consumer = json!({"name": name, "target": "app", "filter": filter, "schema": SCHEMA, "table": name});
        self.api.post("/v1/consumers", &consumer).await.expect(201);
        self.database.make_table(name).await;
        self.api.act(&format!("/v1/consumers/{name}/start")).await.expect(200);
    }

    async fn publish(&self, versions: &[Version]) {
        self.api.publish(lines(versions)).await.expect(200);
    }

    /// Everything as it is now, which is remembered.
    fn collect(&mut self) -> Collected {
        let collected = self.metrics.collect();
        for (name, metric) in &collected {
            let attributes = metric.points.iter().map(|point| point.attributes.clone());
            self.seen.entry(name.clone()).or_default().extend(attributes);
        }
        collected
    }

    /// Waits until a metric has such a value, for these attributes.
    async fn reports(&mut self, name: &str, attributes: &[(&str, &str)], is: impl Fn(f64) -> bool) {
        eventually(&format!("{name} of {attributes:?}"), async || {
            let value = value(&self.collect(), name, attributes);
            holds(value.is_some_and(&is), || format!("it is {value:?}"))
        })
        .await;
    }

    /// Waits until nothing that can end names this any more. A histogram keeps what it was told.
    async fn forgets(&mut self, name: &str) {
        eventually(&format!("no metric to name {name}"), async || {
            let named = self.collect().into_iter().filter(|(metric_name, metric)| {
                let names = |value: &String| value == name;
                metric.kind != "histogram"
                    && metric_name != "messaging.client.sent.messages"
                    && metric.points.iter().any(|point| point.attributes.values().any(names))
            });
            let named: Vec<_> = named.map(|(metric, _)| metric).collect();
            holds(named.is_empty(), || format!("it is named by {named:?}"))
        })
        .await;
    }
}

fn contacts(numbers: std::ops::Range<u128>) -> Vec<Version> {
    numbers.map(|number| contact(sync(number % 3), number, json!(number.to_string()))).collect()
}

/// Everything that an engine of one node reports on happens here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_table_is_reported_as_the_table_says_and_no_other() {
    let mut life = Life::begin().await;
    backfill_and_live(&mut life).await;
    table_goes_away(&mut life).await;
    target_goes_away(&mut life).await;
    let mut collected = life.collect();
    // What the API measures of requests goes where the engine's goes, and has a table of its own.
    let of_requests = [("http.route", "/v1/targets"), ("http.request.method", "POST")];
    assert_eq!(value(&collected, "http.server.request.duration", &of_requests), Some(1.0));
    collected.retain(|name, _| !name.starts_with("http."));
    collected.extend(alerts());
    for (name, metric) in &collected {
        let attributes = metric.points.iter().map(|point| point.attributes.clone());
        life.seen.entry(name.clone()).or_default().extend(attributes);
    }

    let table = table();
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(collected.keys().collect()), names(table.keys().collect()));
    for (name, row) in &table {
        let metric = &collected[name];
        let shown = (metric.kind, metric.unit.as_str(), metric.description.trim_end_matches('.'));
        assert_eq!(shown, (row.kind.as_str(), row.unit.as_str(), row.meaning.as_str()), "{name}");
        let keys = life.seen[name].iter().map(|attributes| attributes.keys().cloned().collect::<BTreeSet<_>>());
        let mut at_times = BTreeSet::new();
        for keys in keys {
            assert!(keys.is_superset(&row.always), "{name} has {keys:?}");
            at_times.extend(keys.difference(&row.always).cloned());
        }
        assert_eq!(at_times, row.sometimes, "what only some points of {name} have");
    }
    let syncs: Vec<String> = (0..4).map(|number| sync(number).to_string()).collect();
    for (name, seen) in &life.seen {
        for (key, value) in seen.iter().flatten() {
            assert!(!syncs.contains(value) && Uuid::parse_str(value).is_err(), "{name} has {key}={value}");
        }
    }

    life.api.get("/metrics").await.expect_problem(404);

    // What is called otherwise, or is gone, is not there under its former name.
    life.api.patch("/v1/consumers/one_sync", &json!({"name": "renamed"})).await.expect(200);
    life.api.patch("/v1/targets/app", &json!({"name": "moved"})).await.expect(200);
    life.forgets(ONE_SYNC).await;
    life.forgets("app").await;
    let renamed = [("sequin.consumer", "renamed"), ("sequin.target", "moved")];
    life.reports("sequin.consumer.lag", &renamed, |lag| lag < 1.0).await;
    life.api.delete("/v1/consumers/renamed").await.expect(204);
    life.forgets("renamed").await;
    life.api.delete("/v1/consumers/hubspot").await.expect(204);
    life.forgets(HUBSPOT).await;
    life.api.delete("/v1/targets/moved").await.expect(204);
    life.forgets("moved").await;
    let Life { service, metrics, .. } = life;
    service.stop().await;
    // Tasks that the engine has left to end by themselves may do so a moment later.
    eventually("nothing to be reported after the engine's end", async || {
        let left = metrics.collect().into_iter().filter(|(name, metric)| {
            let is_the_apis = name.starts_with("http.") || name == "messaging.client.sent.messages";
            metric.kind != "histogram" && !is_the_apis && !metric.points.is_empty()
        });
        let left: Vec<_> = left.map(|(name, _)| name).collect();
        holds(left.is_empty(), || format!("{left:?} is"))
    })
    .await;
}

async fn backfill_and_live(life: &mut Life) {
    life.publish(&contacts(0..300)).await;
    life.start(HUBSPOT, json!({"provider": HUBSPOT})).await;
    life.start(ONE_SYNC, json!({"sync": sync(1)})).await;
    let (hubspot, one_sync) = ([("sequin.consumer", HUBSPOT)], [("sequin.consumer", ONE_SYNC)]);
    let upserts = [("sequin.consumer", HUBSPOT), ("sequin.operation", "upsert")];
    life.reports("sequin.consumer.applied", &upserts, |applied| applied >= 300.0).await;
    for name in [HUBSPOT, ONE_SYNC] {
        let live = [("sequin.consumer", name), ("sequin.state", "live")];
        life.reports("sequin.consumer.state", &live, |is_in| is_in > 0.0).await;
        life.reports("sequin.consumer.checkpoint.age", &[("sequin.consumer", name)], |age| age <= 0.0).await;
    }
    let collected = life.collect();
    for (name, attributes, expected) in [
        ("messaging.client.sent.messages", &[("messaging.destination.name", HUBSPOT)][..], 300.0),
        ("messaging.client.consumed.messages", &[("messaging.consumer.group.name", HUBSPOT)], 300.0),
        ("messaging.client.consumed.messages", &[("messaging.consumer.group.name", ONE_SYNC)], 100.0),
        ("sequin.consumer.applied", &upserts, 300.0),
        ("sequin.consumer.backfill.done", &hubspot, 300.0),
        ("sequin.consumer.backfill.size", &hubspot, 300.0),
        ("sequin.consumer.backfill.size", &one_sync, 100.0),
        ("sequin.target.breaker.state", &[("sequin.target", "app")], 0.0),
        ("sequin.target.breaker.transitions", &[("sequin.state", "closed")], 1.0),
        ("sequin.targets.owned", &[], 1.0),
        ("db.client.connection.max", &[("db.client.connection.pool.name", "app")], 4.0),
        ("db.client.connection.pending_requests", &[], 0.0),
    ] {
        assert_eq!(value(&collected, name, attributes), Some(expected), "{name} of {attributes:?}");
    }
    assert_eq!(value(&collected, "sequin.consumer.delay", &hubspot), None, "a backfill is no delay");

    // A page of one record, and one of its deletion.
    life.publish(&[contact(sync(0), 1000, json!("live"))]).await;
    life.reports("sequin.consumer.applied", &upserts, |applied| applied >= 301.0).await;
    assert_eq!(value(&life.collect(), "sequin.consumer.delay", &hubspot), Some(1.0));
    life.publish(&[no_contact(sync(0), 1000)]).await;
    let deletes = [("sequin.consumer", HUBSPOT), ("sequin.operation", "delete")];
    life.reports("sequin.consumer.applied", &deletes, |applied| applied >= 1.0).await;
    // Of a sync that is not another provider's.
    let other = Version { provider: "crm", ..contact(sync(0), 1, json!(0)) };
    life.api.publish(lines(&[other])).await.expect(422);
}

async fn table_goes_away(life: &mut Life) {
    life.database.run("drop table sequin.hubspot").await;
    life.publish(&[contact(sync(0), 1, json!("nowhere to go"))]).await;
    let halted = [("sequin.consumer", HUBSPOT), ("sequin.state", "halted")];
    life.reports("sequin.consumer.state", &halted, |is_in| is_in > 0.0).await;
    let live = [("sequin.consumer", HUBSPOT), ("sequin.state", "live")];
    life.reports("sequin.consumer.state", &live, |is_in| is_in <= 0.0).await;
    life.reports("sequin.consumer.lag", &[("sequin.consumer", HUBSPOT)], |lag| lag >= 1.0).await;
    life.reports("sequin.consumer.lag.age", &[("sequin.consumer", HUBSPOT)], |age| age > 0.0).await;
    let failure = [("sequin.consumer", HUBSPOT), ("error.type", "table_missing")];
    life.reports("sequin.consumer.failures", &failure, |failures| failures >= 1.0).await;
    let collected = life.collect();
    assert_eq!(value(&collected, "messaging.process.duration", &[("error.type", "table")]), Some(1.0));
    let mut brought = collected["messaging.process.duration"].points.iter();
    let brought = brought.find(|point| !point.attributes.contains_key("error.type")).map(|point| point.value);
    assert_eq!(value(&collected, "sequin.consumer.batch.size", &[]), brought, "a batch that failed changed nothing");
}

async fn target_goes_away(life: &mut Life) {
    life.proxy.set(Mode::Refuse);
    life.proxy.cut(Ending::Reset);
    // Whoever has something to bring notices.
    life.publish(&[contact(sync(1), 1, json!("later"))]).await;
    let waiting = [("sequin.consumer", ONE_SYNC), ("sequin.state", "waiting")];
    life.reports("sequin.consumer.state", &waiting, |is_in| is_in > 0.0).await;
    let opened = [("sequin.target", "app"), ("sequin.state", "open")];
    life.reports("sequin.target.breaker.transitions", &opened, |times| times >= 1.0).await;
    life.proxy.set(Mode::Pass);
    life.reports("sequin.target.breaker.state", &[("sequin.target", "app")], |state| state <= 0.0).await;
    let live = [("sequin.consumer", ONE_SYNC), ("sequin.state", "live")];
    life.reports("sequin.consumer.state", &live, |is_in| is_in > 0.0).await;
}

/// What a node that alerts reports of it.
fn alerts() -> Collected {
    let metrics = Metrics::new();
    let telemetry = Telemetry::new(Some(&metrics.meter()), &NodeBudget::new(1));
    let alerts = telemetry.alerts();
    alerts.delivered(Channel::Webhook, Outcome::GivenUp);
    let nothing = metrics.collect();
    assert!(value(&nothing, "sequin.alert.pending", &[]).is_none(), "it does not alert yet");
    alerts.open(IncidentKind::ConsumerBehind, 2);
    alerts.pending(3);
    let mut collected = metrics.collect();
    let behind = [("sequin.incident.kind", "consumer_behind")];
    let given_up = [("sequin.channel", "webhook"), ("sequin.outcome", "given_up")];
    assert_eq!(value(&collected, "sequin.incidents.open", &behind), Some(2.0));
    assert_eq!(value(&collected, "sequin.alert.pending", &[]), Some(3.0));
    assert_eq!(value(&collected, "sequin.alert.deliveries", &given_up), Some(1.0));
    alerts.ended();
    assert!(value(&metrics.collect(), "sequin.incidents.open", &behind).is_none(), "another node alerts");
    collected.retain(|name, _| name.starts_with("sequin.alert") || name.starts_with("sequin.incidents"));
    collected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lag_has_an_age_while_something_waits_and_a_checkpoint_while_something_is_not_saved() {
    let metrics = Metrics::new();
    let telemetry = Telemetry::new(Some(&metrics.meter()), &NodeBudget::new(1));
    let consumer = telemetry.consumer(&forwarding(HUBSPOT, of_provider(HUBSPOT)), "app");
    let hubspot = [("sequin.consumer", HUBSPOT)];
    let age = |name| value(&metrics.collect(), name, &hubspot).expect("an age");
    let an_hour_ago = Utc::now() - TimeDelta::hours(1);
    let lag = |records, oldest_published_at| sequin_actors::model::Lag { records, oldest_published_at };

    consumer.is_at(lag(1, Some(an_hour_ago)), None);
    assert!((3600.0..7200.0).contains(&age("sequin.consumer.lag.age")));
    // By the clock of another machine.
    consumer.is_at(lag(1, Some(Utc::now() + TimeDelta::hours(1))), None);
    assert!(age("sequin.consumer.lag.age") <= 0.0);
    consumer.is_at(lag(0, None), None);
    assert!(age("sequin.consumer.lag.age") <= 0.0);

    assert!(age("sequin.consumer.checkpoint.age") <= 0.0);
    consumer.is_saved(false);
    let first = age("sequin.consumer.checkpoint.age");
    consumer.is_saved(false);
    assert!(first > 0.0 && age("sequin.consumer.checkpoint.age") > first, "what is not saved grows older");
    consumer.saving();
    consumer.saved(false);
    assert!(age("sequin.consumer.checkpoint.age") > 0.0, "something has come since");
    consumer.saving();
    consumer.saved(true);
    assert!(age("sequin.consumer.checkpoint.age") <= 0.0);

    assert_eq!(value(&metrics.collect(), "sequin.consumer.delay", &hubspot), None);
    consumer.delayed(Vec::<DateTime<Utc>>::new());
    assert_eq!(value(&metrics.collect(), "sequin.consumer.delay", &hubspot), None);
    consumer.delayed([an_hour_ago, Utc::now()]);
    assert_eq!(value(&metrics.collect(), "sequin.consumer.delay", &hubspot), Some(2.0));
    drop(consumer);
    assert_eq!(value(&metrics.collect(), "sequin.consumer.lag", &hubspot), None, "it is gone");
}
