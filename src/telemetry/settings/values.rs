//! Whether the values can be used that the SDK and its exporters read by themselves.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

use super::{Get, of_signal};
use crate::config::ConfigError;

const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";

/// Milliseconds and sizes.
const NUMBERS: [&str; 12] = [
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What all signals have, or each for itself.
const SIGNALS: [&str; 4] = ["", "TRACES_", "METRICS_", "LOGS_"];

pub(super) fn check_values(get: Get<'_>) -> Result<(), ConfigError> {
    for name in NUMBERS {
        number(get, name)?;
    }
    for signal in SIGNALS {
        let of = |name: &str| format!("OTEL_EXPORTER_OTLP_{signal}{name}");
        number(get, &of("TIMEOUT"))?;
        check_headers(get, &of("HEADERS"))?;
        let compression = of("COMPRESSION");
        one_of(get, &compression, &["gzip", "none"])?;
        // Whoever has set one believes that the collector knows who sends.
        for name in [of("CLIENT_KEY"), of("CLIENT_CERTIFICATE")] {
            if get(&name).is_some() {
                let message = "client certificates are not supported: let a collector beside the node add one";
                return Err(ConfigError::new(&name, message));
            }
        }
    }
    check_temporality(get)?;
    if get(RESOURCE).is_some_and(|text| pairs(&text).any(|pair| pair.is_none())) {
        return Err(ConfigError::new(RESOURCE, "takes NAME=VALUE, several separated by commas"));
    }
    check_sampler(get)
}

/// How long a collector has for what is sent to it.
pub(super) fn timeout(get: Get<'_>, signal: &str) -> Result<Option<Duration>, ConfigError> {
    let Some((name, _)) = of_signal(get, signal, "TIMEOUT") else { return Ok(None) };
    Ok(number(get, &name)?.map(Duration::from_millis))
}

fn number(get: Get<'_>, name: &str) -> Result<Option<u64>, ConfigError> {
    let Some(text) = get(name) else { return Ok(None) };
    // The SDK keeps some of them in 32 bits.
    match text.parse::<u32>() {
        Ok(number @ 1..) => Ok(Some(number.into())),
        _ => Err(ConfigError::new(name, format!("takes a whole number above 0, not {text:?}"))),
    }
}

fn one_of(get: Get<'_>, name: &str, values: &[&str]) -> Result<Option<String>, ConfigError> {
    let value = get(name);
    if let Some(value) = &value
        && !values.contains(&value.as_str())
    {
        return Err(ConfigError::new(name, format!("takes {}, not {value:?}", values.join(", "))));
    }
    Ok(value)
}

fn check_temporality(get: Get<'_>) -> Result<(), ConfigError> {
    if get(TEMPORALITY).as_deref() == Some("delta") {
        // The SDK takes what a counter says from what it said before, also where it starts from 0 again.
        let message = "does not take delta: what is counted of a consumer or a target starts from 0 on each node that has \
                       it, and the differences would be wrong; takes cumulative or lowmemory";
        return Err(ConfigError::new(TEMPORALITY, message));
    }
    one_of(get, TEMPORALITY, &["cumulative", "lowmemory"]).map(drop)
}

fn check_headers(get: Get<'_>, name: &str) -> Result<(), ConfigError> {
    let is_header =
        |(name, value): (&str, &str)| name.parse::<HeaderName>().is_ok() && HeaderValue::from_str(value).is_ok();
    let is_wrong = |text: String| pairs(&text).any(|pair| !pair.is_some_and(is_header));
    if get(name).is_some_and(is_wrong) {
        // They are not repeated: they are there for secrets.
        return Err(ConfigError::new(name, "takes NAME=VALUE, several separated by commas"));
    }
    Ok(())
}

fn check_sampler(get: Get<'_>) -> Result<(), ConfigError> {
    let sampler = one_of(get, SAMPLER, &SAMPLERS)?;
    let takes = "takes a number from 0 to 1";
    match get(SAMPLER_ARG) {
        Some(text) => match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => Err(ConfigError::new(SAMPLER_ARG, format!("{takes}, not {text:?}"))),
        },
        None if sampler.is_some_and(|sampler| sampler.ends_with("traceidratio")) => {
            Err(ConfigError::new(SAMPLER_ARG, format!("{takes}, and is needed with this {SAMPLER}")))
        }
        None => Ok(()),
    }
}

/// The pairs of a list; `None` for what is none.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let parts = text.split_terminator(',').map(str::trim);
    parts.map(|part| {
        part.split_once('=').map(|(name, value)| (name.trim(), value.trim())).filter(|(name, _)| !name.is_empty())
    })
}
