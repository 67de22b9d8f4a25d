//! Nodes: who lives, and which targets it runs.

use std::collections::BTreeMap;

use axum::Json;
use chrono::{DateTime, Utc};
use sequin_actors::model::{Target, TargetStatus};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    State,
    problem::Problem,
    resources::{List, beside_if_readable},
    targets::STALE,
};

/// A node that lives.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    node: String,
    /// Those that it runs.
    targets: Vec<OwnedView>,
    /// When it was last heard of.
    seen_at: DateTime<Utc>,
}

/// A target that a node runs.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnedTarget)]
struct OwnedView {
    id: Uuid,
    name: String,
}

/// Lists the nodes that live, with the targets that each runs.
#[utoipa::path(get, path = "/v1/nodes", tag = "node", operation_id = "list_nodes",
    responses((status = 200, description = "All of them", body = List<NodeView>)))]
pub(super) async fn list(api: State) -> Result<Json<List<NodeView>>, Problem> {
    let now = Utc::now();
    let named = |node: &str, seen_at| NodeView { node: node.into(), targets: Vec::new(), seen_at };
    // The one that answers lives.
    let mut nodes = BTreeMap::from([(api.node.clone(), named(&api.node, now))]);
    for target in api.documents.all::<Target>().await?.into_iter().flatten() {
        let status = beside_if_readable::<TargetStatus>(&api.documents, target.id, &mut Vec::new(), now).await?;
        let Some(status) = status.filter(|status| (now - status.checked_at).abs() <= STALE) else { continue };
        let node = nodes.entry(status.node).or_insert_with_key(|node| named(node, status.checked_at));
        node.seen_at = node.seen_at.max(status.checked_at);
        node.targets.push(OwnedView { id: target.id.0, name: target.name });
    }
    let everything = nodes.len();
    Ok(Json(List::page(nodes.into_values().collect(), everything, |node: &NodeView| node.node.clone(), |node| node)))
}
