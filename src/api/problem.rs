//! Errors, as RFC 9457 has them: `application/problem+json`.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sequin_actors::{
    model::FieldError,
    store::{DocumentsError, StoreError, Unreadable},
    stream::StreamError,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{reasons::severity_words, request_id::RequestId};

/// An answer that says what went wrong (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    /// What the status means.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong, and the way out.
    detail: String,
    /// Everything that is wrong.
    errors: Vec<FieldProblem>,
    /// What the request is called in the node's log, as in `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<Box<str>>,
    /// In how many seconds to ask again.
    #[serde(skip)]
    retry_after: Option<u32>,
}

/// One field, or one finding, that is not as it should be.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct FieldProblem {
    /// The path of the field, such as `connection.host`.
    pub(super) field: String,
    pub(super) message: String,
    /// Which line of a publication, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<usize>,
    /// Whether the consumer can work in spite of the finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = severity_words)]
    pub(super) severity: Option<&'static str>,
    /// The finding's word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<&'static str>,
    /// The SQL that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix_sql: Option<String>,
}

impl FieldProblem {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), ..Self::default() }
    }
}

impl From<FieldError> for FieldProblem {
    fn from(error: FieldError) -> Self {
        Self::new(error.field, error.message)
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
            retry_after: None,
        }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND.as_u16()
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 422, with everything that is wrong.
    pub(super) fn invalid(errors: impl IntoIterator<Item = impl Into<FieldProblem>>) -> Self {
        let errors: Vec<FieldProblem> = errors.into_iter().map(Into::into).collect();
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} things are not valid: see errors", many.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// 422, for one field.
    pub(super) fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid([FieldProblem::new(field, message)])
    }

    pub(super) fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(super) fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        Self { retry_after: Some(seconds), ..self }
    }
}

const NO_ANSWER: &str = "the storage behind this node does not answer; try again";

const FULL: &str = "the disk that this node keeps its data on is full: nothing of this request was accepted, and what was \
                    before is safe; free some space or make the disk larger, then send it again";

const LOST: &str = "the storage behind this node is lost, so that the node ends; its log says how to go on";

impl Problem {
    /// What is behind it is for the log, not for the caller.
    fn unavailable(error: &(dyn std::error::Error + 'static), detail: &str) -> Self {
        tracing::error!(error, "a request could not be served");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// One resource that is there and can't be shown: what hinders it is told, since the caller can mend it.
    fn unreadable(unreadable: &Unreadable) -> Self {
        tracing::error!(%unreadable, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, unreadable.to_string())
    }

    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "something failed here; the node's log says what")
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.request_id = RequestId::current().map(|id| id.to_string().into());
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<DocumentsError> for Problem {
    fn from(error: DocumentsError) -> Self {
        match error {
            DocumentsError::Store(StoreError::Conflict { .. }) => {
                Self::conflict("somebody else changed it at the same time: read it again, and repeat")
            }
            DocumentsError::NameTaken { name } => {
                let taken = FieldProblem::new("name", format!("{name} is taken"));
                let detail = taken.message.clone();
                Self { errors: vec![taken], ..Self::conflict(detail) }
            }
            DocumentsError::Store(StoreError::Unavailable(_)) => Self::unavailable(&error, NO_ANSWER),
            DocumentsError::Store(StoreError::Full(_)) => Self::unavailable(&error, FULL),
            DocumentsError::Store(StoreError::Lost(_)) => Self::unavailable(&error, LOST),
            DocumentsError::Unreadable(unreadable) => Self::unreadable(&unreadable),
            error @ DocumentsError::WrongKey => Self::internal(&error),
        }
    }
}

impl From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Full(_) => Self::unavailable(&error, FULL),
            StreamError::Lost(_) => Self::unavailable(&error, LOST),
            error => Self::unavailable(&error, NO_ANSWER),
        }
    }
}
