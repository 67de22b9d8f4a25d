//! Quarantine: the records that a database refused, to be listed, tried again and discarded.
//!
//! As everywhere, no actor is called: the consumer's `attempt` rises, and its actor, on whatever node, reads its
//! quarantine anew and tries what is in it.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Consumer, Desired, QuarantineKey, Quarantined},
    store::{DocumentsError, StoreError, Versioned},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api, State,
    body::{Params, Path},
    consumers::{ConsumerView, answer, ask},
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::{List, PageParams, check_if_match, find},
};

/// How often a consumer is asked that somebody else changes at the same moment.
const ASKED_AT_MOST: usize = 10;

/// A record in quarantine, as it is shown: never with its payload.
#[derive(Serialize, ToSchema)]
#[schema(as = Quarantined)]
pub(super) struct QuarantinedView {
    sequin_id: Uuid,
    sync_id: Uuid,
    collection_id: String,
    upstream_id: String,
    updated_idx: u64,
    /// PostgreSQL's code of the error.
    #[schema(required)]
    sqlstate: Option<String>,
    message: String,
    fix: String,
    first_failed_at: DateTime<Utc>,
    last_failed_at: DateTime<Utc>,
    attempts: u32,
    /// Null if trying again by itself can't help.
    #[schema(required)]
    retry_at: Option<DateTime<Utc>>,
}

fn view(entry: Quarantined) -> QuarantinedView {
    QuarantinedView {
        sequin_id: entry.key.record.0,
        sync_id: entry.sync_id.0,
        collection_id: entry.collection_id,
        upstream_id: entry.upstream_id,
        updated_idx: entry.idx.0,
        sqlstate: entry.sqlstate,
        message: entry.message,
        fix: entry.fix,
        first_failed_at: entry.first_failed_at,
        last_failed_at: entry.last_failed_at,
        attempts: entry.attempts,
        retry_at: entry.retry_at,
    }
}

/// Lists the records in a consumer's quarantine, without their payloads.
#[utoipa::path(get, path = "/v1/consumers/{consumer}/quarantine", tag = "quarantine", operation_id = "list_quarantine",
    params(PageParams), responses((status = 200, description = "A page of them", body = List<QuarantinedView>)))]
pub(super) async fn list(
    api: State,
    Path(consumer): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<List<QuarantinedView>>, Problem> {
    let limit = page.limit()?;
    let after = page.after()?;
    let consumer = find::<Consumer>(&api.documents, &consumer).await?.value.id;
    let after = after.map(|record| QuarantineKey { consumer, record });
    let found = api.documents.list_of::<Quarantined>(consumer, after, limit + 1).await?;
    let show = |found: Versioned<Quarantined>| (found.value.key.record.to_string(), view(found.value));
    Ok(Json(List::page_of_documents(found.into_iter().map(|found| found.map(show)).collect(), limit)))
}

/// Tries all records in quarantine again.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/quarantine/retry", tag = "quarantine",
    operation_id = "retry_quarantine", params(IfMatch),
    responses((status = 200, description = "It is asked to", body = ConsumerView, headers(("ETag"))), Conflict))]
pub(super) async fn retry(api: State, Path(consumer): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = find_at(&api, &consumer, &headers).await?;
    let name = &found.value.name;
    match found.value.desired {
        Desired::Draft => return Err(Problem::conflict(format!("consumer {name} is a draft: start it first"))),
        Desired::Paused => {
            return Err(Problem::conflict(format!("consumer {name} is paused; resume it: that tries again")));
        }
        Desired::Running => {}
    }
    let asked = ask(&api, found, Desired::Running).await?;
    answer(&api, StatusCode::OK, asked).await
}

/// Does without a record in quarantine, until a newer version of it comes.
#[utoipa::path(delete, path = "/v1/consumers/{consumer}/quarantine/{record}", tag = "quarantine",
    operation_id = "discard_quarantined", params(IfMatch),
    responses((status = 204, description = "It is discarded"), Conflict))]
pub(super) async fn discard(
    api: State,
    Path((consumer, record)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let found = find_at(&api, &consumer, &headers).await?;
    let name = &found.value.name;
    let not_there = || Problem::not_found(format!("consumer {name} has no record {record} in quarantine"));
    let key = QuarantineKey { consumer: found.value.id, record: record.parse().map_err(|_| not_there())? };
    match api.documents.get::<Quarantined>(key).await {
        Ok(None) => return Err(not_there()),
        // Whoever gives a record up need not know why it was refused.
        Ok(Some(_)) | Err(DocumentsError::Unreadable(_)) => {}
        Err(error) => return Err(error.into()),
    }
    api.documents.delete::<Quarantined>(key, None).await?;
    have_it_read_anew(&api, found).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Does without all records in quarantine, until newer versions of them come.
#[utoipa::path(delete, path = "/v1/consumers/{consumer}/quarantine", tag = "quarantine",
    operation_id = "discard_quarantine", params(IfMatch),
    responses((status = 204, description = "They are discarded"), Conflict))]
pub(super) async fn discard_all(
    api: State,
    Path(consumer): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let found = find_at(&api, &consumer, &headers).await?;
    api.documents.delete_all_of::<Quarantined>(found.value.id).await?;
    // Also when it was empty: perhaps an earlier request got as far as this, and no further.
    have_it_read_anew(&api, found).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Finds the consumer, if it is at the revision that the request names.
async fn find_at(api: &Api, consumer: &str, headers: &HeaderMap) -> Result<Versioned<Consumer>, Problem> {
    let found = find::<Consumer>(&api.documents, consumer).await?;
    check_if_match(headers, found.revision)?;
    Ok(found)
}

/// Lets the consumer's actor see that records are gone, so that it neither counts them nor tries them again.
///
/// Somebody else's change at the same moment is no reason to give up: the records are gone already.
async fn have_it_read_anew(api: &Api, found: Versioned<Consumer>) -> Result<(), Problem> {
    let id = found.value.id;
    let mut found = Some(found);
    for _ in 0..ASKED_AT_MOST {
        // Deleted in the meantime, it has nothing to read.
        let Some(current) = found else { return Ok(()) };
        let desired = current.value.desired;
        match ask(api, current, desired).await {
            Err(DocumentsError::Store(StoreError::Conflict { .. })) => found = api.documents.get(id).await?,
            asked => return Ok(asked.map(drop)?),
        }
    }
    // No 409: the records are gone.
    let detail = "the records are discarded, but the consumer is being changed all the time: repeat";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}
