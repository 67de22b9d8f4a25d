//! A node of three goes, and another goes on with what it had: how long that takes when it is killed, and when it is asked
//! to end.
//!
//! Records come all the time, by way of a node that stays. The table says of each row in which epoch of the target it was
//! brought, and the server when.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sequin_actors::model::TableName;
use tokio::time::sleep;

use super::{
    Size,
    fleet::{Fleet, Seen, Traffic, median_and_worst},
    nats::Nats,
    report::{Figure, Goal},
    server::{Server, sql},
};

const NODES: usize = 3;

/// How often either is done.
const TIMES: usize = 20;

/// How long there is between two records.
const EVERY: Duration = Duration::from_millis(10);

/// How long records come before the node goes, and after another has brought the first.
const AROUND: Duration = Duration::from_millis(500);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One round: each has its median and its worst within it.
pub(crate) async fn measure(size: Size) -> Vec<Figure> {
    if size.round > 0 {
        return Vec::new();
    }
    let mut stage = Stage::set().await;
    let (mut killed, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        killed.push(stage.lose_owner("KILL").await);
        stage.restore().await;
        asked.push(stage.lose_owner("TERM").await);
        stage.restore().await;
    }
    let of = |gaps: &[Gap], which: fn(&Gap) -> f64| median_and_worst(gaps.iter().map(which).collect());
    let (failover, hand_over) = (of(&killed, |gap| gap.until_another), of(&asked, |gap| gap.until_another));
    let late = of(&asked, |gap| gap.latest);
    let figure = |what, ours, goal| Figure { what, unit: "s", ours, beside: None, goal };
    vec![
        figure("a node is killed, another has brought a record: median of 20", failover[0], Goal::AtMost(10.0)),
        figure("a node is killed, another has brought a record: worst of 20", failover[1], Goal::AtMost(10.0)),
        figure("a node is asked to end, another has brought a record: median of 20", hand_over[0], Goal::AtMost(2.0)),
        figure("a node is asked to end, another has brought a record: worst of 20", hand_over[1], Goal::AtMost(2.0)),
        figure("meanwhile, from acknowledged to visible, the slowest record: median of 20", late[0], Goal::AtMost(2.0)),
        figure("meanwhile, from acknowledged to visible, the slowest record: worst of 20", late[1], Goal::AtMost(2.0)),
    ]
}

struct Stage {
    server: Server,
    table: TableName,
    fleet: Fleet,
    /// Which node has the target, while it is there: it is the last of the fleet then.
    owner: String,
    /// The epoch in which it does.
    epoch: u64,
    traffic: Traffic,
}

/// What is seen of a node's end, in seconds.
struct Gap {
    /// Until a row was committed by another node whose record was published after that.
    until_another: f64,
    /// The most that a record took from its acknowledgement until it was visible.
    latest: f64,
}

impl Stage {
    async fn set() -> Self {
        let server = Server::start_with(&[("track_commit_timestamp", "on")]).await;
        let table = server.table("ours").await;
        let epoch = "substring(current_setting('application_name') from '[0-9]+$')::bigint";
        let add = format!("alter table {} add epoch bigint default {epoch}", sql(&table));
        server.client.batch_execute(&add).await.expect("a column");
        let mut fleet = Fleet::on(Nats::start_cluster());
        for number in 0..NODES {
            fleet.join(&format!("node-{number}")).await;
        }
        fleet.nodes[0].forward_to(&server.postgres, &table).await;
        let traffic = Traffic { syncs: 1, every: EVERY, sent: Vec::new() };
        let mut stage = Self { server, table, fleet, owner: String::new(), epoch: 0, traffic };
        let (owner, epoch) = stage.settled().await;
        let number: usize = owner.trim_start_matches("node-").parse().expect("a number");
        let node = stage.fleet.nodes.remove(number);
        stage.fleet.nodes.push(node);
        (stage.owner, stage.epoch) = (owner, epoch);
        stage
    }

    /// Waits until all nodes are there, and one that has been there for a while has the target; returns which, and in which
    /// epoch.
    async fn settled(&self) -> (String, u64) {
        let mut last = (String::new(), 0);
        let mut times = 0;
        while times < 20 {
            sleep(LOOK_EVERY * 5).await;
            let seen = self.fleet.seen_by(&self.fleet.nodes[0]).await;
            let is_well = |sessions: &Vec<Seen>| sessions.len() == 1 && sessions[0].is_serving;
            let owner = seen.iter().find(|(_, sessions)| sessions[0].targets == 1);
            let Some((name, sessions)) = owner.filter(|_| seen.len() == NODES && seen.values().all(is_well)) else {
                times = 0;
                continue;
            };
            let now = (name.clone(), sessions[0].epoch);
            times = if now == last { times + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// Ends the node that has the target by a signal, and waits until another brings what comes.
    async fn lose_owner(&mut self, signal: &str) -> Gap {
        let mut owner = self.fleet.nodes.pop().expect("it is there");
        let before = self.traffic.sent.len();
        let (server, table, epoch) = (&self.server, sql(&self.table), self.epoch);
        let by_another = format!("select exists (select from {table} where epoch > {epoch})");
        let ending = async {
            sleep(AROUND).await;
            let at = Utc::now();
            owner.signal(signal);
            while !server.client.query_one(&by_another, &[]).await.expect("an answer").get::<_, bool>(0) {
                sleep(LOOK_EVERY).await;
            }
            sleep(AROUND).await;
            at
        };
        let at = self.traffic.until(&self.fleet.nodes[0], ending).await;
        owner.end().await;
        self.all_are_there().await;
        let rows = format!(
            "select upstream_id::bigint, epoch, pg_xact_commit_timestamp(xmin) from {table}
             where upstream_id::bigint >= {before}"
        );
        let mut gap = Gap { until_another: f64::MAX, latest: 0.0 };
        for row in self.server.client.query(&rows, &[]).await.expect("rows") {
            let (number, in_epoch, visible_at): (i64, i64, DateTime<Utc>) = (row.get(0), row.get(1), row.get(2));
            let sent = &self.traffic.sent[usize::try_from(number).expect("a number")];
            if in_epoch.unsigned_abs() > epoch && sent.begun_at > at {
                gap.until_another = gap.until_another.min((visible_at - at).as_seconds_f64());
            }
            gap.latest = gap.latest.max((visible_at - sent.acknowledged_at).as_seconds_f64());
        }
        eprintln!("  {signal}: another after {:.2} s, the slowest record {:.2} s", gap.until_another, gap.latest);
        gap
    }

    async fn all_are_there(&self) {
        let count = format!("select count(*) from {}", sql(&self.table));
        let rows = async || self.server.client.query_one(&count, &[]).await.expect("a count").get::<_, i64>(0);
        while usize::try_from(rows().await).ok() != Some(self.traffic.sent.len()) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Starts the node again: the target comes back to it.
    async fn restore(&mut self) {
        self.fleet.join(&self.owner.clone()).await;
        let (owner, epoch) = self.settled().await;
        assert_eq!(owner, self.owner, "it has the place that its name gives it");
        self.epoch = epoch;
        // It works, and not only owns.
        let (server, in_epoch) =
            (&self.server, format!("select exists (select from {} where epoch = {epoch})", sql(&self.table)));
        let working = async {
            while !server.client.query_one(&in_epoch, &[]).await.expect("an answer").get::<_, bool>(0) {
                sleep(LOOK_EVERY).await;
            }
        };
        self.traffic.until(&self.fleet.nodes[0], working).await;
        self.all_are_there().await;
    }
}
