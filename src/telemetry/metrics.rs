//! How metrics are aggregated: how finely histograms tell values apart, and how many series there may be.

use opentelemetry_otlp::MetricExporter;
use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::{
    Resource,
    metrics::{Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream},
};

use super::delivery::Watched;

/// How long a call takes, in seconds: what the semantic conventions advise for HTTP and messaging.
const CALLS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// How long a connection takes to be had or made, in seconds.
const CONNECTIONS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// How long a record is on its way, in seconds: from what a live consumer takes to what an outage of an hour makes of it.
const DELAYS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// How many records a batch has.
const BATCHES: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The most series of one instrument that tells consumers, targets or providers apart. Ten thousand consumers have two
/// each where operations are told apart too. The SDK's default is 2000, above which everything falls into one series that
/// names nobody.
const SERIES: usize = 25_000;

/// The instruments that tell consumers, targets or providers apart. A series takes memory when it is used, but its place
/// in a table is made beforehand, so others keep the default.
const OF_MANY: [&str; 6] =
    ["sequin.consumer.", "sequin.target.", "sequin.budget.blocked", "messaging.", "db.client.", "sequin.alert."];

/// What metrics are made with, or `None` if nobody gets them.
pub(super) fn provider(
    resource: Resource,
    pushed: Option<Watched<MetricExporter>>,
    scraped: Option<PrometheusExporter>,
) -> Option<SdkMeterProvider> {
    if pushed.is_none() && scraped.is_none() {
        return None;
    }
    let mut builder =
        SdkMeterProvider::builder().with_resource(resource).with_view(|instrument: &Instrument| Some(view(instrument)));
    if let Some(exporter) = pushed {
        builder = builder.with_periodic_exporter(exporter);
    }
    if let Some(reader) = scraped {
        builder = builder.with_reader(reader);
    }
    Some(builder.build())
}

fn view(instrument: &Instrument) -> Stream {
    let mut stream = Stream::builder();
    let name = instrument.name();
    if OF_MANY.iter().any(|prefix| name.starts_with(prefix)) {
        stream = stream.with_cardinality_limit(SERIES);
    }
    if instrument.kind() == InstrumentKind::Histogram {
        let boundaries = boundaries(name).to_vec();
        stream = stream.with_aggregation(Aggregation::ExplicitBucketHistogram { boundaries, record_min_max: true });
    }
    stream.build().expect("limits above 0, and boundaries in order")
}

fn boundaries(histogram: &str) -> &'static [f64] {
    match histogram {
        "sequin.consumer.delay" => &DELAYS,
        "sequin.consumer.batch.size" => &BATCHES,
        name if name.starts_with("db.client.connection.") => &CONNECTIONS,
        _ => &CALLS,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{KeyValue, metrics::MeterProvider};
    use prometheus::Registry;

    use super::*;

    #[test]
    fn ten_thousand_consumers_keep_their_names_and_histograms_have_the_buckets_that_fit() {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().expect("a reader");
        let provider = provider(Resource::builder().build(), None, Some(reader)).expect("a provider");
        let meter = provider.meter("test");
        let applied = meter.u64_counter("sequin.consumer.applied").with_unit("{record}").build();
        for consumer in 0..10_000 {
            for operation in ["upsert", "delete"] {
                let consumer = KeyValue::new("sequin.consumer", format!("c{consumer}"));
                applied.add(1, &[consumer, KeyValue::new("sequin.operation", operation)]);
            }
        }
        meter.f64_histogram("sequin.consumer.delay").with_unit("s").build().record(0.002, &[]);
        meter.u64_histogram("sequin.consumer.batch.size").with_unit("{record}").build().record(5000, &[]);

        let families = registry.gather();
        let family = |name: &str| families.iter().find(|family| family.name() == name).expect("it is there");
        let applied = family("sequin_consumer_applied_total");
        assert_eq!(applied.get_metric().len(), 20_000);
        let is_overflow = |name: &str| name.contains("overflow");
        assert!(!applied.get_metric().iter().any(|series| series.get_label().iter().any(|l| is_overflow(l.name()))));
        let last = |name: &str| {
            let buckets = family(name).get_metric()[0].get_histogram().get_bucket();
            buckets.last().expect("buckets").upper_bound()
        };
        assert!((last("sequin_consumer_delay_seconds") - 3600.0).abs() < f64::EPSILON);
        assert!((last("sequin_consumer_batch_size") - 5000.0).abs() < f64::EPSILON);
    }
}
