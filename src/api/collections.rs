//! Collections that are published as a whole: a version begins, its records are published, and it is activated, which
//! deletes the records that it did not bring again.
//!
//! What a record belongs to is told by its position in the stream, so a version may be published in many requests and
//! go on after a break; what is older than its beginning is stale.

use std::time::{Duration, Instant};

use axum::Json;
use chrono::Utc;
use sequin_actors::{
    model::{
        CollectionKey, CollectionVersion, Filter, Idx, Op, Page, Provider, Publication, Record, SyncId, decode,
        decode_routing,
    },
    store::{DocumentsError, Revision},
    stream::{PageLimit, RecordReader},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use utoipa::ToSchema;

use super::{
    Api, State,
    body::{self, Path},
    openapi::Conflict,
    problem::Problem,
};

/// How many records are looked at at a time.
const SOME: PageLimit = PageLimit { records: 2000, bytes: 1024 * 1024 };

/// How long one request goes on deleting; the next one goes on from there.
const DELETE_FOR: Duration = Duration::from_secs(10);

/// The longest name of a collection, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// A version of a collection.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"version": 1}))]
pub(super) struct VersionRequest {
    /// A number that each full publication has for itself.
    version: u64,
}

/// The version that what is published from now on belongs to.
#[derive(Serialize, ToSchema)]
#[schema(as = Version)]
pub(super) struct VersionView {
    version: u64,
    /// The version's records lie beyond this position.
    began_after: u64,
    /// Whether nothing older is left.
    active: bool,
}

/// What an activation did.
#[derive(Serialize, ToSchema)]
pub(super) struct Activation {
    /// How many records were deleted.
    deleted: u64,
    /// If not, the same call goes on.
    done: bool,
}

/// Begins a version of a collection, which is then published as a whole.
///
/// One that has begun already goes on as it is.
#[utoipa::path(put, path = "/v1/syncs/{sync}/collections/{collection}/version", tag = "records",
    operation_id = "begin_version",
    responses((status = 200, description = "The version", body = VersionView), Conflict))]
pub(super) async fn begin_version(
    api: State,
    Path((sync, collection)): Path<(String, String)>,
    body::Json(request): body::Json<VersionRequest>,
) -> Result<Json<VersionView>, Problem> {
    let (sync, key) = address(&sync, &collection)?;
    let known = api.documents.get::<CollectionVersion>(key).await?.map(|known| (known.value, known.revision));
    let version = match known {
        Some((known, _)) if known.version == request.version => known,
        known => {
            // A sync that is not there yet has no records, wherever its provider's stream ends.
            let head = api.stream.sync(sync).await?.map_or(Idx::START, |sync| sync.last_updated_idx);
            let version = CollectionVersion::beginning(&collection, request.version, head);
            save(&api, key, &version, known.map(|(_, revision)| revision)).await?;
            version
        }
    };
    Ok(Json(VersionView { version: version.version, began_after: version.stale_to.0, active: version.is_active() }))
}

/// Deletes the records of a collection that its version has not brought again, or as many as there is time for.
#[utoipa::path(post, path = "/v1/syncs/{sync}/collections/{collection}/version/activate", tag = "records",
    operation_id = "activate_version",
    responses((status = 200, description = "What was deleted", body = Activation), Conflict))]
pub(super) async fn activate_version(
    api: State,
    Path((sync, collection)): Path<(String, String)>,
    body::Json(request): body::Json<VersionRequest>,
) -> Result<Json<Activation>, Problem> {
    let (sync, key) = address(&sync, &collection)?;
    let known = api.documents.get::<CollectionVersion>(key).await?;
    let Some(known) = known.filter(|known| known.value.version == request.version) else {
        let detail = format!("version {} of {collection} has not begun, or another one has since", request.version);
        return Err(Problem::conflict(detail));
    };
    let mut version = known.value;
    let deleted = delete_stale(&api, sync, &mut version).await?;
    save(&api, key, &version, Some(known.revision)).await?;
    Ok(Json(Activation { deleted, done: version.is_active() }))
}

fn address(sync: &str, collection: &str) -> Result<(SyncId, CollectionKey), Problem> {
    let sync: SyncId = sync.parse().map_err(|_| Problem::not_found(format!("there is no sync {sync}")))?;
    if collection.is_empty() || collection.len() > MAX_NAME_BYTES {
        let message = format!("takes 1 to {MAX_NAME_BYTES} bytes of text, not {}", collection.len());
        return Err(Problem::invalid_field("collection_id", message));
    }
    Ok((sync, CollectionKey::of(sync, collection)))
}

async fn save(
    api: &Api,
    key: CollectionKey,
    version: &CollectionVersion,
    known: Option<Revision>,
) -> Result<(), DocumentsError> {
    let saved = match known {
        Some(revision) => api.documents.update(key, version, revision).await,
        // Somebody who begins it at the same time has begun it, and perhaps published since.
        None => api.documents.insert(key, version).await,
    };
    saved.map(drop)
}

/// Goes through the sync up to where the version began, and says how many records it has deleted.
async fn delete_stale(api: &Api, sync: SyncId, version: &mut CollectionVersion) -> Result<u64, Problem> {
    let began = Instant::now();
    let mut deleted = 0;
    let Some(known) = api.stream.sync(sync).await? else {
        version.deleted_to = version.stale_to;
        return Ok(0);
    };
    let mut reader = api.stream.reader(&Filter::Sync(sync), version.deleted_to);
    while !version.is_active() && began.elapsed() < DELETE_FOR {
        let left = DELETE_FOR.saturating_sub(began.elapsed());
        match timeout(left, reader.ready()).await {
            Ok(ready) => ready?,
            // What is still to come may be on its way to the server that is read from.
            Err(_) => break,
        }
        deleted += delete_some(api, &known.provider, &mut *reader, version).await?;
    }
    Ok(deleted)
}

/// Deletes the stale records of one page, but for those of which a newer version was published since it was read.
async fn delete_some(
    api: &Api,
    provider: &Provider,
    reader: &mut dyn RecordReader,
    version: &mut CollectionVersion,
) -> Result<u64, Problem> {
    let page = reader.read(SOME).await?;
    let (tombstones, mut number) = tombstones(&page, provider, version);
    if number > 0 {
        number -= api.stream.publish(tombstones).await?.left_out as u64;
    }
    version.deleted_to = page.read_to().min(version.stale_to);
    Ok(number)
}

fn tombstones(page: &Page, provider: &Provider, version: &CollectionVersion) -> (Publication, u64) {
    let now = Utc::now();
    let mut tombstones = Publication::default();
    let mut number = 0;
    for entry in page.entries().iter().take_while(|entry| entry.idx <= version.stale_to) {
        let envelope = page.envelope(entry);
        if decode_routing(envelope).is_ok_and(|routing| routing.op == Op::Delete) {
            continue;
        }
        match decode(envelope) {
            Ok(record) if record.collection_id == version.collection_id => {
                let tombstone = Record { op: Op::Delete, payload: "null", upstream_updated_at: now, ..record };
                let pushed = tombstones.push_replacing(provider, &tombstone, entry.idx);
                pushed.expect("all records of a sync are of one provider");
                number += 1;
            }
            Ok(_) => (),
            // As when a newer node wrote it: it stays.
            Err(error) => tracing::error!(%error, idx = %entry.idx, "a record could not be looked at"),
        }
    }
    (tombstones, number)
}
