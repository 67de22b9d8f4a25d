//! The envelope: how one version of a record lies in the stream.
//!
//! MessagePack with named fields and a version, so that fields can be added and an older node says clearly
//! what it can't read. The payload stays the JSON text that came; decoding borrows it and builds no tree.

use chrono::{DateTime, Utc};
use rmp::decode::{read_bin_len, read_bool, read_int, read_map_len, read_str_len};
use serde::{Serialize, de::IgnoredAny};
use uuid::Uuid;

use super::{Op, Record, SequinId, SyncId};

/// The version that this code writes, and the highest it reads.
const VERSION: u8 = 1;

/// How MessagePack writes that there is no value.
const NIL: u8 = 0xc0;

/// An envelope that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It was written by a newer version of this program.
    #[error("envelope of version {0}, but this node reads up to version {VERSION}: upgrade the node")]
    Newer(u8),
    /// It is not an envelope.
    #[error("not an envelope: {0} is missing or damaged")]
    Malformed(&'static str),
    /// A time beyond what the calendar holds.
    #[error("not an envelope: {0} microseconds is no time")]
    NoTime(i64),
}

/// The fields come in the order in which a reader wants them: what routes a record first, its payload last.
#[derive(Serialize)]
struct Envelope<'a> {
    v: u8,
    deleted: bool,
    sequin_id: SequinId,
    sync_id: SyncId,
    collection_id: &'a str,
    upstream_id: &'a str,
    created_at: i64,
    updated_at: i64,
    external_id: Option<&'a str>,
    metadata: &'a str,
    payload: &'a str,
}

/// What a pipeline needs to know of a record to bring it to the right writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// What the version does.
    pub op: Op,
    /// The record.
    pub sequin_id: SequinId,
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
    let fields = Fields::read(bytes, |_| false)?;
    let Routing { op, sequin_id } = fields.routing()?;
    Ok(Record {
        op,
        sync_id: SyncId(fields.sync_id.ok_or(EnvelopeError::Malformed("sync_id"))?),
        sync_external_id: fields.external_id,
        sync_metadata: fields.metadata.ok_or(EnvelopeError::Malformed("metadata"))?,
        collection_id: fields.collection_id.ok_or(EnvelopeError::Malformed("collection_id"))?,
        upstream_id: fields.upstream_id.ok_or(EnvelopeError::Malformed("upstream_id"))?,
        sequin_id,
        payload: fields.payload.ok_or(EnvelopeError::Malformed("payload"))?,
        upstream_created_at: time(fields.created_at.ok_or(EnvelopeError::Malformed("created_at"))?)?,
        upstream_updated_at: time(fields.updated_at.ok_or(EnvelopeError::Malformed("updated_at"))?)?,
    })
}

/// Reads just what routes the record, and nothing that lies behind it.
pub fn decode_routing(bytes: &[u8]) -> Result<Routing, EnvelopeError> {
    Fields::read(bytes, |fields| fields.deleted.is_some() && fields.sequin_id.is_some())?.routing()
}

/// What was read of an envelope. By hand, because it is done twice for every record, and a derived reader would check
/// the names of the fields for being text, and read all of them to find the first two.
#[derive(Default)]
struct Fields<'a> {
    v: Option<u8>,
    deleted: Option<bool>,
    sequin_id: Option<Uuid>,
    sync_id: Option<Uuid>,
    collection_id: Option<&'a str>,
    upstream_id: Option<&'a str>,
    created_at: Option<i64>,
    updated_at: Option<i64>,
    external_id: Option<&'a str>,
    metadata: Option<&'a str>,
    payload: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Reads until that is `enough`, or all there is.
    fn read(bytes: &'a [u8], enough: impl Fn(&Self) -> bool) -> Result<Self, EnvelopeError> {
        let (mut fields, mut rest) = (Self::default(), bytes);
        let number = read_map_len(&mut rest).map_err(|_| EnvelopeError::Malformed("the map"))?;
        for _ in 0..number {
            if enough(&fields) {
                break;
            }
            // A field that is not as it should be stays missing, and what is behind it too.
            if fields.read_field(&mut rest).is_none() {
                break;
            }
            // The version comes first, so a newer envelope is known before anything of it is not understood.
            if let Some(newer) = fields.v.filter(|&v| v > VERSION) {
                return Err(EnvelopeError::Newer(newer));
            }
        }
        Ok(fields)
    }

    fn read_field(&mut self, rest: &mut &'a [u8]) -> Option<()> {
        match bytes_of_text(rest)? {
            b"v" => self.v = Some(read_int(rest).ok()?),
            b"deleted" => self.deleted = Some(read_bool(rest).ok()?),
            b"sequin_id" => self.sequin_id = Some(uuid(rest)?),
            b"sync_id" => self.sync_id = Some(uuid(rest)?),
            b"collection_id" => self.collection_id = Some(text(rest)?),
            b"upstream_id" => self.upstream_id = Some(text(rest)?),
            b"created_at" => self.created_at = Some(read_int(rest).ok()?),
            b"updated_at" => self.updated_at = Some(read_int(rest).ok()?),
            b"external_id" if rest.first() == Some(&NIL) => *rest = &rest[1..],
            b"external_id" => self.external_id = Some(text(rest)?),
            b"metadata" => self.metadata = Some(text(rest)?),
            b"payload" => self.payload = Some(text(rest)?),
            // One that a later release has added.
            _ => _ = rmp_serde::from_read::<_, IgnoredAny>(rest).ok()?,
        }
        Some(())
    }

    fn routing(&self) -> Result<Routing, EnvelopeError> {
        self.v.ok_or(EnvelopeError::Malformed("v"))?;
        let deleted = self.deleted.ok_or(EnvelopeError::Malformed("deleted"))?;
        let sequin_id = SequinId(self.sequin_id.ok_or(EnvelopeError::Malformed("sequin_id"))?);
        Ok(Routing { op: if deleted { Op::Delete } else { Op::Upsert }, sequin_id })
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    str::from_utf8(bytes_of_text(rest)?).ok()
}

fn bytes_of_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_str_len(rest).ok()?;
    take(rest, length)
}

fn uuid(rest: &mut &[u8]) -> Option<Uuid> {
    let length = read_bin_len(rest).ok()?;
    Uuid::from_slice(take(rest, length)?).ok()
}

fn take<'a>(rest: &mut &'a [u8], length: u32) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = left;
    Some(taken)
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
        struct Added<'a> {
            trace: (&'a str, [f64; 2], Option<bool>),
        }
        let added = rmp_serde::to_vec_named(&Added { trace: ("t", [1.5, 2.5], None) }).expect("bytes");
        let envelope = encoded(&record("1"));
        // A map of one more field, the added one first: a map of up to 15 fields begins with one byte.
        let wider = [&[envelope[0] + 1], &added[1..], &envelope[1..]].concat();
        assert_eq!(decode(&wider).expect("an envelope"), record("1"));
        assert_eq!(decode_routing(&wider).expect("an envelope").sequin_id, record("1").sequin_id);
    }

    #[test]
    fn an_envelope_that_was_cut_or_damaged_anywhere_is_refused() {
        let record = Record { sync_external_id: None, ..record("\"payload\"") };
        let whole = encoded(&record);
        for end in 0..whole.len() {
            assert!(matches!(decode(&whole[..end]), Err(EnvelopeError::Malformed(_))), "cut at {end}");
        }
        let not_text: Vec<u8> = whole.iter().map(|&byte| if byte == b'"' { 0xff } else { byte }).collect();
        assert!(matches!(decode(&not_text), Err(EnvelopeError::Malformed("metadata"))));
        assert_eq!(decode_routing(&not_text).expect("what routes it").sequin_id, record.sequin_id);
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
