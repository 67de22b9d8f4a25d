//! The envelope: how one version of a record lies in the stream.
//!
//! MessagePack with named fields and a version, so that fields can be added and an older node says clearly
//! what it can't read. The payload stays the JSON text that came; decoding borrows it and builds no tree.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Op, Record, SequinId, SyncId};

/// The version that this code writes, and the highest it reads.
const VERSION: u8 = 1;

/// An envelope that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It was written by a newer version of this program.
    #[error("envelope of version {0}, but this node reads up to version {VERSION}: upgrade the node")]
    Newer(u8),
    /// It is not an envelope.
    #[error("not an envelope: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// A time beyond what the calendar holds.
    #[error("not an envelope: {0} microseconds is no time")]
    NoTime(i64),
}

/// The fields come in the order in which a reader wants them: what routes a record first, its payload last.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    v: u8,
    deleted: bool,
    sequin_id: SequinId,
    sync_id: SyncId,
    #[serde(borrow)]
    collection_id: &'a str,
    upstream_id: &'a str,
    created_at: i64,
    updated_at: i64,
    external_id: Option<&'a str>,
    metadata: &'a str,
    payload: &'a str,
}

/// What a pipeline needs to know of a record to bring it to the right writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Routing {
    v: u8,
    deleted: bool,
    /// The record.
    pub sequin_id: SequinId,
}

impl Routing {
    /// What the version does.
    pub fn op(&self) -> Op {
        if self.deleted { Op::Delete } else { Op::Upsert }
    }
}

/// Appends the envelope of `record` to `out`.
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let envelope = Envelope {
        v: VERSION,
        deleted: record.op == Op::Delete,
        sequin_id: record.sequin_id,
        sync_id: record.sync_id,
        collection_id: record.collection_id,
        upstream_id: record.upstream_id,
        created_at: record.upstream_created_at.timestamp_micros(),
        updated_at: record.upstream_updated_at.timestamp_micros(),
        external_id: record.sync_external_id,
        metadata: record.sync_metadata,
        payload: record.payload,
    };
    rmp_serde::encode::write_named(out, &envelope).expect("writing to memory can't fail");
}

/// Reads an envelope; the record borrows from it.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, EnvelopeError> {
    let envelope: Envelope<'_> = rmp_serde::from_slice(bytes).map_err(|error| explain(bytes, error))?;
    check_version(envelope.v)?;
    Ok(Record {
        op: if envelope.deleted { Op::Delete } else { Op::Upsert },
        sync_id: envelope.sync_id,
        sync_external_id: envelope.external_id,
        sync_metadata: envelope.metadata,
        collection_id: envelope.collection_id,
        upstream_id: envelope.upstream_id,
        sequin_id: envelope.sequin_id,
        payload: envelope.payload,
        upstream_created_at: time(envelope.created_at)?,
        upstream_updated_at: time(envelope.updated_at)?,
    })
}

/// Reads just what routes the record.
pub fn decode_routing(bytes: &[u8]) -> Result<Routing, EnvelopeError> {
    let routing: Routing = rmp_serde::from_slice(bytes).map_err(|error| explain(bytes, error))?;
    check_version(routing.v)?;
    Ok(routing)
}

/// A newer envelope may lack fields of today: then its version is the thing to say.
fn explain(bytes: &[u8], error: rmp_serde::decode::Error) -> EnvelopeError {
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    match rmp_serde::from_slice(bytes) {
        Ok(Version { v }) if v > VERSION => EnvelopeError::Newer(v),
        _ => error.into(),
    }
}

fn check_version(v: u8) -> Result<(), EnvelopeError> {
    if v > VERSION { Err(EnvelopeError::Newer(v)) } else { Ok(()) }
}

fn time(micros: i64) -> Result<DateTime<Utc>, EnvelopeError> {
    DateTime::from_timestamp_micros(micros).ok_or(EnvelopeError::NoTime(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &str) -> Record<'_> {
        let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time");
        Record {
            op: Op::Upsert,
            sync_id: SyncId(uuid::Uuid::from_u128(1)),
            sync_external_id: Some("acme"),
            sync_metadata: r#"{"plan":"pro"}"#,
            collection_id: "contact",
            upstream_id: "101",
            sequin_id: SequinId(uuid::Uuid::from_u128(2)),
            payload,
            upstream_created_at: at,
            upstream_updated_at: at,
        }
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(record, &mut bytes);
        bytes
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded_with_the_payload_as_it_came() {
        for payload in ["{ \"a\" :  1.0e0 }", "null", "\"\u{1F980}\"", "123456789012345678901234567890"] {
            let record = record(payload);
            let bytes = encoded(&record);
            assert_eq!(decode(&bytes).expect("an envelope"), record);
            assert_eq!(decode_routing(&bytes).expect("an envelope").sequin_id, record.sequin_id);
        }
    }

    #[test]
    fn a_field_added_by_a_later_release_of_the_same_version_is_passed_over() {
        #[derive(Serialize)]
        struct Wider<'a> {
            trace: &'a str,
            #[serde(flatten)]
            envelope: Envelope<'a>,
        }
        let bytes = encoded(&record("1"));
        let envelope: Envelope<'_> = rmp_serde::from_slice(&bytes).expect("an envelope");
        let wider = rmp_serde::to_vec_named(&Wider { trace: "t", envelope }).expect("bytes");
        assert_eq!(decode(&wider).expect("an envelope"), record("1"));
    }

    #[test]
    fn an_envelope_of_a_newer_version_is_refused_by_its_number() {
        #[derive(Serialize)]
        struct Newer {
            v: u8,
        }
        let bytes = rmp_serde::to_vec_named(&Newer { v: 9 }).expect("bytes");
        assert!(matches!(decode(&bytes), Err(EnvelopeError::Newer(9))));
        assert!(matches!(decode(b"junk"), Err(EnvelopeError::Malformed(_))));
    }
}
