//! Changing a target: its consumers go over to the new connection as soon as it answers.

use axum::{http::HeaderMap, response::Response};
use chrono::Utc;
use sequin_actors::model::{FieldError, Metadata, Target, TlsMode};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{ToSchema, openapi::Object};

use super::{StatusCode, TargetView, answer, default_pool_size, default_port, find};
use crate::api::{
    State,
    body::{self, Path},
    change::Change,
    openapi::{Conflict, IfMatch, or_null},
    problem::Problem,
    resources::check_if_match,
    secret::SecretText,
};

/// What of a target is to change. What is not named stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"connection": {"password": "…"}}))]
pub(in crate::api) struct TargetPatch {
    #[schema(value_type = String, min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    #[serde(default)]
    name: Change<String>,
    #[schema(value_type = ConnectionPatch)]
    #[serde(default)]
    connection: Change<ConnectionPatch>,
    /// Null for the default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    #[serde(default)]
    pool_size: Change<u32>,
    /// Replaced as a whole.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    metadata: Change<Metadata>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionPatch {
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    host: Change<String>,
    /// Null for the default.
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65535)]
    #[serde(default)]
    port: Change<u16>,
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    database: Change<String>,
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    #[serde(default)]
    username: Change<String>,
    /// Null for none.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    #[serde(default)]
    password: Change<SecretText>,
    /// Null for the defaults.
    #[schema(value_type = Option<TlsPatch>)]
    #[serde(default)]
    tls: Change<TlsPatch>,
    /// Not supported by this version.
    #[schema(schema_with = super::not_yet)]
    #[serde(default)]
    bastion: Change<Value>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TlsPatch {
    #[schema(schema_with = mode)]
    #[serde(default)]
    mode: Change<String>,
    /// Null for the system's authorities.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    ca_pem: Change<String>,
    /// Not supported by this version.
    #[schema(schema_with = super::not_yet)]
    #[serde(default)]
    client_cert_pem: Change<String>,
    /// Not supported by this version.
    #[schema(schema_with = super::not_yet)]
    #[serde(default)]
    client_key_pem: Change<String>,
}

fn mode() -> Object {
    or_null(super::tls_modes())
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
