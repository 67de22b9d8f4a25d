//! How metrics are aggregated: how many series there may be of each. How finely a histogram tells values apart is said where it
//! is made.

use opentelemetry_otlp::MetricExporter;
use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::{
    Resource,
    metrics::{Instrument, SdkMeterProvider, Stream},
};

use super::delivery::Watched;

/// How many consumers a node has room for. The SDK's default is 2000 series of an instrument, above which everything falls into one
/// that names nobody: enough for what tells targets or providers apart.
const CONSUMERS: usize = 10_000;

/// The most series of the instruments that have several of each consumer: by operation, by error, by the states that it has been in.
const SEVERAL_OF_EACH: [(&str, usize); 3] = [
    ("sequin.consumer.applied", 2 * CONSUMERS),
    ("sequin.consumer.failures", 2 * CONSUMERS),
    ("sequin.consumer.state", 5 * CONSUMERS),
];

/// The instruments that have one of each. A series takes memory when it is used, but its place in a table is made beforehand,
/// so others keep the default.
const ONE_OF_EACH: [&str; 3] = ["sequin.consumer.", "sequin.budget.blocked", "messaging.client.consumed.messages"];

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
    let name = instrument.name();
    let several = SEVERAL_OF_EACH.iter().find(|(of_each, _)| name == *of_each).map(|(_, limit)| *limit);
    let one = ONE_OF_EACH.iter().any(|prefix| name.starts_with(prefix)).then_some(CONSUMERS);
    let stream = match several.or(one) {
        Some(limit) => Stream::builder().with_cardinality_limit(limit),
        None => Stream::builder(),
    };
    stream.build().expect("limits above 0")
}

#[cfg(test)]
mod tests {
    use opentelemetry::{KeyValue, metrics::MeterProvider};
    use prometheus::Registry;

    use super::*;

    #[test]
    fn ten_thousand_consumers_keep_their_names_and_histograms_the_buckets_that_they_were_made_with() {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().expect("a reader");
        let provider = provider(Resource::builder().build(), None, Some(reader)).expect("a provider");
        let meter = provider.meter("test");
        let applied = meter.u64_counter("sequin.consumer.applied").with_unit("{record}").build();
        let state = meter.u64_gauge("sequin.consumer.state").with_unit("{consumer}").build();
        // A number is told apart faster than the names of a consumer and an operation or a state, and as many of them.
        let number = |number| [KeyValue::new("number", number)];
        let consumers = i64::try_from(CONSUMERS).expect("a number");
        (0..2 * consumers).for_each(|series| applied.add(1, &number(series)));
        (0..5 * consumers).for_each(|series| state.record(1, &number(series)));
        let delay = meter.f64_histogram("sequin.consumer.delay").with_unit("s");
        delay.with_boundaries(vec![0.5, 7200.0]).build().record(0.002, &[]);

        let families = registry.gather();
        let family = |name: &str| families.iter().find(|family| family.name() == name).expect("it is there");
        for (name, of_each) in [("sequin_consumer_applied_total", 2), ("sequin_consumer_state", 5)] {
            let series = family(name).get_metric();
            assert_eq!(i64::try_from(series.len()), Ok(of_each * consumers), "{name}");
            let has_name = |label: &prometheus::proto::LabelPair| label.name() == "number";
            assert!(series.iter().all(|series| series.get_label().iter().any(has_name)), "{name} has an overflow");
        }
        let buckets = family("sequin_consumer_delay_seconds").get_metric()[0].get_histogram().get_bucket();
        assert_eq!(buckets.iter().map(prometheus::proto::Bucket::upper_bound).collect::<Vec<_>>(), [0.5, 7200.0]);
    }
}
