//! The Management API: HTTP in, documents in the store out.
//!
//! It writes desired state and reads status. What acts on it are the actors, on whatever node.

mod auth;
mod body;
mod change;
mod consumers;
mod health;
mod problem;
mod quarantine;
mod records;
mod resources;
mod syncs;
mod targets;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
    routing::{delete, get, post},
};
use sequin_actors::{Inspector, store::Documents, stream::RecordStream};
use tokio::sync::Semaphore;
use tower_http::trace::TraceLayer;

pub use auth::AdminToken;
use problem::Problem;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What the handlers work with.
pub struct Api {
    stream: Arc<dyn RecordStream>,
    documents: Documents,
    inspector: Inspector,
    admin_token: AdminToken,
    /// Bounds what all publications under way together take.
    publishing: Semaphore,
}

impl Api {
    /// An API over these.
    pub fn new(
        stream: Arc<dyn RecordStream>,
        documents: Documents,
        inspector: Inspector,
        admin_token: AdminToken,
    ) -> Self {
        Self { stream, documents, inspector, admin_token, publishing: Semaphore::new(records::PUBLISHING_KIB) }
    }
}

type State = axum::extract::State<Arc<Api>>;

/// All routes of the API.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let protected = Router::new()
        .route("/v1/records", post(records::publish))
        .route("/v1/targets", get(targets::list).post(targets::create))
        .route("/v1/targets/{target}", get(targets::read).patch(targets::patch::patch).delete(targets::delete))
        .route("/v1/targets/{target}/check", post(targets::check))
        .route("/v1/targets/{target}/setup-sql", get(targets::setup_sql))
        .route("/v1/targets/{target}/compare-secrets", post(targets::compare::compare_secrets))
        .route("/v1/consumers", get(consumers::list).post(consumers::create))
        .route(
            "/v1/consumers/{consumer}",
            get(consumers::read).patch(consumers::change::patch).delete(consumers::delete),
        )
        .route("/v1/consumers/{consumer}/create-table-sql", get(consumers::create_table_sql))
        .route("/v1/consumers/{consumer}/create-table", post(consumers::table::create_table))
        .route("/v1/consumers/{consumer}/views-sql", get(consumers::table::views_sql))
        .route("/v1/consumers/{consumer}/verify", post(consumers::verify))
        .route("/v1/consumers/{consumer}/start", post(consumers::start))
        .route("/v1/consumers/{consumer}/pause", post(consumers::pause))
        .route("/v1/consumers/{consumer}/resume", post(consumers::resume))
        .route("/v1/consumers/{consumer}/rewind", post(consumers::change::rewind))
        .route("/v1/consumers/{consumer}/quarantine", get(quarantine::list).delete(quarantine::discard_all))
        .route("/v1/consumers/{consumer}/quarantine/retry", post(quarantine::retry))
        .route("/v1/consumers/{consumer}/quarantine/{record}", delete(quarantine::discard))
        .route("/v1/providers", get(syncs::providers))
        .route("/v1/syncs", get(syncs::list))
        .route("/v1/syncs/{sync}", get(syncs::read))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require_token));
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .merge(protected)
        .layer(middleware::from_fn(in_time))
        .layer(TraceLayer::new_for_http())
        .with_state(api)
}

async fn in_time(request: Request, next: Next) -> Result<Response, Problem> {
    let late = |_| {
        let detail = format!("this took longer than {} s, and may still take effect", REQUEST_TIMEOUT.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.map_err(late)
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
}
