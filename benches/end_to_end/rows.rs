//! The rows: records of a CRM, as publications for our stream and, one by one, for whoever loads them otherwise.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sequin::demo::crm::{Crm, PROVIDER};
use sequin_actors::model::{Op, Provider, Publication, Record, RecordFields, SyncId};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// How many records one publication has.
const PUBLICATION: u64 = 5000;

/// The same records in each run.
pub(crate) const SEED: u64 = 42;

/// Takes a record and its number, from 1.
type Also<'a> = dyn FnMut(&Record<'_>, u64) + 'a;

/// The records of one stage, made as they are asked for.
pub(crate) struct Rows<'a> {
    lines: Box<dyn Iterator<Item = String> + 'a>,
    provider: Provider,
    number: u64,
    also: Box<Also<'a>>,
}

/// What a line of the CRM says.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    sync_id: Uuid,
    #[serde(borrow)]
    sync_external_id: Cow<'a, str>,
    #[serde(borrow)]
    sync_metadata: &'a RawValue,
    #[serde(borrow)]
    collection_id: Cow<'a, str>,
    #[serde(borrow)]
    upstream_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    upstream_created_at: DateTime<Utc>,
    upstream_updated_at: DateTime<Utc>,
}

/// The lines of so many records, each a JSON object.
pub(crate) fn lines(records: u64, syncs: u32) -> impl Iterator<Item = String> {
    let mut crm = Crm::new(SEED, syncs);
    (0..records).filter_map(move |_| crm.backfill(1).next())
}

/// Bodies of requests that publish so many records, so many in each.
pub(crate) fn requests(records: u64, syncs: u32, in_each: usize) -> Vec<Bytes> {
    let lines: Vec<_> = lines(records, syncs).collect();
    lines.chunks(in_each).map(|lines| lines.join("\n").into()).collect()
}

impl<'a> Rows<'a> {
    /// The same records whenever they are asked for: to the stream and the table, each is a new version. `also` gets
    /// every record too, with its number from 1.
    pub(crate) fn new(records: u64, syncs: u32, also: impl FnMut(&Record<'_>, u64) + 'a) -> Self {
        Self::of(lines(records, syncs), also)
    }

    /// The records of these lines.
    pub(crate) fn of(lines: impl Iterator<Item = String> + 'a, also: impl FnMut(&Record<'_>, u64) + 'a) -> Self {
        let provider = Provider::parse(PROVIDER).expect("a slug");
        Self { lines: Box::new(lines), provider, number: 0, also: Box::new(also) }
    }
}

impl Iterator for Rows<'_> {
    type Item = Publication;

    fn next(&mut self) -> Option<Publication> {
        let mut publication = Publication::default();
        for _ in 0..PUBLICATION {
            let Some(line) = self.lines.next() else { break };
            self.number += 1;
            let line = parse(&line);
            let record = line.record();
            publication.push(&self.provider, &record).expect("a sync of this provider");
            (self.also)(&record, self.number);
        }
        (!publication.records().is_empty()).then_some(publication)
    }
}

/// Reads a line of the CRM.
pub(crate) fn parse(line: &str) -> Line<'_> {
    serde_json::from_str(line).expect("a record")
}

impl Line<'_> {
    pub(crate) fn record(&self) -> Record<'_> {
        let (_, record) = self.fields().check(Utc::now()).expect("a good record");
        record
    }

    fn fields(&self) -> RecordFields<'_> {
        RecordFields {
            op: Op::Upsert,
            provider: PROVIDER,
            sync_id: SyncId(self.sync_id),
            sync_external_id: Some(&self.sync_external_id),
            sync_metadata: Some(self.sync_metadata.get()),
            collection_id: &self.collection_id,
            upstream_id: &self.upstream_id,
            sequin_id: None,
            payload: Some(self.payload.get()),
            upstream_created_at: Some(self.upstream_created_at),
            upstream_updated_at: Some(self.upstream_updated_at),
        }
    }
}
