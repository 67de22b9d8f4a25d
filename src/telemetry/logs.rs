//! Log lines: to standard error, filtered by `RUST_LOG` (default `info`), as JSON when `SEQUIN_LOG=json`, and what of them
//! and of the spans is exported.

use std::{error::Error, fmt, io::IsTerminal};

use opentelemetry::{Context, trace::TraceContextExt};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::{RecordFields, VisitOutput},
    filter::{FilterExt, FilterFn, LevelFilter, filter_fn},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultVisitor, Format, Json, Writer},
    },
    layer::Filter,
    registry::LookupSpan,
};

/// What is quiet in any case. An actor's own span lives as long as the actor: nothing is to hang on it. The driver logs
/// what it sends, which is our customers' data, and what SSH logs of messages may hold a password.
const QUIET: [&str; 4] = ["ractor=warn", "tokio_postgres=info", "russh=info", "opentelemetry=warn"];

/// What works when logs are exported. To export what it says would give it something to say, so nobody can ask for it.
const EXPORTING: [&str; 7] = ["h2", "hyper", "opentelemetry", "reqwest", "rustls", "tonic", "tower::"];

fn env_filter() -> EnvFilter {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    QUIET.iter().fold(filter, |filter, directive| filter.add_directive(directive.parse().expect("a directive")))
}

/// A filter beside that of the settings, to which it leaves the level: one that gives no hint would have every line and span of
/// every level looked at.
fn beside<F: Fn(&Metadata<'_>) -> bool>(is_wanted: F) -> FilterFn<F> {
    filter_fn(is_wanted).with_max_level_hint(LevelFilter::TRACE)
}

/// Lines to standard error.
pub(super) fn lines<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let filter = env_filter().and(beside(|metadata| !is_one_attempt(metadata)));
    if std::env::var("SEQUIN_LOG").is_ok_and(|form| form == "json") {
        let format = WithTrace(Format::default().json().with_target(false));
        lines.json().event_format(format).with_filter(filter).boxed()
    } else {
        lines.fmt_fields(Plain).with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed()
    }
}

/// Whether it is what the SDK says of each attempt to export that fails. [`super::delivery`] says when that begins.
fn is_one_attempt(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("opentelemetry") && metadata.name().contains("Export")
}

/// What is exported as logs.
pub(super) fn exported<S>() -> impl Filter<S> + use<S> {
    exported_of(env_filter())
}

fn exported_of<S>(filter: EnvFilter) -> impl Filter<S> + use<S> {
    filter.and(beside(|metadata| !EXPORTING.iter().any(|exporting| metadata.target().starts_with(exporting))))
}

/// What is exported as traces: spans of ours. What is logged in them is exported as logs.
pub(super) fn our_spans() -> FilterFn {
    let is_ours: fn(&Metadata<'_>) -> bool =
        |metadata| metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with("sequin");
    FilterFn::new(is_ours).with_max_level_hint(LevelFilter::INFO)
}

/// Adds to a line of JSON which trace and which span it belongs to.
struct WithTrace(Format<Json>);

impl<S, N> FormatEvent<S, N> for WithTrace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let context = Context::current();
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return self.0.format_event(ctx, writer, event);
        }
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        let Some(open) = line.trim_end().strip_suffix('}') else { return writer.write_str(&line) };
        writeln!(writer, r#"{open},"trace_id":"{}","span_id":"{}"}}"#, span.trace_id(), span.span_id())
    }
}

/// Fields as they are usually written, without those that only say something to [`tracing_opentelemetry`].
struct Plain;

struct PlainVisitor<'a>(DefaultVisitor<'a>);

impl<'writer> FormatFields<'writer> for Plain {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = PlainVisitor(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

impl Visit for PlainVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !field.name().starts_with("otel.") {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.0.record_error(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.record_debug(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
    use opentelemetry_sdk::{logs::SdkLoggerProvider, trace::SdkTracerProvider};
    use tracing::subscriber::with_default;
    use tracing_subscriber::{layer::Context, layer::SubscriberExt, registry};

    use super::*;

    /// Keeps where the lines come from that pass its filter.
    #[derive(Clone, Default)]
    struct Targets(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber> Layer<S> for Targets {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("no panic").push(event.metadata().target());
        }
    }

    #[test]
    fn what_is_below_the_level_of_the_settings_is_not_even_looked_at() {
        let level_of_settings = env_filter().max_level_hint();
        assert!(level_of_settings.is_some_and(|level| level < LevelFilter::TRACE), "not under RUST_LOG=trace");
        let (traces, logs) = (SdkTracerProvider::builder().build(), SdkLoggerProvider::builder().build());
        let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer("test")).with_filter(our_spans());
        let bridge = OpenTelemetryTracingBridge::new(&logs).with_filter(exported());
        with_default(registry().with(Some(spans)).with(Some(bridge)).with(lines()), || {
            assert_eq!(Some(LevelFilter::current()), level_of_settings);
        });
        with_default(registry().with(lines()), || assert_eq!(Some(LevelFilter::current()), level_of_settings));
    }

    #[test]
    fn what_exports_logs_is_not_exported_whatever_the_settings_ask_for() {
        let targets = Targets::default();
        let exported = exported_of(EnvFilter::new("info,hyper::proto=debug,tower_http=debug,h2=trace"));
        with_default(registry().with(targets.clone().with_filter(exported)), || {
            tracing::debug!(target: "hyper::proto::h1", "what it sends");
            tracing::trace!(target: "h2::codec", "what it sends");
            tracing::error!(target: "opentelemetry_sdk", "what it can't send");
            tracing::debug!(target: "tower_http::trace", "what was answered");
            tracing::info!(target: "sequin", "what was done");
            tracing::debug!(target: "sequin", "what nobody asked for");
        });
        assert_eq!(*targets.0.lock().expect("no panic"), ["tower_http::trace", "sequin"]);
    }
}
