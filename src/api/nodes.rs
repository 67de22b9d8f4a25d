//! Nodes: who lives, and which targets it runs.

use std::collections::HashMap;

use axum::Json;
use chrono::{DateTime, Utc};
use sequin_actors::model::{Ownership, Phase, Session, Target, TargetId};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{State, openapi::words, problem::Problem, resources::List};

/// A node that lives.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    node: String,
    /// What of this program it runs.
    version: String,
    #[schema(schema_with = phases)]
    state: &'static str,
    /// Those that it runs.
    targets: Vec<OwnedView>,
    /// `null` for a node that is alone.
    started_at: Option<DateTime<Utc>>,
    /// When it was last heard of.
    seen_at: DateTime<Utc>,
}

fn phases() -> utoipa::openapi::Object {
    words("What it is about.", &["serving", "leaving"])
}

/// A target that a node runs.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnedTarget)]
struct OwnedView {
    id: Uuid,
    name: String,
    /// How often it was taken over.
    epoch: u32,
}

/// Lists the nodes that live, with the targets that each runs.
#[utoipa::path(get, path = "/v1/nodes", tag = "node", operation_id = "list_nodes",
    responses((status = 200, description = "All of them", body = List<NodeView>)))]
pub(super) async fn list(api: State) -> Result<Json<List<NodeView>>, Problem> {
    let targets = api.documents.all::<Target>().await?.into_iter().flatten();
    let mut sessions: Vec<Session> = api.documents.all().await?.into_iter().flatten().collect();
    // One that fell silent is there until others have noticed.
    sessions.retain(|session| session.phase != Phase::Ended);
    sessions.sort_by(|a, b| a.node.cmp(&b.node));
    let nodes: Vec<NodeView> = if let Some(node) = &api.alone {
        let targets = targets.map(|target| OwnedView { id: target.id.0, name: target.name, epoch: 0 });
        vec![alone(node, targets.collect())]
    } else {
        let names = targets.map(|target| (target.id, target.name)).collect();
        let owners: Vec<Ownership> = api.documents.all().await?.into_iter().flatten().collect();
        sessions.into_iter().map(|session| of(session, &owners, &names)).collect()
    };
    let everything = nodes.len();
    Ok(Json(List::page(nodes, everything, |node| node.node.clone(), |node| node)))
}

/// A node that has no session, because there is no other, and runs everything.
fn alone(node: &str, targets: Vec<OwnedView>) -> NodeView {
    let version = env!("CARGO_PKG_VERSION").into();
    NodeView { node: node.into(), version, state: "serving", targets, started_at: None, seen_at: Utc::now() }
}

fn of(session: Session, owners: &[Ownership], names: &HashMap<TargetId, String>) -> NodeView {
    let its = owners.iter().filter(|owner| owner.session == Some(session.id));
    let targets = its.filter_map(|owner| {
        let name = names.get(&owner.target)?.clone();
        Some(OwnedView { id: owner.target.0, name, epoch: owner.epoch.0 })
    });
    NodeView {
        targets: targets.collect(),
        node: session.node,
        version: session.version,
        state: if session.phase == Phase::Leaving { "leaving" } else { "serving" },
        started_at: Some(session.started_at),
        seen_at: session.renewed_at,
    }
}
