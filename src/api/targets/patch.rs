//! Changing a target: its consumers go over to the new connection as soon as it answers.

use axum::{extract::Path, http::HeaderMap, response::Response};
use chrono::Utc;
use sequin_actors::model::{FieldError, Metadata, Target, TlsMode};
use serde::Deserialize;
use serde_json::Value;

use super::{StatusCode, answer, default_pool_size, default_port, find, secret::SecretText};
use crate::api::{State, body, change::Change, problem::Problem, resources::check_if_match};

/// What of a target is to change.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::api) struct TargetPatch {
    name: Change<String>,
    connection: Change<ConnectionPatch>,
    pool_size: Change<u32>,
    metadata: Change<Metadata>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConnectionPatch {
    host: Change<String>,
    port: Change<u16>,
    database: Change<String>,
    username: Change<String>,
    password: Change<SecretText>,
    tls: Change<TlsPatch>,
    bastion: Change<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsPatch {
    mode: Change<String>,
    ca_pem: Change<String>,
    client_cert_pem: Change<String>,
    client_key_pem: Change<String>,
}

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
