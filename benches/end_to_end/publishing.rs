//! Publishing over HTTP: new records, then a newer version of each.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    SYNCS, Size,
    bulk::rate,
    node::Node,
    report::{Figure, Goal},
    rows::requests,
};

/// How many records one request has.
pub(crate) const REQUEST: usize = 2500;

/// How many requests are under way at once.
const CONCURRENT: usize = 4;

pub(crate) async fn measure(Size { records, .. }: Size) -> Vec<Figure> {
    eprintln!("making {records} lines, and publishing each twice");
    let requests = requests(records, SYNCS, REQUEST);
    let node = Node::start().await;
    let new = publish(&node, &requests).await;
    let replaced = publish(&node, &requests).await;
    let figure = |what, took, goal| Figure { what, unit: "records/s", ours: rate(records, took), beside: None, goal };
    vec![
        figure("publishing new records over HTTP", new, Goal::AtLeast(50_000.0)),
        figure("publishing replacements over HTTP", replaced, Goal::AtLeast(30_000.0)),
    ]
}

/// Publishes them all, some at once.
pub(crate) async fn publish(node: &Node, requests: &[Bytes]) -> Duration {
    let began = Instant::now();
    let published = stream::iter(requests).map(|request| node.publish(request.clone())).buffer_unordered(CONCURRENT);
    published.collect::<Vec<_>>().await;
    began.elapsed()
}
