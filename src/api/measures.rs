//! What is measured of requests: how many are under way, and how long each took.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    KeyValue, global,
    metrics::{Histogram, Meter, UpDownCounter},
};

use super::Api;
use crate::telemetry::SCOPE;

/// What is in front of a node may speak TLS; the node itself does not.
pub(super) fn scheme() -> KeyValue {
    KeyValue::new("url.scheme", "http")
}

/// Where durations are told apart, in seconds: as the semantic conventions advise.
const DURATIONS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The instruments.
pub(super) struct Measures {
    duration: Histogram<f64>,
    active: UpDownCounter<i64>,
}

impl Measures {
    /// Makes the instruments, of `meter` or of the process's own.
    pub(super) fn new(meter: Option<&Meter>) -> Self {
        let meter = meter.cloned().unwrap_or_else(|| global::meter(SCOPE));
        let duration = meter
            .f64_histogram("http.server.request.duration")
            .with_unit("s")
            .with_description("Time from a request's head to the head of its answer")
            .with_boundaries(DURATIONS.into());
        let active = meter
            .i64_up_down_counter("http.server.active_requests")
            .with_unit("{request}")
            .with_description("Requests that are being answered");
        Self { duration: duration.build(), active: active.build() }
    }
}

/// A request under way. It ends as well when whoever asked goes away.
struct Active<'a> {
    counter: &'a UpDownCounter<i64>,
    attributes: [KeyValue; 2],
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.counter.add(-1, &self.attributes);
    }
}

/// Measures a request.
pub(super) async fn measure(
    State(api): State<Arc<Api>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = KeyValue::new("http.request.method", method(request.method()));
    let active = Active { counter: &api.measures.active, attributes: [method.clone(), scheme()] };
    active.counter.add(1, &active.attributes);
    let response = next.run(request).await;
    let status = response.status();
    let mut attributes = vec![method, scheme(), KeyValue::new("http.response.status_code", i64::from(status.as_u16()))];
    // The path that was asked for would be a series for whatever anybody thinks of.
    if let Some(path) = path {
        attributes.push(KeyValue::new("http.route", path.as_str().to_owned()));
    }
    if status.is_server_error() {
        attributes.push(KeyValue::new("error.type", status.as_str().to_owned()));
    }
    api.measures.duration.record(started.elapsed().as_secs_f64(), &attributes);
    response
}

/// The method, unless somebody made it up.
pub(super) fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}
