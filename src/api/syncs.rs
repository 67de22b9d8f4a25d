//! Providers and syncs, as the stream knows them.

use axum::Json;
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Provider, Sync, SyncId},
    stream::SyncQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    State,
    body::{Params, Path},
    problem::Problem,
    resources::{List, PageParams},
};

/// An API whose records are in the stream.
#[derive(Serialize, ToSchema)]
#[schema(as = Provider)]
pub(super) struct ProviderView {
    name: String,
}

/// One customer's connection to a provider, and what the stream holds of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Sync)]
pub(super) struct SyncView {
    id: Uuid,
    provider: String,
    /// The publisher's own id of it.
    #[schema(required)]
    external_id: Option<String>,
    /// The publisher's notes on it.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    /// How many records the stream holds of it, deleted ones apart.
    records: u64,
    /// The position of its last version.
    last_updated_idx: u64,
    #[schema(required)]
    last_published_at: Option<DateTime<Utc>>,
}

/// Which syncs to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SyncParams {
    /// Those of this provider.
    provider: Option<String>,
    /// The most that a page has: 100, when it is not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Lists the providers.
#[utoipa::path(get, path = "/v1/providers", tag = "syncs", operation_id = "list_providers",
    responses((status = 200, description = "All of them", body = List<ProviderView>)))]
pub(super) async fn providers(api: State) -> Result<Json<List<ProviderView>>, Problem> {
    let providers = api.stream.providers().await?;
    let everything = providers.len();
    let view = |provider: Provider| ProviderView { name: provider.into() };
    Ok(Json(List::page(providers, everything, ToString::to_string, view)))
}

/// Lists syncs.
#[utoipa::path(get, path = "/v1/syncs", tag = "syncs", operation_id = "list_syncs", params(SyncParams),
    responses((status = 200, description = "A page of them", body = List<SyncView>)))]
pub(super) async fn list(api: State, Params(params): Params<SyncParams>) -> Result<Json<List<SyncView>>, Problem> {
    let provider = params.provider.as_deref().map(Provider::parse).transpose();
    let provider = provider.map_err(|error| Problem::invalid([error]))?;
    let page = PageParams { limit: params.limit, after: params.after };
    let limit = page.limit()?;
    let query = SyncQuery { provider, after: page.after()?, limit: limit + 1 };
    let syncs = api.stream.syncs(query).await?;
    Ok(Json(List::page(syncs, limit, |sync| sync.id.to_string(), view)))
}

/// Shows a sync.
#[utoipa::path(get, path = "/v1/syncs/{sync}", tag = "syncs", operation_id = "read_sync",
    responses((status = 200, description = "The sync", body = SyncView)))]
pub(super) async fn read(api: State, Path(sync): Path<String>) -> Result<Json<SyncView>, Problem> {
    let not_found = || Problem::not_found(format!("there is no sync {sync}"));
    let id: SyncId = sync.parse().map_err(|_| not_found())?;
    let found = api.stream.sync(id).await?;
    Ok(Json(view(found.ok_or_else(not_found)?)))
}

fn view(sync: Sync) -> SyncView {
    SyncView {
        id: sync.id.0,
        provider: sync.provider.into(),
        external_id: sync.external_id,
        metadata: RawValue::from_string(sync.metadata).unwrap_or_default(),
        records: sync.records,
        last_updated_idx: sync.last_updated_idx.0,
        last_published_at: sync.last_published_at,
    }
}
