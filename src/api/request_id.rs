//! What a request is called: in its answer, in the log and in the audit log, so that one leads to the others.

use std::{fmt, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest one that is taken from whoever asks.
const MAX_LENGTH: usize = 128;

tokio::task_local! {
    /// The request that this task is about, for those who make an answer and don't see the request.
    static CURRENT: RequestId;
}

/// What one request is called.
#[derive(Clone, Debug)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    /// The one that the request brings, if it can stand in a line of a log, and otherwise a new one.
    fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| is_well_formed(id));
        Self(brought.map_or_else(|| Uuid::new_v4().to_string().into(), Into::into))
    }

    /// The one of the request that is being answered.
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Does something as a part of the request.
    pub(super) async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }
}

fn is_well_formed(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
    (1..=MAX_LENGTH).contains(&id.len()) && id.chars().all(is_plain)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a request, and the answer likewise.
pub(super) async fn name(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let header = HeaderValue::from_str(&id.0).expect("plain letters make a header");
    let mut response = id.scope(next.run(request)).await;
    response.headers_mut().insert(HEADER, header);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_brought_is_taken_if_it_can_stand_in_a_log() {
        let taken = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(id.as_bytes()).expect("a header"));
            RequestId::of(&headers).to_string()
        };
        for good in ["1", "0dea6e4e-64b9-4b1c-ac03-2e6b25795c18", &"x".repeat(128)] {
            assert_eq!(taken(good), good);
        }
        for bad in ["", "a b", "é", "a\"b", "a\tb", &"x".repeat(129)] {
            assert!(Uuid::parse_str(&taken(bad)).is_ok(), "{bad}");
        }
        assert!(Uuid::parse_str(&RequestId::of(&HeaderMap::new()).to_string()).is_ok());
    }
}
