//! Describing a sync, and purging the stream of one or of a collection of it.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::Utc;
use sequin_actors::{
    model::{
        CollectionKey, CollectionVersion, Consumer, Desired, FieldError, Filter, Provider, SyncId, SyncSettings, Target,
    },
    store::{DocumentsError, Revision},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Found, SyncView, find, find_by};
use crate::api::{
    Api, State,
    body::{self, Path},
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::{beside, check_if_match, with_etag},
};

/// What is written of a sync.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"provider": "hubspot", "external_id": "acme", "metadata": {"plan": "pro"}}))]
pub(in crate::api) struct SyncRequest {
    /// Whose sync it is: needed as long as nothing was published for it.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    provider: Option<String>,
    /// Your own id of it.
    #[schema(min_length = 1, max_length = 1024)]
    external_id: Option<String>,
    /// Your notes on it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
}

/// What was purged.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct Purged {
    /// How many versions of records the stream held.
    removed: u64,
    /// What removes the rows that are in tables.
    cleanup_sql: Vec<CleanupView>,
}

/// What removes the rows that are in one table.
#[derive(Serialize, ToSchema)]
#[schema(as = Cleanup)]
struct CleanupView {
    /// The name of the consumer that wrote them.
    consumer: String,
    /// The name of its target.
    target: String,
    /// The table, with its schema.
    table: String,
    sql: String,
}

/// Describes a sync.
///
/// Records that are published from then on without `sync_external_id` or `sync_metadata` are given these.
#[utoipa::path(put, path = "/v1/syncs/{sync}", tag = "syncs", operation_id = "put_sync", params(IfMatch), responses(
    (status = 200, description = "The sync as it is now", body = SyncView, headers(("ETag"))),
    (status = 201, description = "The sync, which was not known before", body = SyncView, headers(("ETag"))), Conflict))]
pub(in crate::api) async fn put(
    api: State,
    Path(sync): Path<String>,
    headers: HeaderMap,
    body::Json(request): body::Json<SyncRequest>,
) -> Result<Response, Problem> {
    let id: SyncId =
        sync.parse().map_err(|_| Problem::not_found(format!("{sync} is no id of a sync: ids are uuids")))?;
    let found = find(&api, id).await?;
    check_if_match(&headers, found.as_ref().map_or(Revision(0), |found| found.revision))?;
    let settings = request.settings(id, found.as_ref())?;
    let revision = match &found {
        Some(found) if found.settings.is_some() => api.documents.update(id, &settings, found.revision).await?,
        _ => api.documents.insert(id, &settings).await?,
    };
    api.settings.learn(settings.clone());
    let status = if found.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let provider = settings.provider.clone();
    let stream = found.and_then(|found| found.stream);
    let now = Found { id, provider, stream, settings: Some(settings), revision };
    Ok(with_etag(status, revision, now.view()))
}

impl SyncRequest {
    fn settings(self, id: SyncId, found: Option<&Found>) -> Result<SyncSettings, Problem> {
        let mut errors = Vec::new();
        let known = found.map(|found| &found.provider);
        let given = self.provider.as_deref().map(Provider::parse).transpose();
        let provider = match (known, given) {
            (_, Err(error)) => Err(error),
            (Some(known), Ok(Some(given))) if *known != given => {
                Err(FieldError::new("provider", format!("is {known}: a sync stays with its provider")))
            }
            (Some(known), _) => Ok(known.clone()),
            (None, Ok(Some(given))) => Ok(given),
            (None, Ok(None)) => {
                Err(FieldError::new("provider", "is missing: nothing was published for this sync that would tell it"))
            }
        };
        let provider = provider.map_err(|error| errors.push(error)).ok();
        let metadata = self.metadata.map_or_else(|| "{}".into(), |metadata| metadata.get().to_owned());
        let Some(provider) = provider else { return Err(Problem::invalid(errors)) };
        let settings = SyncSettings { id, provider, external_id: self.external_id, metadata, updated_at: Utc::now() };
        let errors = settings.check();
        if errors.is_empty() { Ok(settings) } else { Err(Problem::invalid(errors)) }
    }
}

/// Purges the stream of a sync.
///
/// No table is touched: the answer has the SQL that removes the rows. The sync may be published for again, by the same
/// provider.
#[utoipa::path(delete, path = "/v1/syncs/{sync}", tag = "syncs", operation_id = "delete_sync", params(IfMatch),
    responses((status = 200, description = "What was purged", body = Purged), Conflict))]
pub(in crate::api) async fn delete(
    api: State,
    Path(sync): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Purged>, Problem> {
    let found = find_by(&api, &sync).await?;
    check_if_match(&headers, found.revision)?;
    let purged = purge(&api, &found, None).await?;
    if found.settings.is_some() {
        api.documents.delete::<SyncSettings>(found.id, Some(found.revision)).await?;
        api.settings.forget(found.id);
    }
    Ok(purged)
}

/// Purges the stream of one collection of a sync.
///
/// No table is touched: the answer has the SQL that removes the rows.
#[utoipa::path(delete, path = "/v1/syncs/{sync}/collections/{collection}", tag = "syncs",
    operation_id = "delete_collection", responses((status = 200, description = "What was purged", body = Purged)))]
pub(in crate::api) async fn delete_collection(
    api: State,
    Path((sync, collection)): Path<(String, String)>,
) -> Result<Json<Purged>, Problem> {
    let found = find_by(&api, &sync).await?;
    purge(&api, &found, Some(&collection)).await
}

async fn purge(api: &Api, sync: &Found, collection: Option<&str>) -> Result<Json<Purged>, Problem> {
    let mut cleanup_sql = Vec::new();
    for consumer in api.documents.all::<Consumer>().await? {
        let consumer = consumer.map_err(DocumentsError::from)?;
        if consumer.desired != Desired::Draft && sync.is_of(&consumer.filter) {
            let target = beside::<Target>(&api.documents, consumer.target).await?;
            cleanup_sql.push(CleanupView {
                sql: api.inspector.cleanup_sql(&consumer.table, sync.id, collection),
                table: consumer.table.to_string(),
                consumer: consumer.name,
                target: target.map_or_else(|| consumer.target.to_string(), |target| target.name),
            });
        }
    }
    let removed = api.stream.purge(sync.id, collection).await?;
    match collection {
        Some(collection) => {
            api.documents.delete::<CollectionVersion>(CollectionKey::of(sync.id, collection), None).await?;
        }
        None => api.documents.delete_all_of::<CollectionVersion>(sync.id).await?,
    }
    Ok(Json(Purged { removed, cleanup_sql }))
}

impl Found {
    fn is_of(&self, filter: &Filter) -> bool {
        match filter {
            Filter::Provider(provider) => self.provider == *provider,
            Filter::Sync(sync) => self.id == *sync,
        }
    }
}
