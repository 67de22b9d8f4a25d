//! The encryption keys that secrets are sealed under.

use axum::Json;
use sequin_actors::store::{Resealed, Unreadable};
use serde::Serialize;

use super::{State, problem::Problem, resources::UnreadableView};

/// What a rotation did.
#[derive(Serialize)]
pub(super) struct RotationView {
    /// How many documents were sealed under another key, and are under the first now.
    resealed: u64,
    /// What can't be read, and may still need another key.
    unreadable: Vec<UnreadableView>,
}

/// Seals everything under the first of the keys.
pub(super) async fn rotate(api: State) -> Result<Json<RotationView>, Problem> {
    let Resealed { documents, unreadable } = api.documents.reseal().await?;
    tracing::info!(documents, unreadable = unreadable.len(), "secrets were sealed under the first encryption key");
    let view = |unreadable: &Unreadable| UnreadableView::of(unreadable);
    Ok(Json(RotationView { resealed: documents, unreadable: unreadable.iter().map(view).collect() }))
}
