//! What has come, in a form that is easy to look at.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_server::LogsService},
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse, metrics_service_server::MetricsService,
        },
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_server::TraceService},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{NumberDataPoint, metric::Data, number_data_point},
    trace::v1::span::SpanKind,
};
use tonic::{Request, Response, Status, async_trait};

use super::Shared;

/// Attributes as text, by their names.
pub(crate) type Attributes = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub(crate) struct Metric {
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) points: Vec<Point>,
}

#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) attributes: Attributes,
    /// Of a histogram, how many values it has.
    pub(crate) value: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    /// In hexadecimal digits, as all ids here.
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty if there is none.
    pub(crate) parent: String,
    /// The traces and spans that it is linked to.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) attributes: Attributes,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) body: String,
    /// Empty if there is none.
    pub(crate) trace: String,
    pub(crate) span: String,
    pub(crate) attributes: Attributes,
}

#[derive(Default)]
pub(super) struct Received {
    /// The last of each name.
    pub(super) metrics: BTreeMap<String, Metric>,
    pub(super) spans: Vec<Span>,
    pub(super) logs: Vec<Log>,
    pub(super) resource: Attributes,
}

impl Metric {
    /// The value of the first series with these attributes, among others.
    pub(crate) fn value(&self, attributes: &[(&str, &str)]) -> Option<f64> {
        let has = |point: &&Point| {
            attributes.iter().all(|(name, value)| point.attributes.get(*name).is_some_and(|found| found == value))
        };
        self.points.iter().find(has).map(|point| point.value)
    }
}

impl Received {
    pub(super) fn take_metrics(&mut self, request: ExportMetricsServiceRequest) {
        for resource in request.resource_metrics {
            self.resource = attributes(resource.resource.unwrap_or_default().attributes);
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let points = metric.data.map(points).unwrap_or_default();
                let taken = Metric { unit: metric.unit, description: metric.description, points };
                self.metrics.insert(metric.name, taken);
            }
        }
    }

    pub(super) fn take_spans(&mut self, request: ExportTraceServiceRequest) {
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| Span {
            kind: span.kind(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            attributes: attributes(span.attributes),
        }));
    }

    pub(super) fn take_logs(&mut self, request: ExportLogsServiceRequest) {
        let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
        self.logs.extend(scopes.flat_map(|scope| scope.log_records).map(|log| Log {
            body: text(log.body),
            trace: hex(&log.trace_id),
            span: hex(&log.span_id),
            attributes: attributes(log.attributes),
        }));
    }
}

fn points(data: Data) -> Vec<Point> {
    match data {
        Data::Gauge(gauge) => numbers(gauge.data_points),
        Data::Sum(sum) => numbers(sum.data_points),
        Data::Histogram(histogram) => {
            let points = histogram.data_points.into_iter();
            #[expect(clippy::cast_precision_loss, reason = "no test sends so much")]
            points.map(|point| Point { attributes: attributes(point.attributes), value: point.count as f64 }).collect()
        }
        other => panic!("{other:?} is not what a node sends"),
    }
}

fn numbers(points: Vec<NumberDataPoint>) -> Vec<Point> {
    let value = |point: &NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        #[expect(clippy::cast_precision_loss, reason = "no test sends so much")]
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => panic!("a point without a value"),
    };
    points.into_iter().map(|point| Point { value: value(&point), attributes: attributes(point.attributes) }).collect()
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

#[async_trait]
impl MetricsService for Shared {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.received().take_metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.received().take_spans(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl LogsService for Shared {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.received().take_logs(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
