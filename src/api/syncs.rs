//! Providers and syncs, as the stream knows them and as somebody described them.

pub(super) mod settings;
pub(super) mod write;

use std::collections::BTreeMap;

use axum::{Json, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Provider, Sync, SyncId, SyncSettings},
    store::Revision,
    stream::SyncQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    Api, State,
    body::{Params, Path},
    problem::Problem,
    resources::{List, PageParams, with_etag},
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
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
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
    let after: Option<SyncId> = page.after()?;
    let query = SyncQuery { provider: provider.clone(), after, limit: limit + 1 };
    let of_stream = api.stream.syncs(query).await?;
    let all = api.settings.now();
    let is_asked_for = |settings: &SyncSettings| {
        provider.as_ref().is_none_or(|provider| settings.provider == *provider) && Some(settings.id) > after
    };
    let described = all.values().filter(|settings| is_asked_for(settings));
    let mut known: BTreeMap<SyncId, Option<Sync>> = described.map(|settings| (settings.id, None)).collect();
    known.extend(of_stream.into_iter().map(|sync| (sync.id, Some(sync))));
    let settings = |id: &SyncId| all.get(id).map(|settings| (**settings).clone());
    let found = known.into_iter().filter_map(|(id, stream)| Found::of(stream, settings(&id)));
    Ok(Json(List::page(found.take(limit + 1).collect(), limit, |found| found.id.to_string(), Found::view)))
}

/// Shows a sync.
#[utoipa::path(get, path = "/v1/syncs/{sync}", tag = "syncs", operation_id = "read_sync",
    responses((status = 200, description = "The sync", body = SyncView, headers(("ETag")))))]
pub(super) async fn read(api: State, Path(sync): Path<String>) -> Result<Response, Problem> {
    let found = find_by(&api, &sync).await?;
    Ok(with_etag(StatusCode::OK, found.revision, found.view()))
}

/// What is known of a sync.
struct Found {
    id: SyncId,
    provider: Provider,
    /// What the stream holds of it, if anything.
    stream: Option<Sync>,
    /// What was written of it, if anything.
    settings: Option<SyncSettings>,
    /// Of what was written; 0 if nothing was.
    revision: Revision,
}

async fn find(api: &Api, id: SyncId) -> Result<Option<Found>, Problem> {
    let stream = api.stream.sync(id).await?;
    let settings = api.documents.get::<SyncSettings>(id).await?;
    let (settings, revision) = settings.map(|found| (found.value, found.revision)).unzip();
    let found = Found::of(stream, settings);
    Ok(found.map(|found| Found { revision: revision.unwrap_or(found.revision), ..found }))
}

async fn find_by(api: &Api, sync: &str) -> Result<Found, Problem> {
    let not_found = || Problem::not_found(format!("there is no sync {sync}"));
    let id = sync.parse().map_err(|_| not_found())?;
    find(api, id).await?.ok_or_else(not_found)
}

impl Found {
    fn of(stream: Option<Sync>, settings: Option<SyncSettings>) -> Option<Self> {
        // Should they differ in the provider, then the stream is right: it has the records.
        let of_stream = stream.as_ref().map(|sync| (sync.id, sync.provider.clone()));
        let of_settings = || settings.as_ref().map(|settings| (settings.id, settings.provider.clone()));
        let (id, provider) = of_stream.or_else(of_settings)?;
        Some(Self { id, provider, stream, settings, revision: Revision(0) })
    }

    /// What was written of it counts, and otherwise what its last record said.
    fn view(self) -> SyncView {
        let of_stream = |sync: &Sync| (sync.external_id.clone(), sync.metadata.clone());
        let of_settings = |settings: SyncSettings| (settings.external_id, settings.metadata);
        let sync = self.stream.as_ref();
        let (external_id, metadata) =
            self.settings.map(of_settings).or_else(|| sync.map(of_stream)).unwrap_or_default();
        SyncView {
            id: self.id.0,
            provider: self.provider.into(),
            external_id,
            metadata: RawValue::from_string(metadata).unwrap_or_default(),
            records: sync.map_or(0, |sync| sync.records),
            last_updated_idx: sync.map_or(0, |sync| sync.last_updated_idx.0),
            last_published_at: sync.and_then(|sync| sync.last_published_at),
        }
    }
}
