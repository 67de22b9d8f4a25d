//! Metrics for Prometheus and what else scrapes.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

use super::State;
use crate::telemetry::Scrape;

/// Gives the metrics of this node.
///
/// In Prometheus' text format. `SEQUIN_METRICS` says who gets them: `token`, the default, asks for a token as below,
/// `public` gives them to anybody, and with `off` there are none.
#[utoipa::path(get, path = "/metrics", tag = "node", operation_id = "metrics",
    responses((status = 200, description = "Everything that is measured, now", body = String, content_type = "text/plain")))]
pub(super) async fn scrape(api: State) -> Response {
    ([(header::CONTENT_TYPE, Scrape::CONTENT_TYPE)], api.scrape.read().await).into_response()
}
