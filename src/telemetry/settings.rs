//! The standard settings of OpenTelemetry, `OTEL_*`, which are read from the environment alone.
//!
//! The SDK and its exporters read most of them by themselves, and pass over what they can't read. So everything is checked
//! here before anything starts.

mod values;

use std::{env, fs, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
};
use reqwest::{Certificate, Url};

use self::values::check_values;
use crate::config::{Config, ConfigError};

const DISABLED: &str = "OTEL_SDK_DISABLED";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const ENDPOINT: &str = "ENDPOINT";

/// How long a collector has for what is sent to it, unless it is said otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Gives a setting, if it is set and not empty.
type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where each signal is sent; nowhere if nothing is set.
#[derive(Debug)]
pub(crate) struct TelemetrySettings {
    pub(super) traces: Option<Collector>,
    pub(super) metrics: Option<Collector>,
    pub(super) logs: Option<Collector>,
}

/// Who takes a signal.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    /// The setting that names it.
    pub(super) setting: String,
    pub(super) protocol: Protocol,
    /// Its host and port, without what may be secret in a URL.
    pub(super) address: String,
    pub(super) is_tls: bool,
    /// The certificates that its own has to lead to, in PEM, if not to those that the machine trusts.
    pub(super) authority: Option<Vec<u8>>,
    pub(super) timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

impl TelemetrySettings {
    /// Reads the environment.
    pub(crate) fn load() -> Result<Self, ConfigError> {
        let text = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self::parse(&|name| text(name).filter(|value| !value.is_empty()))
    }

    fn parse(get: Get<'_>) -> Result<Self, ConfigError> {
        check_values(get)?;
        let settings = Self {
            traces: Collector::parse(get, "TRACES")?,
            metrics: Collector::parse(get, "METRICS")?,
            logs: Collector::parse(get, "LOGS")?,
        };
        let is_disabled = match get(DISABLED).as_deref().map(str::to_lowercase).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(ConfigError::new(DISABLED, "takes true or false")),
        };
        Ok(if is_disabled { Self { traces: None, metrics: None, logs: None } } else { settings })
    }
}

impl Collector {
    /// Who takes the signal, if anybody does: it is enough to name an exporter or an endpoint.
    fn parse(get: Get<'_>, signal: &str) -> Result<Option<Self>, ConfigError> {
        let exporter = format!("OTEL_{signal}_EXPORTER");
        let is_wanted = match get(&exporter).as_deref() {
            None => None,
            Some("otlp") => Some(true),
            Some("none") => Some(false),
            Some("prometheus") if signal == "METRICS" => {
                let message = "takes otlp or none; Prometheus scrapes /metrics, which SEQUIN_METRICS is about";
                return Err(ConfigError::new(&exporter, message));
            }
            Some(other) => return Err(ConfigError::new(&exporter, format!("takes otlp or none, not {other:?}"))),
        };
        let of = |name: &str| of_signal(get, signal, name);
        let endpoint = of(ENDPOINT);
        let url = endpoint.as_ref().map(|(setting, url)| parse_url(setting, url)).transpose()?;
        let protocol = match of("PROTOCOL") {
            None => Protocol::Http,
            Some((_, value)) if value == "http/protobuf" => Protocol::Http,
            Some((_, value)) if value == "grpc" => Protocol::Grpc,
            Some((setting, value)) => {
                return Err(ConfigError::new(&setting, format!("takes grpc or http/protobuf, not {value:?}")));
            }
        };
        let collector = Self {
            is_tls: url.as_ref().is_some_and(|url| url.scheme() == "https"),
            address: match (url, protocol) {
                (Some(url), _) => address(&url),
                (None, Protocol::Grpc) => "localhost:4317".into(),
                (None, Protocol::Http) => "localhost:4318".into(),
            },
            protocol,
            authority: of("CERTIFICATE").map(|(setting, path)| read_authority(&setting, &path)).transpose()?,
            timeout: values::timeout(get, signal)?.unwrap_or(TIMEOUT),
            setting: endpoint.as_ref().map_or(exporter, |(setting, _)| setting.clone()),
        };
        Ok(is_wanted.unwrap_or(endpoint.is_some()).then_some(collector))
    }

    /// The certificates that the collector's has to lead to, if they are not those that the machine trusts.
    pub(super) fn authorities(&self) -> Result<Option<Vec<Certificate>>, ConfigError> {
        let Some(pem) = &self.authority else { return Ok(None) };
        let wrong = |error: reqwest::Error| ConfigError::new(&self.setting, format!("a wrong certificate: {error}"));
        Certificate::from_pem_bundle(pem).map(Some).map_err(wrong)
    }
}

/// The setting of a signal, or else that of all, with its name.
fn of_signal(get: Get<'_>, signal: &str, name: &str) -> Option<(String, String)> {
    let names = [format!("OTEL_EXPORTER_OTLP_{signal}_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.into_iter().find_map(|name| get(&name).map(|value| (name, value)))
}

fn address(url: &Url) -> String {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    format!("{host}:{port}")
}

fn parse_url(setting: &str, url: &str) -> Result<Url, ConfigError> {
    // It is not repeated: it may hold a password.
    let wrong = || ConfigError::new(setting, "takes http://HOST:PORT or https://HOST:PORT");
    let url = Url::parse(url).map_err(|_| wrong())?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    is_web.then_some(url).ok_or_else(wrong)
}

fn read_authority(setting: &str, path: &str) -> Result<Vec<u8>, ConfigError> {
    let wrong = |error: String| ConfigError::new(setting, format!("{path}: {error}"));
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(pem),
        _ => Err(wrong("there is no certificate in it".into())),
    }
}

/// What everything that is told is about: this node of this cluster, unless `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
pub(super) fn resource(config: &Config) -> Resource {
    let ours = [
        ("service.name", "sequin"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.namespace", &config.cluster),
        ("service.instance.id", &config.node),
    ];
    let named = env::var(SERVICE_NAME).ok().filter(|name| !name.is_empty());
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(ours.map(|(name, value)| KeyValue::new(name, value.to_owned())))
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(named.map(|name| KeyValue::new("service.name", name)))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[(&str, &str)]) -> Result<TelemetrySettings, ConfigError> {
        let value =
            |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        TelemetrySettings::parse(&value)
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_or_an_exporter_is_set() {
        let exported = |settings: &[(&str, &str)]| {
            let TelemetrySettings { traces, metrics, logs } = parse(settings).expect("good settings");
            [traces.is_some(), metrics.is_some(), logs.is_some()]
        };
        let to_all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(exported(&[]), [false; 3]);
        assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), [false; 3]);
        assert_eq!(exported(&[to_all]), [true; 3]);
        assert_eq!(exported(&[to_all, ("OTEL_LOGS_EXPORTER", "none")]), [true, true, false]);
        assert_eq!(exported(&[("OTEL_TRACES_EXPORTER", "otlp")]), [true, false, false]);
        assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m/v1/metrics")]), [false, true, false]);
        assert_eq!(exported(&[to_all, (DISABLED, "TRUE")]), [false; 3]);
    }

    #[test]
    fn what_is_set_for_one_signal_goes_before_what_is_set_for_all() {
        let settings = parse(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318/v1/logs"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
        ]);
        let TelemetrySettings { traces, logs, .. } = settings.expect("good settings");
        let (traces, logs) = (traces.expect("a collector"), logs.expect("a collector"));
        assert_eq!((traces.protocol, traces.is_tls, traces.timeout), (Protocol::Grpc, true, Duration::from_secs(2)));
        assert_eq!((logs.protocol, logs.is_tls), (Protocol::Http, false));
        assert_eq!((traces.address.as_str(), logs.address.as_str()), ("collector:4317", "logs:4318"));
    }

    #[test]
    fn a_wrong_setting_is_named_and_a_secret_not_repeated() {
        for (name, value) in [
            (DISABLED, "yes"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "ftp://s3cret@collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere/key.pem"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=s3cret"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sometimes"),
            ("OTEL_RESOURCE_ATTRIBUTES", "production"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
        ] {
            let error = parse(&[(name, value)]).expect_err(name).to_string();
            assert!(error.starts_with(&format!("{name}: ")) && !error.contains("s3cret"), "{error}");
        }
        let delta = parse(&[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")]).expect_err("differences");
        assert!(delta.to_string().contains("does not take delta: "), "{delta}");
        let lowmemory = [("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "lowmemory")];
        parse(&lowmemory).expect("what only grows is sent as it is");
        let without = parse(&[("OTEL_TRACES_SAMPLER", "traceidratio")]).expect_err("a ratio is missing");
        assert!(without.to_string().starts_with("OTEL_TRACES_SAMPLER_ARG: "), "{without}");
    }
}
