//! Spans: what traces show of the engine, by OpenTelemetry's API alone.
//!
//! A span begins and ends with one piece of work: a batch, a start, a probe. It has no parent, and lives no longer than the future
//! that does the work; its steps are its children. Where nobody has set a provider of traces, all of it does nothing. Spans name
//! consumers, targets and tables, and hold numbers: nothing of a record.

mod applying;
mod database;

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, Value,
    context::FutureExt as _,
    global::{self, BoxedTracer},
    trace::{Link, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState},
};

pub(crate) use applying::Applying;
pub(crate) use database::Database;

use crate::model::TraceContext;

/// Who makes the spans.
const SCOPE: &str = "sequin";

/// A span has at most so many links.
const MAX_LINKS: usize = 32;

/// Of one piece of work so many steps are shown: to find a record that is refused takes hundreds.
const MAX_STEPS: usize = 64;

/// What failed, in a stable word.
pub(crate) trait ErrorType {
    /// The word.
    fn error_type(&self) -> &'static str;

    /// PostgreSQL's code, if it was a server that refused.
    fn sqlstate(&self) -> Option<&str> {
        None
    }
}

/// A piece of work, and its span, which has no parent.
pub(crate) struct Work(Context);

/// How many more steps of a piece of work are shown.
struct StepsLeft(AtomicUsize);

impl Work {
    /// Begins it.
    pub(crate) fn begin(name: impl Into<Cow<'static, str>>, attributes: Vec<KeyValue>) -> Self {
        Self::of(SpanBuilder::from_name(name).with_attributes(attributes))
    }

    /// Begins what comes of what others have published. It is linked to the first of their spans, and says how many those are.
    pub(crate) fn begin_linked(
        name: impl Into<Cow<'static, str>>,
        mut attributes: Vec<KeyValue>,
        publications: impl Iterator<Item = TraceContext>,
    ) -> Self {
        let (mut known, mut before, mut links) = (HashSet::new(), None, Vec::new());
        for publication in publications {
            // Most come after another of the same.
            if before.replace(publication) != Some(publication) && known.insert(publication) && links.len() < MAX_LINKS
            {
                links.push(Link::with_context(span_context(publication)));
            }
        }
        if !known.is_empty() {
            attributes.push(KeyValue::new("sequin.publications", count(known.len())));
        }
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Consumer);
        Self::of(builder.with_attributes(attributes).with_links(links))
    }

    fn of(builder: SpanBuilder) -> Self {
        let nowhere = Context::new();
        let context = nowhere.with_span(builder.start_with_context(&tracer(), &nowhere));
        if !context.span().span_context().is_sampled() {
            return Self(context);
        }
        Self(context.with_value(StepsLeft(AtomicUsize::new(MAX_STEPS))))
    }

    /// Does it.
    pub(crate) fn run<T, E: ErrorType>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        let context = self.0.clone();
        work.with_context(context.clone()).inspect(move |outcome| judge(&context, outcome))
    }

    /// Says more of it.
    pub(crate) fn says(&self, attributes: impl IntoIterator<Item = KeyValue>) {
        self.0.span().set_attributes(attributes);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.span().end();
    }
}

/// Shows work that is over.
pub(crate) fn was_done(
    name: impl Into<Cow<'static, str>>,
    attributes: Vec<KeyValue>,
    took: Duration,
    outcome: Result<&(), &impl ErrorType>,
) {
    let now = SystemTime::now();
    let builder = SpanBuilder::from_name(name).with_start_time(now - took).with_attributes(attributes);
    let context = Context::new().with_span(builder.start_with_context(&tracer(), &Context::new()));
    if let Err(error) = outcome {
        failed(&context, error);
    }
    context.span().end_with_timestamp(now);
}

/// Does a step of the work under way, which has a span of its own if that of the work is recorded.
pub(crate) fn step<T, E: ErrorType>(
    builder: impl FnOnce() -> SpanBuilder,
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    let work_under_way = Context::current();
    let is_shown = work_under_way.get::<StepsLeft>().is_some_and(StepsLeft::take);
    let step = is_shown.then(|| {
        let span = builder().start_with_context(&tracer(), &work_under_way);
        work_under_way.with_span(span)
    });
    work.with_context(step.clone().unwrap_or(work_under_way)).inspect(move |outcome| {
        if let Some(step) = &step {
            judge(step, outcome);
            step.span().end();
        }
    })
}

impl StepsLeft {
    fn take(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A step within the program itself.
pub(crate) fn named(name: &'static str) -> impl FnOnce() -> SpanBuilder {
    move || SpanBuilder::from_name(name)
}

/// What a consumer and its target are called.
pub(crate) fn of_consumer(consumer: &str, target: &str) -> Vec<KeyValue> {
    vec![KeyValue::new("sequin.consumer", shared(consumer)), KeyValue::new("sequin.target", shared(target))]
}

/// Text that costs little to say again.
pub(crate) fn shared(text: &str) -> Value {
    Value::String(std::sync::Arc::<str>::from(text).into())
}

/// A number, as attributes hold it.
pub(crate) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn judge<T, E: ErrorType>(context: &Context, outcome: &Result<T, E>) {
    if let Err(error) = outcome {
        failed(context, error);
    }
}

/// What an error says is for the log: it may quote the server.
fn failed(context: &Context, error: &impl ErrorType) {
    let span = context.span();
    span.set_status(Status::error(""));
    span.set_attribute(KeyValue::new("error.type", error.error_type()));
    if let Some(sqlstate) = error.sqlstate() {
        span.set_attribute(KeyValue::new("db.response.status_code", sqlstate.to_owned()));
    }
}

fn tracer() -> BoxedTracer {
    global::tracer(SCOPE)
}

fn span_context(TraceContext { trace_id, span_id, flags }: TraceContext) -> SpanContext {
    let (trace_id, span_id) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
    SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, TraceState::default())
}
