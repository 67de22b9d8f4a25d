//! What spans say of a batch that is applied.

use opentelemetry::KeyValue;

use super::{Work, count, of_consumer, shared};
use crate::model::{Applied, Consumer, Filter, TraceContext};

/// How the batches of a consumer are shown.
pub(crate) struct Applying {
    name: String,
    attributes: Vec<KeyValue>,
}

impl Applying {
    /// Of this consumer, which writes to the target of this name.
    pub(crate) fn of(consumer: &Consumer, target: &str) -> Self {
        let mut attributes = of_consumer(&consumer.name, target);
        attributes.extend([
            KeyValue::new("messaging.system", "sequin"),
            KeyValue::new("messaging.operation.name", "apply"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.consumer.group.name", shared(&consumer.name)),
        ]);
        if let Filter::Provider(provider) = &consumer.filter {
            attributes.push(KeyValue::new("messaging.destination.name", shared(provider.as_str())));
        }
        Self { name: format!("apply {}", consumer.name), attributes }
    }

    /// Begins to apply so many records of these publications.
    pub(crate) fn begin(&self, records: usize, publications: impl Iterator<Item = TraceContext>) -> Work {
        let mut attributes = Vec::with_capacity(self.attributes.len() + 2);
        attributes.extend_from_slice(&self.attributes);
        attributes.push(KeyValue::new("messaging.batch.message_count", count(records)));
        Work::begin_linked(self.name.clone(), attributes, publications)
    }
}

impl Work {
    /// Says what became of the batch.
    pub(crate) fn applied(&self, applied: &Applied) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.says([
            KeyValue::new("sequin.upserts", number(applied.upserts)),
            KeyValue::new("sequin.deletes", number(applied.deletes)),
        ]);
    }
}
