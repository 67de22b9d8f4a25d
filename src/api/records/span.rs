//! What a trace shows of a publication: one span, which its records carry on to those that apply them.

use std::collections::BTreeSet;

use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedTracer},
    trace::{FutureExt, SpanBuilder, SpanKind, Status, TraceContextExt},
};
use sequin_actors::model::{Publication, TraceContext};

use crate::api::problem::Problem;

/// The span of a request that publishes; it ends with the last who holds it.
#[derive(Clone)]
pub(super) struct PublishSpan(Context);

impl PublishSpan {
    /// Begins it, as a part of the request.
    pub(super) fn begin() -> Self {
        let attributes = [
            KeyValue::new("messaging.system", "sequin"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
        ];
        let builder = SpanBuilder::from_name("publish").with_kind(SpanKind::Producer).with_attributes(attributes);
        let request = Context::current();
        Self(request.with_span(builder.start_with_context(&tracer(), &request)))
    }

    /// What its records carry, if anybody is to see it.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        let span = self.0.span();
        let context = span.span_context();
        (context.is_valid() && context.is_sampled()).then(|| TraceContext {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            flags: context.trace_flags().to_u8(),
        })
    }

    /// Says what is published.
    pub(super) fn says(&self, publication: &Publication) {
        let span = self.0.span();
        if !span.is_recording() {
            return;
        }
        let records = i64::try_from(publication.records().len()).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("messaging.batch.message_count", records));
        let providers: BTreeSet<&str> = publication.syncs().iter().map(|seen| seen.provider.as_str()).collect();
        if let (Some(provider), 1) = (providers.first(), providers.len()) {
            span.update_name(format!("publish {provider}"));
            span.set_attribute(KeyValue::new("messaging.destination.name", (*provider).to_owned()));
        }
    }

    /// Does something as a part of it.
    pub(super) fn run<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.with_context(self.0.clone())
    }

    /// It was refused, or failed. What the problem says is not for everybody: it may quote the body.
    pub(super) fn failed(&self, problem: &Problem) {
        let span = self.0.span();
        span.set_status(Status::error(""));
        span.set_attribute(KeyValue::new("error.type", problem.status().to_string()));
    }
}

fn tracer() -> BoxedTracer {
    global::tracer("sequin")
}
