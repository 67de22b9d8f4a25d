//! What the process tells of itself: logs, and by OpenTelemetry metrics, traces and logs.
//!
//! Everything else uses the API of OpenTelemetry and of `tracing` alone. Here is the SDK behind it: [`settings`] reads
//! the standard settings, [`otlp`] builds what sends to a collector, [`delivery`] tells whether that arrives,
//! [`link_sampler`] chooses spans, [`metrics`] says how they are aggregated, [`scrape`] offers them in Prometheus' text, [`process`] and [`runtime`] measure the
//! process, and [`logs`] writes lines.

mod delivery;
mod link_sampler;
mod logs;
mod metrics;
mod otlp;
mod process;
mod runtime;
mod scrape;
mod settings;

use std::{thread, time::Duration};

use opentelemetry::{global, trace::TracerProvider};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::{
    logs::SdkLoggerProvider, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Config, ConfigError, MetricsAccess};

pub(crate) use self::{scrape::Scrape, settings::TelemetrySettings};

/// What all that is measured here is said to come from.
pub(crate) const SCOPE: &str = "sequin";

/// How long the end of the process waits for what was not sent yet.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// Keeps what is exported going; [`Telemetry::shutdown`] sends the rest.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
}

/// Sets the logs up for the whole process, and nothing else. Only the first call counts.
pub(crate) fn init_logs() {
    let _ = tracing_subscriber::registry().with(logs::lines()).try_init();
}

/// Sets everything up for the whole process, in its runtime and before instruments are made.
pub(crate) fn init(settings: &TelemetrySettings, config: &Config) -> Result<Telemetry, ConfigError> {
    let resource = settings::resource(config);
    let pushed = settings.metrics.as_ref().map(otlp::metrics).transpose()?;
    let scraped = (config.metrics != MetricsAccess::Off).then(scrape::reader);
    if pushed.is_some() && scraped.is_some() {
        tokio::spawn(scrape::forget_unread());
    }
    let metrics = metrics::provider(resource.clone(), pushed, scraped);
    let traces = settings.traces.as_ref().map(otlp::spans).transpose()?.map(|exporter| {
        let builder =
            SdkTracerProvider::builder().with_resource(resource.clone()).with_sampler(link_sampler::sampler());
        builder.with_batch_exporter(exporter).build()
    });
    let logs = settings
        .logs
        .as_ref()
        .map(otlp::logs)
        .transpose()?
        .map(|exporter| SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build());

    let spans = traces.as_ref().map(|provider| {
        let tracer = provider.tracer(SCOPE);
        // Where in the source it is and on which thread does not help whoever looks at a trace, and costs.
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        layer.with_tracked_inactivity(false).with_target(false).with_filter(logs::our_spans())
    });
    let bridge = logs.as_ref().map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(logs::exported()));
    let _ = tracing_subscriber::registry().with(spans).with(bridge).with(logs::lines()).try_init();

    if let Some(provider) = &traces {
        global::set_text_map_propagator(TraceContextPropagator::new());
        global::set_tracer_provider(provider.clone());
    }
    if let Some(provider) = &metrics {
        global::set_meter_provider(provider.clone());
        process::measure();
        runtime::measure(&tokio::runtime::Handle::current());
    }
    Ok(Telemetry { traces, metrics, logs })
}

impl Telemetry {
    /// Sends what was not sent yet, for as long as that may take.
    pub(crate) async fn shutdown(self) {
        // It waits for threads of the SDK, and drops clients that must not be dropped by a task.
        let flushed = tokio::task::spawn_blocking(|| self.flush());
        if tokio::time::timeout(FLUSH_WITHIN, flushed).await.is_err() {
            tracing::warn!("the last telemetry was not taken within {FLUSH_WITHIN:?}, and is lost");
        }
    }

    /// An error was told of when it happened.
    fn flush(self) {
        let Self { traces, metrics, logs } = self;
        thread::scope(|scope| {
            scope.spawn(move || traces.map(|provider| provider.shutdown_with_timeout(FLUSH_WITHIN)));
            scope.spawn(move || metrics.map(|provider| provider.shutdown_with_timeout(FLUSH_WITHIN)));
            scope.spawn(move || logs.map(|provider| provider.shutdown_with_timeout(FLUSH_WITHIN)));
        });
    }
}
