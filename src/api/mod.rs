//! The Management API: HTTP in, documents in the store out.
//!
//! It writes desired state and reads status. What acts on it are the actors, on whatever node.

mod auth;
mod body;
mod change;
mod collections;
mod consumers;
mod docs;
mod health;
mod nodes;
mod openapi;
mod problem;
mod quarantine;
mod reasons;
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
};
use sequin_actors::{
    Inspector,
    store::{Documents, DocumentsError},
    stream::RecordStream,
};
use tokio::sync::RwLock;
use tower_http::trace::TraceLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use auth::AdminToken;
pub use openapi::openapi_json;
use problem::Problem;
use syncs::settings::FollowedSettings;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What the handlers work with.
pub struct Api {
    stream: Arc<dyn RecordStream>,
    documents: Documents,
    inspector: Inspector,
    admin_token: AdminToken,
    node: String,
    settings: FollowedSettings,
    /// Bounds what all publications under way together take.
    publishing: records::Room,
    /// Held by those who publish, and alone by who deletes what others may be publishing anew.
    replacing: RwLock<()>,
}

impl Api {
    /// An API over these, at this node.
    pub async fn open(
        stream: Arc<dyn RecordStream>,
        documents: Documents,
        inspector: Inspector,
        admin_token: AdminToken,
        node: String,
    ) -> Result<Self, DocumentsError> {
        let settings = FollowedSettings::follow(documents.clone()).await?;
        let (publishing, replacing) = (records::Room::default(), RwLock::default());
        Ok(Self { stream, documents, inspector, admin_token, node, settings, publishing, replacing })
    }
}

type State = axum::extract::State<Arc<Api>>;

/// What only a token gets at.
fn protected() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(records::publish))
        .routes(routes!(targets::list, targets::create))
        .routes(routes!(targets::read, targets::patch::patch, targets::delete))
        .routes(routes!(targets::check))
        .routes(routes!(targets::setup_sql))
        .routes(routes!(targets::compare::compare_secrets))
        .routes(routes!(consumers::list, consumers::create))
        .routes(routes!(consumers::read, consumers::change::patch, consumers::delete))
        .routes(routes!(consumers::create_table_sql))
        .routes(routes!(consumers::table::create_table))
        .routes(routes!(consumers::table::views_sql))
        .routes(routes!(consumers::verify))
        .routes(routes!(consumers::start))
        .routes(routes!(consumers::pause))
        .routes(routes!(consumers::resume))
        .routes(routes!(consumers::change::rewind))
        .routes(routes!(quarantine::list, quarantine::discard_all))
        .routes(routes!(quarantine::retry))
        .routes(routes!(quarantine::discard))
        .routes(routes!(syncs::providers))
        .routes(routes!(syncs::list))
        .routes(routes!(syncs::read, syncs::write::put, syncs::write::delete))
        .routes(routes!(syncs::write::delete_collection))
        .routes(routes!(collections::begin_version))
        .routes(routes!(collections::activate_version))
        .routes(routes!(nodes::list))
}

/// What anybody gets at.
fn open() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::serve))
        .routes(routes!(docs::serve))
}

/// The description of all calls.
fn openapi() -> utoipa::openapi::OpenApi {
    openapi::describe(
        OpenApiRouter::with_openapi(openapi::description()).merge(protected()).merge(open()).into_openapi(),
    )
}

/// All routes of the API.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let protected = Router::from(protected())
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require_token));
    Router::from(open())
        .method_not_allowed_fallback(wrong_method)
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
