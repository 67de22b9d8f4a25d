//! Sampling by links, as the standard samplers do it by the parent.
//!
//! A batch is applied for many publications at once, so its span has no parent; it has links. A sampler that asks the parent
//! would decide on it by chance, and mostly leave out what the publication of a sampled trace came to. So a span without a
//! parent is sampled too if one is that it is linked to.

use std::env;

use opentelemetry::{
    Context, KeyValue, TraceId,
    trace::{Link, SpanKind, TraceContextExt},
};
use opentelemetry_sdk::trace::{Config, Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// Which part of the traces is kept that begin here, if nothing is set. A trace of every publication costs more than the rest
/// of the telemetry (`benches/README.md`).
const KEPT: f64 = 0.01;

/// The one that the environment names.
pub(super) fn sampler() -> Box<dyn ShouldSample> {
    match env::var("OTEL_TRACES_SAMPLER").ok().filter(|setting| !setting.is_empty()) {
        Some(setting) => following_links(Config::default().sampler, &setting),
        None => Box::new(LinkSampler(Box::new(unset()))),
    }
}

fn unset() -> Sampler {
    Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(KEPT)))
}

/// The sampler of this setting (`OTEL_TRACES_SAMPLER`), which from then on follows links if it follows parents. One that asks no
/// parent asks no link either: `always_off` stays off.
fn following_links(sampler: Box<dyn ShouldSample>, setting: &str) -> Box<dyn ShouldSample> {
    if setting.starts_with("parentbased_") { Box::new(LinkSampler(sampler)) } else { sampler }
}

#[derive(Clone, Debug)]
struct LinkSampler(Box<dyn ShouldSample>);

impl ShouldSample for LinkSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        let has_parent = parent.is_some_and(|parent| parent.span().span_context().is_valid());
        if has_parent || !links.iter().any(|link| link.span_context.is_sampled()) {
            return result;
        }
        SamplingResult { decision: SamplingDecision::RecordAndSample, ..result }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        SpanId, TraceFlags,
        trace::{Span, SpanBuilder, SpanContext, TraceState, Tracer, TracerProvider},
    };
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    const ALWAYS_ON: &str = "parentbased_always_on";

    fn somewhere(number: u128, flags: TraceFlags) -> SpanContext {
        let (trace, span) = (TraceId::from(number), SpanId::from(7));
        SpanContext::new(trace, span, flags, true, TraceState::default())
    }

    /// Whether a span with this parent and these links is sampled, by the real tracer.
    fn is_sampled(sampler: &Sampler, setting: &str, parent: Option<TraceFlags>, links: &[TraceFlags]) -> bool {
        let sampler = following_links(Box::new(sampler.clone()), setting);
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let parent = parent.map(|flags| Context::new().with_remote_span_context(somewhere(1, flags)));
        let links = (2..).zip(links).map(|(number, &flags)| Link::with_context(somewhere(number, flags)));
        let builder = SpanBuilder::from_name("apply").with_links(links.collect());
        let span = provider.tracer("test").build_with_context(builder, &parent.unwrap_or_default());
        span.span_context().is_sampled()
    }

    #[test]
    fn a_span_without_a_parent_is_sampled_if_one_is_that_it_is_linked_to() {
        let (never, yes, no) =
            (Sampler::ParentBased(Box::new(Sampler::AlwaysOff)), TraceFlags::SAMPLED, TraceFlags::NOT_SAMPLED);
        for setting in ["parentbased_always_off", "parentbased_traceidratio"] {
            assert!(is_sampled(&never, setting, None, &[no, yes]));
            assert!(!is_sampled(&never, setting, None, &[no, no]));
            assert!(!is_sampled(&never, setting, None, &[]));
        }
        let always = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        assert!(is_sampled(&always, ALWAYS_ON, None, &[no]), "the sampler itself decides first");
    }

    #[test]
    fn a_parent_has_the_last_word_and_what_is_off_stays_off() {
        let (yes, no) = (TraceFlags::SAMPLED, TraceFlags::NOT_SAMPLED);
        let always = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        assert!(!is_sampled(&always, ALWAYS_ON, Some(no), &[yes]));
        assert!(is_sampled(&always, ALWAYS_ON, Some(yes), &[no]));
        assert!(!is_sampled(&Sampler::AlwaysOff, "always_off", None, &[yes]));
    }

    #[test]
    fn if_nothing_is_set_one_trace_in_a_hundred_is_kept_and_all_that_the_caller_keeps() {
        let provider = SdkTracerProvider::builder().with_sampler(unset()).build();
        let tracer = provider.tracer("test");
        let keeps = |context: &Context| tracer.build_with_context(SpanBuilder::from_name("publish"), context);
        let of_ours = (0..10_000).filter(|_| keeps(&Context::new()).span_context().is_sampled()).count();
        assert!((30..300).contains(&of_ours), "{of_ours} of 10,000");
        let kept_by_the_caller = Context::new().with_remote_span_context(somewhere(1, TraceFlags::SAMPLED));
        assert!(keeps(&kept_by_the_caller).span_context().is_sampled());
    }
}
