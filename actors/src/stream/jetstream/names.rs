//! How streams and subjects are called.
//!
//! A provider has a stream `<cluster>-records-<provider>`, in which a record has a subject of its own: so the server keeps
//! its last version, and wildcards are the filters. Another subject of each record says that it was deleted once: these
//! are the index by which old tombstones are found.

use crate::{
    jetstream::JetStream,
    model::{Provider, SequinId, SyncId},
};

/// The names of one provider.
#[derive(Clone)]
pub(super) struct Names {
    cluster: String,
    provider: Provider,
}

impl Names {
    pub(super) fn of(connection: &JetStream, provider: &Provider) -> Self {
        Self { cluster: connection.cluster().to_owned(), provider: provider.clone() }
    }

    /// What the streams of all providers are found by: how their names begin, and a filter of their subjects.
    pub(super) fn of_all(connection: &JetStream) -> (String, String) {
        let cluster = connection.cluster();
        (format!("{cluster}-records-"), format!("{cluster}.records.>"))
    }

    /// The stream.
    pub(super) fn stream(&self) -> String {
        format!("{}-records-{}", self.cluster, self.provider)
    }

    /// All records.
    pub(super) fn records(&self) -> String {
        format!("{}.records.{}.*.*", self.cluster, self.provider)
    }

    /// All records of a sync.
    pub(super) fn records_of(&self, sync: SyncId) -> String {
        format!("{}.records.{}.{sync}.*", self.cluster, self.provider)
    }

    /// One record.
    pub(super) fn record(&self, sync: SyncId, record: SequinId) -> String {
        format!("{}.records.{}.{sync}.{record}", self.cluster, self.provider)
    }

    /// The index of tombstones.
    pub(super) fn tombstones(&self) -> String {
        format!("{}.tombstones.{}.*.*", self.cluster, self.provider)
    }

    /// The index of a sync's tombstones.
    pub(super) fn tombstones_of(&self, sync: SyncId) -> String {
        format!("{}.tombstones.{}.{sync}.*", self.cluster, self.provider)
    }

    /// One record's entry in the index of tombstones.
    pub(super) fn tombstone(&self, sync: SyncId, record: SequinId) -> String {
        format!("{}.tombstones.{}.{sync}.{record}", self.cluster, self.provider)
    }
}

/// The record that a subject is about.
pub(super) fn record_of(subject: &str) -> Option<(SyncId, SequinId)> {
    let mut parts = subject.rsplit('.');
    let record = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, record))
}
