//! What resources have in common: addressed by id or name, listed in pages, changed at a revision.

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Reason, Severity},
    store::{Document, Documents, DocumentsError, Named, Revision, Unreadable, Versioned},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Problem;

/// How many resources a page has, when it is not said.
const DEFAULT_LIMIT: usize = 100;

/// How many resources a page has at most.
const MAX_LIMIT: usize = 1000;

/// Which page to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// The most that a page has: 100, when it is not said.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
    /// The `next` of the page before.
    pub(super) after: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List<T> {
    data: Vec<T>,
    /// What to ask for as `after` to go on; null at the end.
    #[schema(required)]
    next: Option<String>,
    /// What is there too, in this page, and can't be shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<UnreadableView>,
}

/// What is there, and can't be shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Unreadable)]
pub(super) struct UnreadableView {
    id: String,
    /// What hinders it, and the way out.
    detail: String,
}

impl UnreadableView {
    pub(super) fn of(unreadable: &Unreadable) -> Self {
        Self { id: unreadable.id().into(), detail: unreadable.to_string() }
    }
}

/// SQL for the customer to run.
#[derive(Serialize, ToSchema)]
#[schema(as = Sql)]
pub(super) struct SqlView {
    pub(super) sql: String,
}

impl PageParams {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(Problem::invalid_field("limit", format!("takes 1 to {MAX_LIMIT}"))),
        }
    }

    pub(super) fn after<Id: std::str::FromStr>(&self) -> Result<Option<Id>, Problem> {
        let wrong = |_| Problem::invalid_field("after", "takes the `next` of the page before");
        self.after.as_deref().map(|cursor| cursor.parse().map_err(wrong)).transpose()
    }
}

impl<T> List<T> {
    /// Makes a page of what was found when one more than `limit` was asked for.
    pub(super) fn page<F>(
        mut found: Vec<F>,
        limit: usize,
        id: impl Fn(&F) -> String,
        view: impl FnMut(F) -> T,
    ) -> Self {
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more).map(id);
        Self { data: found.into_iter().map(view).collect(), next, unreadable: Vec::new() }
    }

    /// Makes a page of what was found when one more than `limit` was asked for, and of what could not be read.
    pub(super) fn page_of_documents(found: Vec<Result<(String, T), Unreadable>>, limit: usize) -> Self {
        let id = |found: &Result<(String, T), Unreadable>| match found {
            Ok((id, _)) => id.clone(),
            Err(unreadable) => unreadable.id().to_owned(),
        };
        let page = List::page(found, limit, id, |found| found);
        let mut list = Self { data: Vec::new(), next: page.next, unreadable: Vec::new() };
        for found in page.data {
            match found {
                Ok((_, view)) => list.data.push(view),
                Err(unreadable) => list = list.without(&unreadable),
            }
        }
        list
    }

    /// Says that something is there too that can't be read.
    pub(super) fn without(mut self, unreadable: &Unreadable) -> Self {
        tracing::error!(%unreadable, "left out of a list, which says so");
        self.unreadable.push(UnreadableView::of(unreadable));
        self
    }
}

/// Finds a resource by its id or name.
pub(super) async fn find<T: Named>(documents: &Documents, id_or_name: &str) -> Result<Versioned<T>, Problem> {
    let id = match id_or_name.parse() {
        Ok(id) => Some(id),
        Err(_) => documents.id_of_name::<T>(id_or_name).await?,
    };
    let found = match id {
        Some(id) => documents.get::<T>(id).await?,
        None => None,
    };
    found.ok_or_else(|| Problem::not_found(format!("there is no {} {id_or_name}", T::KIND)))
}

/// Reads what is written under the same id as a resource: its status.
pub(super) async fn beside<T: Document>(documents: &Documents, id: T::Id) -> Result<Option<T>, Problem> {
    Ok(documents.get::<T>(id).await?.map(|found| found.value))
}

/// Like [`beside`], for what is shown with a resource: if it can't be read, the resource is shown without it, and why.
pub(super) async fn beside_if_readable<T: Document>(
    documents: &Documents,
    id: T::Id,
    reasons: &mut Vec<Reason>,
    now: DateTime<Utc>,
) -> Result<Option<T>, Problem> {
    match documents.get::<T>(id).await {
        Ok(found) => Ok(found.map(|found| found.value)),
        Err(DocumentsError::Unreadable(Unreadable { key, cause })) => {
            reasons.push(Reason {
                code: "unreadable".into(),
                severity: Severity::Error,
                summary: format!("{key} can't be read"),
                since: now,
                cause: Some(cause.to_string()),
                target: None,
                fix: cause.fix().into(),
            });
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// An answer that bears the revision of what it shows.
pub(super) fn with_etag(status: StatusCode, revision: Revision, view: impl Serialize) -> Response {
    (status, [(header::ETAG, etag(revision))], Json(view)).into_response()
}

fn etag(revision: Revision) -> String {
    format!("\"{}\"", revision.0)
}

/// 412 if the request names another revision than what is there.
pub(super) fn check_if_match(headers: &HeaderMap, revision: Revision) -> Result<(), Problem> {
    let Some(wanted) = headers.get(header::IF_MATCH) else { return Ok(()) };
    let etag = etag(revision);
    let wanted = wanted.to_str().unwrap_or_default();
    if wanted.split(',').map(str::trim).any(|wanted| wanted == "*" || wanted == etag) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, format!("it is at {etag} by now: read it again, and repeat")))
}
