//! Metrics in Prometheus' text, for those who come and get them.

use std::sync::{Arc, LazyLock};

use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::sync::Mutex;

/// Where the process's metrics are read. There is one, as there is one provider of meters.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// What fills the registry.
pub(super) fn reader() -> PrometheusExporter {
    let exporter = opentelemetry_prometheus::exporter().with_registry(REGISTRY.clone());
    // Everything comes from one scope, so the label would say the same on each line.
    exporter.scope_info_enabled(false).build().expect("the first collector of a registry is taken")
}

/// Reads the metrics, for one at a time: more would only wait for each other, and hold threads meanwhile.
#[derive(Clone, Default)]
pub(crate) struct Scrape(Arc<Mutex<()>>);

impl Scrape {
    /// What the text is.
    pub(crate) const CONTENT_TYPE: &str = TEXT_FORMAT;

    /// Everything that is measured, now.
    pub(crate) async fn read(&self) -> String {
        let turn = Arc::clone(&self.0).lock_owned().await;
        // Many consumers are many lines.
        let read = tokio::task::spawn_blocking(move || {
            let text = TextEncoder::new().encode_to_string(&REGISTRY.gather());
            drop(turn);
            text.expect("metrics are text")
        });
        read.await.expect("reading metrics does not panic")
    }
}
