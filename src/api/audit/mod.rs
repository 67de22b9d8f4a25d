//! The audit log: who changed what, when, and from where. Kept in the store, and bounded.

mod change;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    extract::{Request, State as FromState},
    middleware::Next,
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use sequin_actors::{
    model::{AuditEntry, AuditId, SETTINGS_TOKEN},
    store::{Documents, Versioned},
};
use serde::Serialize;
use tokio::sync::Notify;
use tracing::Instrument;
use utoipa::ToSchema;
use uuid::Uuid;

use self::change::Change;
use super::{
    Api, State,
    body::Params,
    problem::Problem,
    request_id::RequestId,
    resources::{List, PageParams},
};

/// How many entries are kept.
const MOST: usize = 10_000;

/// How long an entry is kept.
const KEPT_FOR: TimeDelta = TimeDelta::days(90);

/// How often old entries are dropped at least.
const PRUNED_EVERY: Duration = Duration::from_secs(60 * 60);

/// After how many entries of this node that happens too: by so many there may be more than are kept.
const PRUNED_AFTER: usize = 500;

/// What this node writes in the log, and when it drops what is old.
#[derive(Default)]
pub(super) struct AuditLog {
    written: AtomicUsize,
    is_due: Notify,
}

impl AuditLog {
    /// What can't be written is told as loudly as can be: the change is made, and can't be taken back.
    async fn write(&self, documents: &Documents, entry: AuditEntry) {
        if let Err(error) = documents.write_to_audit_log(&entry).await {
            tracing::error!(%error, ?entry, "a change was made that the audit log does not tell");
        }
        if self.written.fetch_add(1, Ordering::Relaxed) % PRUNED_AFTER == PRUNED_AFTER - 1 {
            self.is_due.notify_one();
        }
    }

    /// Drops what is old, for ever.
    pub(super) async fn keep_up(&self, documents: &Documents) {
        loop {
            match documents.prune_audit_log(MOST, Utc::now() - KEPT_FOR).await {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "old entries of the audit log were dropped"),
                Err(error) => tracing::warn!(%error, "the audit log was not pruned"),
            }
            // Either is reason enough.
            let _ = tokio::time::timeout(PRUNED_EVERY, self.is_due.notified()).await;
        }
    }
}

/// Has a request that changes something written down before it is answered, by whoever it is let in for.
pub(super) async fn record(
    FromState(api): FromState<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (request, change) = Change::asked_for_by(request).await;
    let Some(change) = change else { return Ok(next.run(request).await) };
    let id = RequestId::current().expect("the outermost layer names every request");
    let request_id = id.to_string();
    // In a task of its own, for the request may be given up halfway, and what it has changed by then is changed.
    let work = async move {
        let resource = change.resource(&api.documents).await;
        let response = next.run(request).await;
        if !may_have_changed_something(&response) {
            return response;
        }
        let (resource, response) = resource.or_made_by(response).await;
        api.audit.write(&api.documents, change.entry(resource, response.status(), request_id, Utc::now())).await;
        response
    };
    tokio::spawn(id.scope(work).in_current_span()).await.map_err(|error| Problem::internal(&error))
}

/// What was refused has changed nothing. What failed may have got halfway.
fn may_have_changed_something(response: &Response) -> bool {
    !response.status().is_client_error()
}

/// A change that somebody made.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct EntryView {
    id: Uuid,
    at: DateTime<Utc>,
    token: TokenView,
    /// What was done, such as `create` or `quarantine.retry`.
    action: String,
    resource: ResourceView,
    method: String,
    /// The path of the request, or its first 500 bytes.
    path: String,
    /// The status of the answer; one from 500 on says that the change may have been made, or a part of it.
    status: u16,
    /// The address that the request came from.
    from: String,
    /// What the request is called in the node's log.
    request_id: String,
}

/// By which token it was made.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditedToken)]
struct TokenView {
    /// Null if it is the token of the settings.
    #[schema(required)]
    id: Option<Uuid>,
    name: String,
}

/// What was changed.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditedResource)]
struct ResourceView {
    /// Such as `target`.
    kind: String,
    /// Null if it has none.
    #[schema(required)]
    id: Option<String>,
    /// Null if it has none.
    #[schema(required)]
    name: Option<String>,
}

fn view(entry: AuditEntry) -> EntryView {
    EntryView {
        id: entry.id.0,
        at: entry.at,
        token: TokenView {
            id: entry.token.as_ref().map(|token| token.id.0),
            name: entry.token.map_or_else(|| SETTINGS_TOKEN.into(), |token| token.name),
        },
        action: entry.action,
        resource: ResourceView { kind: entry.kind, id: entry.resource_id, name: entry.resource_name },
        method: entry.method,
        path: entry.path,
        status: entry.status,
        from: entry.from.to_string(),
        request_id: entry.request_id,
    }
}

/// Lists who changed what, the newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "access", operation_id = "list_audit", params(PageParams),
    responses((status = 200, description = "A page of the log", body = List<EntryView>)))]
pub(super) async fn list(api: State, Params(page): Params<PageParams>) -> Result<Json<List<EntryView>>, Problem> {
    let limit = page.limit()?;
    let after: Option<AuditId> = page.after()?;
    let found = api.documents.list::<AuditEntry>(after, limit + 1).await?;
    let show = |found: Versioned<AuditEntry>| (found.value.id.to_string(), view(found.value));
    Ok(Json(List::page_of_documents(found.into_iter().map(|found| found.map(show)).collect(), limit)))
}
