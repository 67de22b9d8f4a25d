//! What sends to a collector, by OTLP.
//!
//! Endpoint, headers, time limit and compression are read from the environment by the exporters themselves, after
//! [`super::settings`] has seen that they can be.

use std::thread;

use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithHttpConfig, WithTonicConfig,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use reqwest::{blocking::Client, redirect::Policy};

use super::{
    delivery::Watched,
    settings::{Collector, Protocol},
};
use crate::config::ConfigError;

pub(super) fn spans(collector: &Collector) -> Result<Watched<SpanExporter>, ConfigError> {
    let builder = SpanExporter::builder();
    let built = match collector.protocol {
        Protocol::Grpc => by_grpc(builder.with_tonic(), collector).build(),
        Protocol::Http => builder.with_http().with_http_client(client(collector)?).build(),
    };
    watched("traces", collector, built)
}

pub(super) fn metrics(collector: &Collector) -> Result<Watched<MetricExporter>, ConfigError> {
    let builder = MetricExporter::builder();
    let built = match collector.protocol {
        Protocol::Grpc => by_grpc(builder.with_tonic(), collector).build(),
        Protocol::Http => builder.with_http().with_http_client(client(collector)?).build(),
    };
    watched("metrics", collector, built)
}

pub(super) fn logs(collector: &Collector) -> Result<Watched<LogExporter>, ConfigError> {
    let builder = LogExporter::builder();
    let built = match collector.protocol {
        Protocol::Grpc => by_grpc(builder.with_tonic(), collector).build(),
        Protocol::Http => builder.with_http().with_http_client(client(collector)?).build(),
    };
    watched("logs", collector, built)
}

fn watched<E>(
    signal: &'static str,
    collector: &Collector,
    built: Result<E, ExporterBuildError>,
) -> Result<Watched<E>, ConfigError> {
    let exporter = built.map_err(|error| ConfigError::new(&collector.setting, error.to_string()))?;
    Ok(Watched::new(signal, collector, exporter))
}

fn by_grpc<B: WithTonicConfig>(builder: B, collector: &Collector) -> B {
    if !collector.is_tls {
        return builder;
    }
    let tls = ClientTlsConfig::new();
    builder.with_tls_config(match &collector.authority {
        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
        None => tls.with_native_roots(),
    })
}

/// The threads of the SDK wait for what they send, so the client is one that blocks. Such a one has a runtime of its own,
/// and can't be made in another.
fn client(collector: &Collector) -> Result<Client, ConfigError> {
    let authorities = collector.authorities()?;
    let timeout = collector.timeout;
    let build = move || {
        // Headers hold secrets, which go where the settings say, and nowhere else.
        let client = Client::builder().timeout(timeout).redirect(Policy::none());
        match authorities {
            Some(authorities) => client.tls_certs_only(authorities).build(),
            None => client.build(),
        }
    };
    let built = thread::spawn(build).join().expect("making a client does not panic");
    built.map_err(|error| ConfigError::new(&collector.setting, format!("no client can be made: {error}")))
}
