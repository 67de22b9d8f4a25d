//! The encryption keys that secrets are sealed under.

use axum::Json;
use sequin_actors::store::Resealed;
use serde::Serialize;
use utoipa::ToSchema;

use super::{State, openapi::Conflict, problem::Problem, resources::UnreadableView};

/// What a rotation did.
#[derive(Serialize, ToSchema)]
#[schema(as = Rotation)]
pub(super) struct RotationView {
    /// How many documents were sealed under another key, and are under the first now.
    resealed: u64,
    /// What can't be read, and may still need another key.
    unreadable: Vec<UnreadableView>,
}

/// Seals every secret anew that another than the first encryption key sealed.
#[utoipa::path(post, path = "/v1/rotate-keys", tag = "access", operation_id = "rotate_keys",
    responses((status = 200, description = "What was done", body = RotationView), Conflict))]
pub(super) async fn rotate(api: State) -> Result<Json<RotationView>, Problem> {
    let Resealed { documents, unreadable } = api.documents.reseal().await?;
    tracing::info!(documents, unreadable = unreadable.len(), "secrets were sealed under the first encryption key");
    Ok(Json(RotationView { resealed: documents, unreadable: unreadable.iter().map(UnreadableView::of).collect() }))
}
