//! What whoever collects metrics gets to see of one engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics},
        exporter::PushMetricExporter,
    },
};

/// Collects on demand.
pub(crate) struct Metrics {
    provider: SdkMeterProvider,
    last: Last,
}

/// A metric, as it was collected.
#[derive(Clone, Debug)]
pub(crate) struct Metric {
    /// `counter`, `up-down counter`, `gauge` or `histogram`.
    pub(crate) kind: &'static str,
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) points: Vec<Point>,
}

/// One set of attributes, and its value: of a histogram, how much it was told of.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// All metrics, by name.
pub(crate) type Collected = BTreeMap<String, Metric>;

impl Metrics {
    pub(crate) fn new() -> Self {
        let last = Last::default();
        let reader = PeriodicReader::builder(last.clone()).with_interval(Duration::from_secs(3600)).build();
        Self { provider: SdkMeterProvider::builder().with_reader(reader).build(), last }
    }

    /// Where an engine is to report.
    pub(crate) fn meter(&self) -> Meter {
        self.provider.meter("sequin")
    }

    /// Everything as it is now.
    pub(crate) fn collect(&self) -> Collected {
        self.last.0.lock().expect("not poisoned").clear();
        tokio::task::block_in_place(|| self.provider.force_flush()).expect("collected");
        self.last.0.lock().expect("not poisoned").clone()
    }
}

impl Point {
    /// Whether it has these attributes, among others.
    pub(crate) fn has(&self, attributes: &[(&str, &str)]) -> bool {
        attributes.iter().all(|(key, value)| self.attributes.get(*key).is_some_and(|found| found == value))
    }
}

/// The value of the one point of a metric that has these attributes, if there is one.
pub(crate) fn value(collected: &Collected, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
    let points = collected.get(name).into_iter().flat_map(|metric| &metric.points);
    let mut points = points.filter(|point| point.has(attributes));
    let value = points.next().map(|point| point.value);
    assert!(points.next().is_none(), "{name} has several points of {attributes:?}");
    value
}

/// Takes what is exported, in place of what was before.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<Collected>>);

impl PushMetricExporter for Last {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let metrics = metrics.scope_metrics().flat_map(ScopeMetrics::metrics).map(|metric| {
            let (kind, points) = match metric.data() {
                #[expect(clippy::cast_precision_loss, reason = "no test counts so far")]
                AggregatedMetrics::U64(data) => points(data, |value| value as f64),
                #[expect(clippy::cast_precision_loss, reason = "no test counts so far")]
                AggregatedMetrics::I64(data) => points(data, |value| value as f64),
                AggregatedMetrics::F64(data) => points(data, |value| value),
            };
            let (unit, description) = (metric.unit().to_owned(), metric.description().to_owned());
            (metric.name().to_owned(), Metric { kind, unit, description, points })
        });
        *self.0.lock().expect("not poisoned") = metrics.collect();
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn points<N: Copy>(data: &MetricData<N>, number: impl Fn(N) -> f64) -> (&'static str, Vec<Point>) {
    match data {
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points().map(|point| of(point.attributes(), number(point.value())));
            ("gauge", points.collect())
        }
        MetricData::Sum(sum) => {
            let kind = if sum.is_monotonic() { "counter" } else { "up-down counter" };
            (kind, sum.data_points().map(|point| of(point.attributes(), number(point.value()))).collect())
        }
        MetricData::Histogram(histogram) => {
            let count = |count| f64::from(u32::try_from(count).expect("not that many"));
            let points = histogram.data_points().map(|point| of(point.attributes(), count(point.count())));
            ("histogram", points.collect())
        }
        MetricData::ExponentialHistogram(_) => unreachable!("nobody asks for one"),
    }
}

fn of<'a>(attributes: impl Iterator<Item = &'a KeyValue>, value: f64) -> Point {
    let text = |attribute: &KeyValue| (attribute.key.to_string(), attribute.value.to_string());
    Point { attributes: attributes.map(text).collect(), value }
}
