//! Changing a target: its consumers go over to the new connection as soon as it answers.

use axum::{http::HeaderMap, response::Response};
use chrono::Utc;
use sequin_actors::model::{FieldError, Limits, Metadata, Target};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    ConnectionRequest, LimitsRequest, StatusCode, TargetView, answer, check_target, default_pool_size, find, settle,
};
use crate::api::{
    State,
    body::{self, Path},
    change::Change,
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::check_if_match,
};

/// What of a target is to change. What is not named stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"connection": {"password": "…"}}))]
pub(in crate::api) struct TargetPatch {
    #[schema(value_type = String, min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    #[serde(default)]
    name: Change<String>,
    #[schema(value_type = ConnectionRequest)]
    #[serde(default)]
    connection: Change<ConnectionRequest>,
    /// Null for the default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    #[serde(default)]
    pool_size: Change<u32>,
    /// Null for the defaults.
    #[schema(value_type = Option<LimitsRequest>)]
    #[serde(default)]
    limits: Change<LimitsRequest>,
    /// Replaced as a whole.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    metadata: Change<Metadata>,
}

/// Changes a target.
///
/// What the body does not name stays as it is (RFC 7396). Consumers go over to the new connection as soon as it answers.
#[utoipa::path(patch, path = "/v1/targets/{target}", tag = "targets", operation_id = "change_target", params(IfMatch),
    responses((status = 200, description = "The target as it is now", body = TargetView, headers(("ETag"))), Conflict))]
pub(in crate::api) async fn patch(
    api: State,
    Path(target): Path<String>,
    headers: HeaderMap,
    body::Json(patch): body::Json<TargetPatch>,
) -> Result<Response, Problem> {
    let before = find::<Target>(&api.documents, &target).await?;
    check_if_match(&headers, before.revision)?;
    let mut target = before.value.clone();
    let errors = patch.apply(&mut target);
    check_target(&target, errors)?;
    if target == before.value {
        return answer(&api, StatusCode::OK, before.value, before.revision).await;
    }
    settle(&api, &mut target.connection).await?;
    target.updated_at = Utc::now();
    let revision = api.documents.update_named(&before.value, &target, before.revision, target.updated_at).await?;
    answer(&api, StatusCode::OK, target, revision).await
}

impl TargetPatch {
    fn apply(self, target: &mut Target) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.name.required("name", &mut target.name, &mut errors);
        self.pool_size.or(default_pool_size(), &mut target.pool_size);
        match self.limits {
            Change::Keep => {}
            Change::Reset => target.limits = Limits::default(),
            Change::To(request) => request.apply(&mut target.limits),
        }
        self.metadata.or(Metadata::new(), &mut target.metadata);
        match self.connection {
            Change::Keep => {}
            Change::Reset => errors.push(FieldError::new("connection", "can't be null: leave out what stays as it is")),
            Change::To(request) => request.apply(&mut target.connection, &mut errors),
        }
        errors
    }
}
