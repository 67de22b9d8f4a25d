//! A receiver of OpenTelemetry: the protocol's own services over gRPC, and the same over HTTP, on one port.
//!
//! A node exports to it with [`Receiver::settings`]. What has come is asked for by its name, and waited for.

mod records;
mod tls;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_server::LogsServiceServer},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_server::MetricsServiceServer},
    trace::v1::{ExportTraceServiceRequest, trace_service_server::TraceServiceServer},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{codec::CompressionEncoding::Gzip, service::Routes};

use self::records::Received;
pub(crate) use self::records::{Attributes, Log, Metric, Span};
use super::eventually;

/// The receiver. It is gone when this is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    /// The certificate to trust, if it speaks TLS.
    authority: Option<tls::Authority>,
    shared: Shared,
    server: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Inner>);

#[derive(Default)]
struct Inner {
    received: Mutex<Received>,
    /// What exporters have said of who they are.
    authorizations: Mutex<BTreeSet<String>>,
    refuses: AtomicBool,
    refused: AtomicUsize,
}

impl Receiver {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        let (listener, shared) = (listen().await, Shared::default());
        let address = listener.local_addr().expect("its address");
        let server = tokio::spawn(drop_result(axum::serve(listener, router(shared.clone())).into_future()));
        Self { address, authority: None, shared, server }
    }

    /// Starts one that speaks TLS, under a certificate that no machine trusts by itself.
    pub(crate) async fn start_with_tls() -> Self {
        let (listener, shared) = (listen().await, Shared::default());
        let address = listener.local_addr().expect("its address");
        let (authority, listener) = tls::before(listener);
        let server = tokio::spawn(drop_result(axum::serve(listener, router(shared.clone())).into_future()));
        Self { address, authority: Some(authority), shared, server }
    }

    /// What a node is told to export everything to it, by `grpc` or `http/protobuf`, at once.
    pub(crate) fn settings(&self, protocol: &str) -> Vec<(&'static str, String)> {
        let mut settings = self.unhurried_settings(protocol);
        settings.push(("OTEL_METRIC_EXPORT_INTERVAL", "100".into()));
        settings.push(("OTEL_BSP_SCHEDULE_DELAY", "100".into()));
        settings.push(("OTEL_BLRP_SCHEDULE_DELAY", "100".into()));
        settings
    }

    /// What a node is told to export everything to it, when it usually does.
    pub(crate) fn unhurried_settings(&self, protocol: &str) -> Vec<(&'static str, String)> {
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint()), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.into())]
    }

    fn endpoint(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// The file of the certificate to trust.
    pub(crate) fn certificate(&self) -> &Path {
        self.authority.as_ref().expect("it speaks TLS").path()
    }

    /// From now on, whether everything that comes is refused.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.0.refuses.store(refuses, Ordering::SeqCst);
    }

    /// How many requests were refused.
    pub(crate) fn refused(&self) -> usize {
        self.shared.0.refused.load(Ordering::SeqCst)
    }

    /// What exporters have sent as `authorization`.
    pub(crate) fn authorizations(&self) -> BTreeSet<String> {
        self.shared.0.authorizations.lock().expect("no panic").clone()
    }

    /// Waits for a metric, and gives what came last of it.
    pub(crate) async fn metric(&self, name: &str) -> Metric {
        self.metric_where(name, |_| true).await
    }

    /// Waits for a metric to be as it should.
    pub(crate) async fn metric_where(&self, name: &str, is: impl Fn(&Metric) -> bool) -> Metric {
        eventually(&format!("the metric {name}"), async || {
            let received = self.received();
            let metric = received.metrics.get(name);
            let seen = || format!("{metric:?} is there of {:?}", received.metrics.keys());
            metric.filter(|metric| is(metric)).cloned().ok_or_else(seen)
        })
        .await
    }

    /// Waits for a span.
    pub(crate) async fn span_where(&self, what: &str, is: impl Fn(&Span) -> bool) -> Span {
        eventually(&format!("the span of {what}"), async || {
            let spans = self.spans();
            let names = || format!("there are {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
            spans.iter().find(|span| is(span)).cloned().ok_or_else(names)
        })
        .await
    }

    /// Waits for a log record.
    pub(crate) async fn log_where(&self, what: &str, is: impl Fn(&Log) -> bool) -> Log {
        eventually(&format!("the log record of {what}"), async || {
            let logs = self.logs();
            logs.iter().find(|log| is(log)).cloned().ok_or_else(|| format!("there are {logs:?}"))
        })
        .await
    }

    /// All spans that have come.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.received().spans.clone()
    }

    /// All log records that have come.
    pub(crate) fn logs(&self) -> Vec<Log> {
        self.received().logs.clone()
    }

    /// What the last metrics were about.
    pub(crate) fn resource(&self) -> Attributes {
        self.received().resource.clone()
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.shared.received()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.0.received.lock().expect("no panic")
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port")
}

async fn drop_result(server: impl Future<Output = std::io::Result<()>>) {
    drop(server.await);
}

fn router(shared: Shared) -> Router {
    let services = Routes::new(MetricsServiceServer::new(shared.clone()).accept_compressed(Gzip))
        .add_service(TraceServiceServer::new(shared.clone()).accept_compressed(Gzip))
        .add_service(LogsServiceServer::new(shared.clone()).accept_compressed(Gzip));
    let over_http = Router::new()
        .route("/v1/metrics", post(metrics))
        .route("/v1/traces", post(traces))
        .route("/v1/logs", post(logs))
        .with_state(shared.clone());
    services.into_axum_router().merge(over_http).layer(middleware::from_fn_with_state(shared, admit))
}

async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        shared.0.authorizations.lock().expect("no panic").insert(value);
    }
    if shared.0.refuses.load(Ordering::SeqCst) {
        shared.0.refused.fetch_add(1, Ordering::SeqCst);
        // One that is not tried again before the next is due.
        return StatusCode::BAD_REQUEST.into_response();
    }
    next.run(request).await
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) {
    shared.received().take_metrics(decode::<ExportMetricsServiceRequest>(&headers, &body));
}

async fn traces(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) {
    shared.received().take_spans(decode::<ExportTraceServiceRequest>(&headers, &body));
}

async fn logs(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) {
    shared.received().take_logs(decode::<ExportLogsServiceRequest>(&headers, &body));
}

fn decode<M: Message + Default>(headers: &HeaderMap, body: &[u8]) -> M {
    assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
    if headers.get(header::CONTENT_ENCODING).is_none_or(|encoding| encoding != "gzip") {
        return M::decode(body).expect("protobuf");
    }
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut GzDecoder::new(body), &mut plain).expect("gzip");
    M::decode(&plain[..]).expect("protobuf")
}
