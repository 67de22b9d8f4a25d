//! Providers and syncs, as the stream knows them.

use axum::{Json, extract::Path};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Provider, Sync, SyncId},
    stream::SyncQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    State,
    body::Params,
    problem::Problem,
    resources::{List, PageParams},
};

#[derive(Serialize)]
pub(super) struct ProviderView {
    name: String,
}

#[derive(Serialize)]
pub(super) struct SyncView {
    id: Uuid,
    provider: String,
    external_id: Option<String>,
    metadata: Box<RawValue>,
    records: u64,
    last_updated_idx: u64,
    last_published_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SyncParams {
    provider: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn providers(api: State) -> Result<Json<List<ProviderView>>, Problem> {
    let providers = api.stream.providers().await?;
    let everything = providers.len();
    let view = |provider: Provider| ProviderView { name: provider.into() };
    Ok(Json(List::page(providers, everything, ToString::to_string, view)))
}

pub(super) async fn list(api: State, Params(params): Params<SyncParams>) -> Result<Json<List<SyncView>>, Problem> {
    let provider = params.provider.as_deref().map(Provider::parse).transpose();
    let provider = provider.map_err(|error| Problem::invalid([error]))?;
    let page = PageParams { limit: params.limit, after: params.after };
    let limit = page.limit()?;
    let query = SyncQuery { provider, after: page.after()?, limit: limit + 1 };
    let syncs = api.stream.syncs(query).await?;
    Ok(Json(List::page(syncs, limit, |sync| sync.id.to_string(), view)))
}

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
