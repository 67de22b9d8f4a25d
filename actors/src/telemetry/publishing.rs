//! What is counted of publications: once a request, whatever the number of its records.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use super::{DURATIONS, METER, messaging, seconds};
use crate::{
    model::{Provider, Publication},
    stream::{Published, RecordStream, StreamError},
};

/// Publishes, and counts what became of it.
#[derive(Debug)]
pub struct Publishing {
    sent: Counter<u64>,
    duration: Histogram<f64>,
}

impl Publishing {
    /// Makes the instruments, of `meter` or of the process's own.
    pub fn new(meter: Option<&Meter>) -> Self {
        let meter = meter.cloned().unwrap_or_else(|| opentelemetry::global::meter(METER));
        let duration = "Time that it took the stream to take the records of a request.";
        let sent = meter.u64_counter("messaging.client.sent.messages").with_unit("{message}");
        Self {
            sent: sent.with_description("Records that were published.").build(),
            duration: seconds(&meter, "messaging.client.operation.duration", duration, DURATIONS.into()),
        }
    }

    /// Publishes to a stream.
    pub async fn publish(&self, stream: &dyn RecordStream, publication: Publication) -> Result<Published, StreamError> {
        let records = records_of_providers(&publication);
        let began = Instant::now();
        let published = stream.publish(publication).await;
        let took = began.elapsed().as_secs_f64();
        let [system, operation] = messaging("publish");
        match &published {
            Ok(_) => {
                for (provider, records) in records {
                    let provider = Arc::<str>::from(provider.as_str());
                    let to = KeyValue::new("messaging.destination.name", provider);
                    self.sent.add(records as u64, &[system.clone(), operation.clone(), to]);
                }
                self.duration.record(took, &[system, operation]);
            }
            Err(error) => self.duration.record(took, &[system, operation, KeyValue::new("error.type", word(error))]),
        }
        published
    }
}

/// How many records there are of each provider. Most publications are of one, and nobody counts those.
fn records_of_providers(publication: &Publication) -> BTreeMap<Provider, usize> {
    let (syncs, records) = (publication.syncs(), publication.records());
    match syncs {
        [] => BTreeMap::new(),
        [first, others @ ..] if others.iter().all(|sync| sync.provider == first.provider) => {
            BTreeMap::from([(first.provider.clone(), records.len())])
        }
        _ => {
            let mut of_syncs = vec![0; syncs.len()];
            for record in records {
                of_syncs[record.sync] += 1;
            }
            let mut of_providers = BTreeMap::new();
            for (sync, records) in syncs.iter().zip(of_syncs) {
                *of_providers.entry(sync.provider.clone()).or_default() += records;
            }
            of_providers
        }
    }
}

fn word(error: &StreamError) -> &'static str {
    match error {
        StreamError::SyncOfAnotherProvider { .. } => "sync_of_another_provider",
        StreamError::Unavailable(_) => "unavailable",
        StreamError::Full(_) => "full",
        StreamError::Lost(_) => "lost",
        StreamError::Replaced(_) => "replaced",
    }
}
