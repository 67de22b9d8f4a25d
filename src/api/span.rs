//! The span of a request: what every line of the log begins with that is about it, and what traces have of it.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request},
    http::HeaderMap,
    response::Response,
};
use opentelemetry::{
    global,
    propagation::Extractor,
    trace::{Status, TraceContextExt},
};
use tower_http::trace::{DefaultOnResponse, OnResponse};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    access::Access,
    measures::{method, scheme},
    request_id::RequestId,
};

/// What is asked for all the time by those who watch over nodes: lines say so, and traces would hold little else.
const WATCHED: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Opens the span, as a part of the trace that the request says it belongs to: whoever bears no valid token has no say in what
/// is traced. The query is not shown: it may hold anything.
pub(super) fn open(access: &Access, request: &Request) -> Span {
    let (method, path) = (method(request.method()), request.uri().path());
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let request_id = request.extensions().get::<RequestId>().map(tracing::field::display);
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    if route.is_some_and(|route| WATCHED.contains(&route)) {
        return tracing::info_span!(target: "watching", "request", http.request.method = method, url.path = path, request_id);
    }
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        otel.name = name,
        http.request.method = method,
        url.path = path,
        request_id
    );
    let caller = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
    if caller.span().span_context().is_valid() && access.knows(request.headers()) {
        // An error means that there are no traces.
        let _ = span.set_parent(caller);
    }
    let scheme = scheme();
    span.set_attribute(scheme.key, scheme.value);
    if let Some(route) = route {
        span.set_attribute("http.route", route.to_owned());
    }
    span
}

/// Adds how a request was answered.
#[derive(Clone, Default)]
pub(super) struct Answered(DefaultOnResponse);

impl<B> OnResponse<B> for Answered {
    fn on_response(self, response: &Response<B>, latency: Duration, span: &Span) {
        let status = response.status();
        span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.set_attribute("error.type", status.as_str().to_owned());
            span.set_status(Status::error(""));
        }
        self.0.on_response(response, latency, span);
    }
}

/// What the caller says of its trace.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
