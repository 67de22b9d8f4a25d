//! Nodes of one cluster on NATS, and what they say of themselves.

use std::{collections::BTreeMap, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use sequin_actors::{
    model::{Consumer, Target},
    store::{Documents, JetStreamStore, Keyring},
};
use tempfile::TempDir;

use super::{footprint::line, nats::Nats, node::Node, ours::connect};

/// How many documents are written at once.
const AT_ONCE: usize = 256;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// NATS servers, and nodes on them.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) nats: Nats,
    key: String,
    directory: TempDir,
}

/// What the cluster says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) is_serving: bool,
    /// How many targets it owns.
    pub(crate) targets: usize,
    /// The highest epoch of these.
    pub(crate) epoch: u64,
}

impl Fleet {
    /// No node yet.
    pub(crate) fn on(nats: Nats) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { nodes: Vec::new(), nats, key: Keyring::generate_base64(), directory }
    }

    /// Starts one more.
    pub(crate) async fn join(&mut self, name: &str) {
        self.nodes.push(self.start(name).await);
    }

    /// Starts one more that others keep.
    pub(crate) async fn start(&self, name: &str) -> Node {
        Node::join(&self.nats.url(), &self.key, name, &self.log(name)).await
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    /// Writes what is to run where the nodes find it.
    pub(crate) async fn provide(&self, targets: &[Target], consumers: &[Consumer]) {
        let store = JetStreamStore::open(connect(&self.nats).await).await.expect("a store");
        let keyring = Keyring::from_base64(&self.key).expect("a key");
        let documents = Documents::new(Arc::new(store), Arc::new(keyring));
        let now = Utc::now();
        for some in targets.chunks(AT_ONCE) {
            for made in join_all(some.iter().map(|target| documents.create(target, now))).await {
                made.expect("a target");
            }
        }
        for some in consumers.chunks(AT_ONCE) {
            for made in join_all(some.iter().map(|consumer| documents.create(consumer, now))).await {
                made.expect("a consumer");
            }
        }
    }

    /// The sessions that are not over, by the names of their nodes, as one of the nodes tells.
    pub(crate) async fn seen_by(&self, node: &Node) -> BTreeMap<String, Vec<Seen>> {
        let nodes = node.get("/v1/nodes").await;
        let mut seen: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for node in nodes["data"].as_array().expect("a list") {
            let targets = node["targets"].as_array().expect("a list");
            let epochs = targets.iter().filter_map(|target| target["epoch"].as_u64());
            let of_node = Seen {
                is_serving: node["state"] == "serving",
                targets: targets.len(),
                epoch: epochs.max().unwrap_or_default(),
            };
            seen.entry(node["node"].as_str().expect("a name").to_owned()).or_default().push(of_node);
        }
        seen
    }

    /// Waits until so many nodes, and no more, own so many targets together, each its part.
    pub(crate) async fn shares(&self, nodes: usize, targets: usize) {
        loop {
            let seen = self.seen_by(&self.nodes[0]).await;
            let all: Vec<&Seen> = seen.values().flatten().collect();
            let least = targets / nodes / 2;
            let is_shared = all.iter().all(|seen| seen.is_serving && seen.targets >= least);
            if all.len() == nodes && is_shared && all.iter().map(|seen| seen.targets).sum::<usize>() == targets {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Records that come all the time, a new one each, of some syncs in turn.
pub(crate) struct Traffic {
    pub(crate) syncs: usize,
    /// How long there is between two.
    pub(crate) every: Duration,
    /// By number.
    pub(crate) sent: Vec<Sent>,
}

/// A record on its way.
pub(crate) struct Sent {
    pub(crate) begun_at: DateTime<Utc>,
    pub(crate) acknowledged_at: DateTime<Utc>,
}

impl Traffic {
    /// Publishes until `end`, and returns what came of that.
    pub(crate) async fn until<T>(&mut self, node: &Node, end: impl Future<Output = T>) -> T {
        let mut rhythm = tokio::time::interval(self.every);
        let mut end = pin!(end);
        loop {
            tokio::select! {
                done = &mut end => return done,
                _ = rhythm.tick() => {
                    let (number, begun_at) = (self.sent.len(), Utc::now());
                    node.publish(line(number % self.syncs, "traffic", number).into()).await;
                    self.sent.push(Sent { begun_at, acknowledged_at: Utc::now() });
                }
            }
        }
    }
}

/// The one in the middle, and the highest.
pub(crate) fn median_and_worst(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[values.len() - 1]]
}
