//! A publication: records on their way into the stream, checked all together.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;

use super::{Idx, Op, Provider, Record, SequinId, SyncId, TraceContext, encode};

/// Records that were checked at the door, encoded, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    bytes: Vec<u8>,
    records: Vec<Outgoing>,
    syncs: Vec<SyncSeen>,
    sync_numbers: HashMap<SyncId, usize>,
    trace: Option<TraceContext>,
}

/// One record of a publication.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Which of [`Publication::syncs`] it belongs to.
    pub sync: usize,
    /// The record.
    pub sequin_id: SequinId,
    /// What this version does to it.
    pub op: Op,
    /// The version that it was made from: it is left out where another one counts by now.
    pub replaces: Option<Idx>,
    envelope: Range<usize>,
}

/// A sync that records of a publication belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSeen {
    /// The sync.
    pub id: SyncId,
    /// Whose sync it is.
    pub provider: Provider,
    /// As the last upsert describes it; a delete describes nothing.
    pub description: Option<SyncDescription>,
}

/// What a publisher says of a sync with each of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDescription {
    /// The publisher's own id of it.
    pub external_id: Option<String>,
    /// The publisher's notes on it: the text of a JSON object.
    pub metadata: String,
}

impl SyncDescription {
    fn is_of(&self, record: &Record<'_>) -> bool {
        self.external_id.as_deref() == record.sync_external_id && self.metadata == record.sync_metadata
    }
}

impl Publication {
    /// An empty publication that takes `bytes` of envelopes without growing.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Writes the span that publishes it into the envelopes of the records to come.
    #[must_use]
    pub fn with_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// Adds a record; `Err` tells the provider that the sync belongs to already, when it is another one.
    pub fn push(&mut self, provider: &Provider, record: &Record<'_>) -> Result<(), Provider> {
        self.push_version(provider, record, None)
    }

    /// Adds a record that is to be left out unless `version` is the one that counts. It is the only version of its record
    /// in the publication.
    pub fn push_replacing(&mut self, provider: &Provider, record: &Record<'_>, version: Idx) -> Result<(), Provider> {
        self.push_version(provider, record, Some(version))
    }

    fn push_version(
        &mut self,
        provider: &Provider,
        record: &Record<'_>,
        replaces: Option<Idx>,
    ) -> Result<(), Provider> {
        let sync = self.sync_of(provider, record)?;
        let start = self.bytes.len();
        encode(record, self.trace, &mut self.bytes);
        let envelope = start..self.bytes.len();
        self.records.push(Outgoing { sync, sequin_id: record.sequin_id, op: record.op, replaces, envelope });
        Ok(())
    }

    fn sync_of(&mut self, provider: &Provider, record: &Record<'_>) -> Result<usize, Provider> {
        let number = match self.sync_numbers.get(&record.sync_id) {
            Some(&number) => number,
            None => {
                self.syncs.push(SyncSeen { id: record.sync_id, provider: provider.clone(), description: None });
                self.sync_numbers.insert(record.sync_id, self.syncs.len() - 1);
                self.syncs.len() - 1
            }
        };
        let seen = &mut self.syncs[number];
        if seen.provider != *provider {
            return Err(seen.provider.clone());
        }
        let is_described = seen.description.as_ref().is_some_and(|description| description.is_of(record));
        if record.op == Op::Upsert && !is_described {
            let external_id = record.sync_external_id.map(Into::into);
            seen.description = Some(SyncDescription { external_id, metadata: record.sync_metadata.into() });
        }
        Ok(number)
    }

    /// How many bytes the envelopes take.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The records, in the order in which they came.
    pub fn records(&self) -> &[Outgoing] {
        &self.records
    }

    /// The syncs that the records belong to.
    pub fn syncs(&self) -> &[SyncSeen] {
        &self.syncs
    }

    /// The envelope of one of this publication's records.
    pub fn envelope(&self, record: &Outgoing) -> &[u8] {
        &self.bytes[record.envelope.clone()]
    }

    /// Its envelopes alone, in memory that they share.
    pub fn share(self) -> Envelopes {
        Envelopes(self.bytes.into())
    }
}

/// The envelopes of a publication.
#[derive(Clone, Debug)]
pub struct Envelopes(Bytes);

impl Envelopes {
    /// The envelope of one of the publication's records, not copied.
    pub fn envelope(&self, record: &Outgoing) -> Bytes {
        self.0.slice(record.envelope.clone())
    }
}
