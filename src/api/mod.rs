//! The Management API: HTTP in, documents in the store out.
//!
//! It writes desired state and reads status. What acts on it are the actors, on whatever node.

mod access;
mod alerting;
mod audit;
mod body;
mod change;
mod collections;
mod consumers;
mod docs;
mod encryption_keys;
mod health;
mod idempotency;
mod incidents;
mod measures;
mod metrics;
mod nodes;
mod openapi;
mod problem;
mod quarantine;
mod reasons;
mod records;
mod request_id;
mod resources;
mod secret;
mod span;
mod syncs;
mod targets;
mod tokens;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
};
use opentelemetry::metrics::Meter;
use sequin_actors::{
    Inspector, Publishing,
    model::Secret,
    store::{Documents, DocumentsError},
    stream::RecordStream,
};
use tower_http::trace::TraceLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use access::Access;
pub use access::generate_token;
use audit::AuditLog;
use measures::Measures;
pub use openapi::openapi_json;
use problem::Problem;
use syncs::settings::KnownSettings;

use crate::{
    config::{AlertingConfig, Config, MetricsAccess},
    telemetry::Scrape,
};

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What the handlers work with.
pub struct Api {
    stream: Arc<dyn RecordStream>,
    documents: Documents,
    inspector: Inspector,
    telling: AlertingConfig,
    access: Access,
    audit: AuditLog,
    /// The name of the node where there is no other.
    alone: Option<String>,
    settings: KnownSettings,
    /// Bounds what all publications under way together take.
    publishing: records::Room,
    published: Publishing,
    measures: Measures,
    scrape: Scrape,
    metrics_access: MetricsAccess,
}

impl Api {
    /// An API over these, at a node so configured, for whoever bears the admin token or one that the documents hold. What is
    /// measured of requests goes to `meter`, or to the process's own.
    pub async fn open(
        stream: Arc<dyn RecordStream>,
        documents: Documents,
        inspector: Inspector,
        published: Publishing,
        meter: Option<&Meter>,
        config: &Config,
        admin_token: &Secret,
    ) -> Result<Self, DocumentsError> {
        let access = Access::open(&documents, admin_token).await?;
        let settings = KnownSettings::open(&documents).await?;
        let (publishing, audit) = (records::Room::default(), AuditLog::default());
        let (measures, scrape) = (Measures::new(meter), Scrape::default());
        Ok(Self {
            stream,
            documents,
            inspector,
            telling: config.alerting.clone(),
            access,
            audit,
            alone: config.session_ttl.is_none().then(|| config.node.clone()),
            settings,
            publishing,
            published,
            measures,
            scrape,
            metrics_access: config.metrics,
        })
    }

    /// What goes on beside the requests, for as long as there are any: what other nodes write of tokens and syncs is heard
    /// of, uses of tokens are written down, old entries of the audit log and old idempotency keys dropped.
    pub async fn keep_up(&self) {
        let Self { access, settings, audit, documents, .. } = self;
        tokio::join!(
            access.keep_up(documents),
            settings.keep_up(documents),
            audit.keep_up(documents),
            idempotency::keep_up(documents)
        );
    }
}

type State = axum::extract::State<Arc<Api>>;

/// What only a token gets at; `access/roles.rs` says of which role.
fn protected() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(records::publish))
        .routes(routes!(targets::list, targets::create))
        .routes(routes!(targets::read, targets::patch::patch, targets::delete))
        .routes(routes!(targets::check::check))
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
        .routes(routes!(incidents::list))
        .routes(routes!(incidents::read))
        .routes(routes!(alerting::read, alerting::write::put))
        .routes(routes!(alerting::test::test))
        .routes(routes!(alerting::compare::compare_secrets))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::read, tokens::delete))
        .routes(routes!(audit::list))
        .routes(routes!(encryption_keys::rotate))
}

/// What anybody gets at.
fn open() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::serve))
        .routes(routes!(docs::serve))
}

/// What a token gets at, or anybody, or nobody, as the settings say.
fn scraped() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(metrics::scrape))
}

/// The description of all calls.
fn openapi() -> utoipa::openapi::OpenApi {
    openapi::describe(
        OpenApiRouter::with_openapi(openapi::description())
            .merge(protected())
            .merge(scraped())
            .merge(open())
            .into_openapi(),
    )
}

/// All routes of the API.
pub fn router(api: Arc<Api>) -> Router {
    let (protected, open) = match api.metrics_access {
        MetricsAccess::Token => (protected().merge(scraped()), open()),
        MetricsAccess::Public => (protected(), open().merge(scraped())),
        MetricsAccess::Off => (protected(), open()),
    };
    let of_spans = Arc::clone(&api);
    let open_span = move |request: &Request| span::open(&of_spans.access, request);
    let protected = Router::from(protected)
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        // The last one sees a request first.
        .layer(middleware::from_fn_with_state(Arc::clone(&api), audit::record))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), access::admit));
    Router::from(open)
        .method_not_allowed_fallback(wrong_method)
        .merge(protected)
        .layer(middleware::from_fn(|request, next| in_time(REQUEST_TIMEOUT, request, next)))
        .layer(TraceLayer::new_for_http().make_span_with(open_span).on_response(span::Answered::default()))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), measures::measure))
        .layer(middleware::from_fn(request_id::name))
        .with_state(api)
}

async fn in_time(limit: Duration, request: Request, next: Next) -> Result<Response, Problem> {
    let late = |_| {
        let detail = format!("this took longer than {limit:?}, and may still take effect");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    tokio::time::timeout(limit, next.run(request)).await.map_err(late)
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
}

#[cfg(test)]
mod tests {
    use std::future::{IntoFuture, pending};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered_with_a_problem() {
        let limit = Duration::from_millis(10);
        let slow = Router::new().route("/", get(pending::<()>));
        let slow = slow.layer(middleware::from_fn(move |request, next| in_time(limit, request, next)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        tokio::spawn(axum::serve(listener, slow).into_future());
        client.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.expect("a request");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("longer than 10ms"), "{answer}");
    }
}
