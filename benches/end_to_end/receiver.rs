//! Who a node tells of itself: the services of OpenTelemetry's protocol, over gRPC, which count what comes.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    transport::{self, server::TcpIncoming},
};

/// The receiver, on a free port. It is gone when this is dropped.
pub(crate) struct Receiver {
    endpoint: String,
    counts: Counts,
    server: JoinHandle<()>,
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// How many times metrics were exported.
    pub(crate) exports_of_metrics: usize,
    pub(crate) spans: usize,
    /// How many of these are linked to others.
    pub(crate) linked_spans: usize,
    pub(crate) log_records: usize,
}

#[derive(Clone, Default)]
struct Counts(Arc<Inner>);

#[derive(Default)]
struct Inner {
    exports_of_metrics: AtomicUsize,
    spans: AtomicUsize,
    linked_spans: AtomicUsize,
    log_records: AtomicUsize,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let counts = Counts::default();
        let services = transport::Server::builder()
            .add_service(MetricsServiceServer::new(counts.clone()))
            .add_service(TraceServiceServer::new(counts.clone()))
            .add_service(LogsServiceServer::new(counts.clone()));
        let server = tokio::spawn(async move { services.serve_with_incoming(listener).await.expect("served") });
        Self { endpoint, counts, server }
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What has come up to now.
    pub(crate) fn received(&self) -> Received {
        let Inner { exports_of_metrics, spans, linked_spans, log_records } = &*self.counts.0;
        let [exports_of_metrics, spans, linked_spans, log_records] =
            [exports_of_metrics, spans, linked_spans, log_records].map(|count| count.load(Ordering::Relaxed));
        Received { exports_of_metrics, spans, linked_spans, log_records }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl MetricsService for Counts {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        assert!(!request.into_inner().resource_metrics.is_empty(), "nothing was exported");
        self.0.exports_of_metrics.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Counts {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = || resources.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
        self.0.spans.fetch_add(spans().count(), Ordering::Relaxed);
        self.0.linked_spans.fetch_add(spans().filter(|span| !span.links.is_empty()).count(), Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Counts {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let resources = request.into_inner().resource_logs;
        let records = resources.iter().flat_map(|resource| &resource.scope_logs).map(|scope| scope.log_records.len());
        self.0.log_records.fetch_add(records.sum(), Ordering::Relaxed);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
