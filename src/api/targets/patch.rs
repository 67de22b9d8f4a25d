//! Changing a target: its consumers go over to the new connection as soon as it answers.

use axum::{extract::Path, http::HeaderMap, response::Response};
use chrono::Utc;
use sequin_actors::model::{FieldError, Metadata, Target, TlsMode};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    StatusCode, answer, default_pool_size, default_port, find, not_yet as not_yet_schema, secret::SecretText,
    tls_modes, view::TargetView,
};
use crate::api::{
    State, body,
    change::Change,
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::check_if_match,
};

/// What of a target is to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"connection": {"password": "…"}}))]
pub(in crate::api) struct TargetPatch {
    /// Unique among targets, and no uuid.
    #[serde(default)]
    #[schema(value_type = String, min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    name: Change<String>,
    #[serde(default)]
    #[schema(value_type = ConnectionPatch)]
    connection: Change<ConnectionPatch>,
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pool_size: Change<u32>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Change<Metadata>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionPatch {
    #[serde(default)]
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    host: Change<String>,
    #[serde(default)]
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65535)]
    port: Change<u16>,
    #[serde(default)]
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    database: Change<String>,
    #[serde(default)]
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    username: Change<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, write_only)]
    password: Change<SecretText>,
    #[serde(default)]
    #[schema(value_type = Option<TlsPatch>)]
    tls: Change<TlsPatch>,
    #[serde(default)]
    #[schema(schema_with = not_yet_schema)]
    bastion: Change<Value>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TlsPatch {
    #[serde(default)]
    #[schema(schema_with = tls_modes)]
    mode: Change<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ca_pem: Change<String>,
    #[serde(default)]
    #[schema(schema_with = not_yet_schema)]
    client_cert_pem: Change<String>,
    #[serde(default)]
    #[schema(schema_with = not_yet_schema)]
    client_key_pem: Change<String>,
}

/// Changes a target; its consumers go over to the new connection as soon as it answers.
///
/// What is absent stays as it is, `null` is back to the default; `connection` and `tls` are merged (RFC 7396).
#[utoipa::path(patch, path = "/v1/targets/{target}", tag = "targets", operation_id = "change_target", params(IfMatch),
    responses((status = 200, description = "It is changed", body = TargetView, headers(("ETag"))), Conflict))]
pub(in crate::api) async fn patch(
    api: State,
    Path(target): Path<String>,
    headers: HeaderMap,
    body::Json(patch): body::Json<TargetPatch>,
) -> Result<Response, Problem> {
    let before = find::<Target>(&api.documents, &target).await?;
    check_if_match(&headers, before.revision)?;
    let mut target = before.value.clone();
    let mut errors = patch.apply(&mut target);
    errors.extend(target.check());
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    if target == before.value {
        return answer(&api, StatusCode::OK, before.value, before.revision).await;
    }
    api.inspector.check_settings(&target.connection).map_err(|error| Problem::invalid([error]))?;
    target.updated_at = Utc::now();
    let revision = api.documents.update_named(&before.value, &target, before.revision, target.updated_at).await?;
    answer(&api, StatusCode::OK, target, revision).await
}

impl TargetPatch {
    fn apply(self, target: &mut Target) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.name.required("name", &mut target.name, &mut errors);
        self.pool_size.or(default_pool_size(), &mut target.pool_size);
        self.metadata.or(Metadata::new(), &mut target.metadata);
        match self.connection {
            Change::Keep => {}
            Change::Reset => errors.push(FieldError::new("connection", "can't be null: leave out what stays as it is")),
            Change::To(patch) => patch.apply(target, &mut errors),
        }
        errors
    }
}

impl ConnectionPatch {
    fn apply(self, target: &mut Target, errors: &mut Vec<FieldError>) {
        let connection = &mut target.connection;
        self.host.required("connection.host", &mut connection.host, errors);
        self.port.or(default_port(), &mut connection.port);
        self.database.required("connection.database", &mut connection.database, errors);
        self.username.required("connection.username", &mut connection.username, errors);
        self.password.map(|SecretText(password)| password).optional(&mut connection.password);
        not_yet("connection.bastion", &self.bastion, errors);
        let tls = match self.tls {
            Change::Keep => return,
            Change::Reset => TlsPatch { mode: Change::Reset, ca_pem: Change::Reset, ..TlsPatch::default() },
            Change::To(patch) => patch,
        };
        not_yet("connection.tls.client_cert_pem", &tls.client_cert_pem, errors);
        not_yet("connection.tls.client_key_pem", &tls.client_key_pem, errors);
        tls.ca_pem.optional(&mut connection.tls.ca_pem);
        match tls.mode {
            Change::Keep => {}
            Change::Reset => connection.tls.mode = TlsMode::default(),
            Change::To(mode) => match mode.parse() {
                Ok(mode) => connection.tls.mode = mode,
                Err(error) => errors.push(error),
            },
        }
    }
}

fn not_yet<T>(field: &str, change: &Change<T>, errors: &mut Vec<FieldError>) {
    if matches!(change, Change::To(_)) {
        errors.push(FieldError::new(field, "is not supported by this version"));
    }
}
