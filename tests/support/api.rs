//! The Management API, as a program speaks to it.

use std::sync::Once;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::model::{Version, lines};

/// The token of every node that a test starts.
pub(crate) const TOKEN: &str = "a-token-for-tests-0123456789";

/// A client of one node.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    url: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) etag: Option<String>,
    /// `Null` if there is no body.
    pub(crate) body: Value,
}

impl Api {
    pub(crate) fn new(url: String) -> Self {
        static PROVIDER: Once = Once::new();
        // An error means that there is one already.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        Self { client: Client::new(), url }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// Every item of a list, by pages of two.
    pub(crate) async fn pages(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{separator}limit=2{after}")).await.expect(200);
            let data = page["data"].as_array().expect("a list");
            assert!(data.len() <= 2, "{page}");
            items.extend(data.iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return items,
            }
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Where the node is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Something to do: a POST without a body.
    pub(crate) async fn act(&self, path: &str) -> Answer {
        send(self.request(Method::POST, path)).await
    }

    /// Publishes lines of JSON.
    pub(crate) async fn publish(&self, lines: impl Into<String>) -> Answer {
        let request = self.request(Method::POST, "/v1/records").header("content-type", "application/x-ndjson");
        send(request.body(lines.into())).await
    }

    /// Publishes to a node that may end meanwhile; returns the position of the last version, or `None` if the node does
    /// not answer, or not that it has accepted.
    pub(crate) async fn try_publish(&self, versions: &[Version]) -> Option<i64> {
        let request = self.request(Method::POST, "/v1/records").header("content-type", "application/x-ndjson");
        let answer = request.body(lines(versions)).send().await.ok()?;
        let accepted: Value = answer.error_for_status().ok()?.json().await.ok()?;
        accepted["last_updated_idx"].as_i64()
    }

    /// A request with the token, to be made other than usual.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(TOKEN)
    }

    /// A request without a token.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Whether the node says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.anonymous(Method::GET, "/readyz").send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

/// Sends a request that must be answered, with JSON or nothing.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("an answer");
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    let (status, etag) = (answer.status().as_u16(), header("etag"));
    let content_type = header("content-type").unwrap_or_default();
    let bytes = answer.bytes().await.expect("a body");
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) };
    Answer { status, content_type, etag, body }
}

impl Answer {
    /// The body, if the status is the one that was expected.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "the answer was {}", self.body);
        self.body
    }

    /// The fields that a problem names, if it is one of this status and has the shape of one.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16) -> Vec<String> {
        let content_type = self.content_type.clone();
        let body = self.expect(status);
        assert!(content_type.starts_with("application/problem+json"), "{content_type}: {body}");
        assert_eq!(body["status"], status, "{body}");
        for member in ["type", "title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {body}");
        }
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let name = |error: &Value| {
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
            error["field"].as_str().unwrap_or_default().to_owned()
        };
        errors.iter().map(name).collect()
    }
}
