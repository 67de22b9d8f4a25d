//! Targets: customers' databases.

pub(super) mod check;
pub(super) mod compare;
mod connection;
pub(super) mod host_key;
mod limits;
pub(super) mod patch;
mod url;
mod view;

use std::collections::HashMap;

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Consumer, FieldError, Limits, Metadata, Target, TargetId},
    store::{DocumentsError, Revision, Versioned},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use self::{connection::ConnectionRequest, host_key::settle, limits::LimitsRequest, view::TargetView};
use super::{
    Api, State,
    body::{Params, Path},
    idempotency::{Once, create_once},
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::{List, PageParams, SqlView, beside_if_readable, check_if_match, find, with_etag},
};

/// A target, as it is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "app",
    "connection": {"host": "db.example.com", "database": "app", "username": "sequin", "password": "…"},
}))]
pub(super) struct TargetRequest {
    /// Unique among targets, and no uuid.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    name: String,
    connection: ConnectionRequest,
    /// The most sessions that all its consumers together may hold.
    #[serde(default = "default_pool_size")]
    #[schema(minimum = 1, maximum = 100, default = default_pool_size)]
    pool_size: u32,
    limits: Option<LimitsRequest>,
    /// Your notes, kept as you give them.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Metadata,
}

fn default_pool_size() -> u32 {
    4
}

fn default_port() -> u16 {
    5432
}

impl TargetRequest {
    fn into_target(self, now: DateTime<Utc>) -> Result<Target, Problem> {
        let mut errors = Vec::new();
        let mut target = Target {
            id: TargetId::generate(),
            name: self.name,
            connection: connection::unsaid(),
            pool_size: self.pool_size,
            limits: Limits::default(),
            metadata: self.metadata,
            created_at: now,
            updated_at: now,
        };
        self.connection.apply(&mut target.connection, &mut errors);
        self.limits.unwrap_or_default().apply(&mut target.limits);
        check_target(&target, errors)?;
        Ok(target)
    }
}

/// Everything that is wrong with a target as it was asked for: of a field once, and of a URL that can't be read not what it
/// leaves unsaid.
fn check_target(target: &Target, mut errors: Vec<FieldError>) -> Result<(), Problem> {
    let by_url = errors.iter().any(|told| told.field == "connection.url");
    for error in target.check() {
        let may_be_by_url = by_url && error.field.starts_with("connection.");
        let is_told = errors.iter().any(|told| told.field == error.field);
        if !(is_told || may_be_by_url) {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

async fn view(api: &Api, target: Target, consumers: usize) -> Result<TargetView, Problem> {
    let now = Utc::now();
    let mut unreadable = Vec::new();
    let status = beside_if_readable(&api.documents, target.id, &mut unreadable, now).await?;
    Ok(TargetView::of(target, status, unreadable, consumers, now))
}

async fn answer(api: &Api, status: StatusCode, target: Target, revision: Revision) -> Result<Response, Problem> {
    let consumers = api.documents.all::<Consumer>().await?;
    let consumers = consumers.iter().flatten().filter(|consumer| consumer.target == target.id).count();
    Ok(with_etag(status, revision, view(api, target, consumers).await?))
}

/// Makes a target.
#[utoipa::path(post, path = "/v1/targets", tag = "targets", operation_id = "create_target",
    params(Once<TargetRequest>), request_body = TargetRequest,
    responses((status = 201, description = "It is made", body = TargetView, headers(("ETag"))), Conflict))]
pub(super) async fn create(api: State, Once { request, key }: Once<TargetRequest>) -> Result<Response, Problem> {
    let now = Utc::now();
    let mut target = request.into_target(now)?;
    // Nothing is connected to a second time, and what was made stands whether or not its bastion answers now.
    if let Some(key) = &key
        && let Some(made) = key.made(&api.documents, now).await?
    {
        return answer(&api, StatusCode::CREATED, made.value, made.revision).await;
    }
    settle(&api, &mut target.connection).await?;
    let made = create_once(&api.documents, key, target, |target, id| Target { id, ..target }, now).await?;
    answer(&api, StatusCode::CREATED, made.value, made.revision).await
}

/// Lists targets.
#[utoipa::path(get, path = "/v1/targets", tag = "targets", operation_id = "list_targets", params(PageParams),
    responses((status = 200, description = "A page of them", body = List<TargetView>)))]
pub(super) async fn list(api: State, Params(params): Params<PageParams>) -> Result<Json<List<TargetView>>, Problem> {
    let limit = params.limit()?;
    let targets = api.documents.list::<Target>(params.after()?, limit + 1).await?;
    let mut consumers: HashMap<TargetId, usize> = HashMap::new();
    for consumer in api.documents.all::<Consumer>().await?.into_iter().flatten() {
        *consumers.entry(consumer.target).or_default() += 1;
    }
    let mut found = Vec::new();
    for target in targets {
        found.push(match target {
            Ok(Versioned { value: target, .. }) => {
                let count = consumers.get(&target.id).copied().unwrap_or_default();
                Ok((target.id.to_string(), view(&api, target, count).await?))
            }
            Err(unreadable) => Err(unreadable),
        });
    }
    Ok(Json(List::page_of_documents(found, limit)))
}

/// Shows a target.
#[utoipa::path(get, path = "/v1/targets/{target}", tag = "targets", operation_id = "read_target",
    responses((status = 200, description = "The target", body = TargetView, headers(("ETag")))))]
pub(super) async fn read(api: State, Path(target): Path<String>) -> Result<Response, Problem> {
    let found = find::<Target>(&api.documents, &target).await?;
    answer(&api, StatusCode::OK, found.value, found.revision).await
}

/// Deletes a target that no consumer writes to.
#[utoipa::path(delete, path = "/v1/targets/{target}", tag = "targets", operation_id = "delete_target", params(IfMatch),
    responses((status = 204, description = "It is gone"), Conflict))]
pub(super) async fn delete(api: State, Path(target): Path<String>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let found = find::<Target>(&api.documents, &target).await?;
    check_if_match(&headers, found.revision)?;
    // One that can't be read may write to it.
    let consumers = api.documents.all::<Consumer>().await?.into_iter().collect::<Result<Vec<_>, _>>();
    let consumers = consumers.map_err(DocumentsError::from)?;
    let in_use: Vec<_> = consumers.iter().filter(|consumer| consumer.target == found.value.id).collect();
    if let Some(consumer) = in_use.first() {
        let detail =
            format!("{} consumers write to it, {} among them: delete those first", in_use.len(), consumer.name);
        return Err(Problem::conflict(detail));
    }
    api.documents.delete_named(&found.value, found.revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SetupParams {
    /// The schema to make: `sequin`, when it is not said.
    schema: Option<String>,
}

/// Gives the SQL that makes the user and the schema, with the grants.
#[utoipa::path(get, path = "/v1/targets/{target}/setup-sql", tag = "targets", operation_id = "setup_sql",
    params(SetupParams), responses((status = 200, description = "The SQL", body = SqlView)))]
pub(super) async fn setup_sql(
    api: State,
    Path(target): Path<String>,
    Params(params): Params<SetupParams>,
) -> Result<Json<SqlView>, Problem> {
    let connection = find::<Target>(&api.documents, &target).await?.value.connection;
    let schema = params.schema.as_deref().unwrap_or("sequin");
    Ok(Json(SqlView { sql: api.inspector.setup_sql(&connection, schema) }))
}
