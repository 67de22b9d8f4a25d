//! Metrics in Prometheus' text, for those who come and get them.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::{sync::Mutex, task::spawn_blocking};

/// Where the process's metrics are read. There is one, as there is one provider of meters.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// Whether somebody has come for them lately.
static IS_READ: AtomicBool = AtomicBool::new(false);

/// How long what nobody comes for is kept.
const KEPT: Duration = Duration::from_secs(60);

/// What fills the registry.
pub(super) fn reader() -> PrometheusExporter {
    let exporter = opentelemetry_prometheus::exporter().with_registry(REGISTRY.clone());
    // Everything comes from one scope, so the label would say the same on each line.
    exporter.scope_info_enabled(false).build().expect("the first collector of a registry is taken")
}

/// Throws away, for ever, what nobody comes for. Whenever a collector is sent what is measured, it is put down for those who
/// scrape as well, until they have read it: without this it would grow, and who comes late would read of what is long gone.
pub(super) async fn forget_unread() {
    loop {
        tokio::time::sleep(KEPT).await;
        if !IS_READ.swap(false, Ordering::Relaxed) {
            spawn_blocking(|| drop(REGISTRY.gather())).await.expect("reading metrics does not panic");
        }
    }
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
        let read = spawn_blocking(move || {
            IS_READ.store(true, Ordering::Relaxed);
            let text = TextEncoder::new().encode_to_string(&REGISTRY.gather());
            drop(turn);
            text.expect("metrics are text")
        });
        read.await.expect("reading metrics does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use opentelemetry::{KeyValue, metrics::MeterProvider};
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_not_read_of_by_who_comes_late() {
        let collector = Registry::new();
        let pushed = opentelemetry_prometheus::exporter().with_registry(collector.clone()).build().expect("a reader");
        let provider = SdkMeterProvider::builder().with_reader(pushed).with_reader(reader()).build();
        let generation = Arc::new(AtomicU64::new(1));
        let of = Arc::clone(&generation);
        let meter = provider.meter("test");
        let lag = meter.u64_observable_gauge("lag").with_callback(move |lag| {
            lag.observe(1, &[KeyValue::new("consumer", format!("c{}", of.load(Ordering::Relaxed)))]);
        });
        lag.build();
        let named = |text: &str| (1..=4).filter(|number| text.contains(&format!("\"c{number}\""))).collect::<Vec<_>>();
        for number in [1, 2] {
            generation.store(number, Ordering::Relaxed);
            collector.gather();
        }
        let forgetting = tokio::spawn(forget_unread());
        tokio::time::sleep(KEPT + Duration::from_secs(1)).await;
        generation.store(3, Ordering::Relaxed);
        let text = Scrape::default().read().await;
        assert_eq!(named(&text), [3], "{text}");

        generation.store(4, Ordering::Relaxed);
        assert_eq!(named(&Scrape::default().read().await), [4]);
        forgetting.abort();
    }
}
