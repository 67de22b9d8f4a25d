//! The envelope: how one version of a record lies in the stream.
//!
//! MessagePack with named fields and a version, so that fields can be added and an older node says clearly
//! what it can't read. The payload stays the JSON text that came; decoding borrows it and builds no tree.

use chrono::{DateTime, Utc};
use rmp::decode::{read_bin_len, read_bool, read_int, read_map_len, read_str_len};
use serde::{Serialize, de::IgnoredAny};
use uuid::Uuid;

use super::{Op, Record, SequinId, SyncId, TraceContext};

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
    /// Here, so that a reader that only routes the record learns of it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
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
    /// Whether the span that published it is in the envelope: see [`decode_trace`].
    pub is_traced: bool,
}

/// Appends the envelope of `record` to `out`, with the span that publishes it if that is to be known.
pub fn encode(record: &Record<'_>, trace: Option<TraceContext>, out: &mut Vec<u8>) {
    let envelope = Envelope {
        v: VERSION,
        trace,
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
    let Routing { op, sequin_id, .. } = fields.routing()?;
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

/// Reads which span published the record, if that is known.
pub fn decode_trace(bytes: &[u8]) -> Option<TraceContext> {
    Fields::read(bytes, |fields| fields.deleted.is_some()).ok()?.trace
}

/// What was read of an envelope. By hand, because it is done twice for every record, and a derived reader would check
/// the names of the fields for being text, and read all of them to find the first two.
#[derive(Default)]
struct Fields<'a> {
    v: Option<u8>,
    trace: Option<TraceContext>,
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
            b"trace" if let Some((trace, behind)) = trace(rest) => (self.trace, *rest) = (Some(trace), behind),
            // One that a later release has added, or writes otherwise.
            _ => _ = rmp_serde::from_read::<_, IgnoredAny>(rest).ok()?,
        }
        Some(())
    }

    fn routing(&self) -> Result<Routing, EnvelopeError> {
        self.v.ok_or(EnvelopeError::Malformed("v"))?;
        let deleted = self.deleted.ok_or(EnvelopeError::Malformed("deleted"))?;
        let sequin_id = SequinId(self.sequin_id.ok_or(EnvelopeError::Malformed("sequin_id"))?);
        let op = if deleted { Op::Delete } else { Op::Upsert };
        Ok(Routing { op, sequin_id, is_traced: self.trace.is_some() })
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

/// And what lies behind it.
fn trace(mut rest: &[u8]) -> Option<(TraceContext, &[u8])> {
    let length = read_bin_len(&mut rest).ok()?;
    let trace = TraceContext::from_bytes(take(&mut rest, length)?)?;
    Some((trace, rest))
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
    use proptest::prelude::*;

    use super::*;

    const TRACE: TraceContext = TraceContext { trace_id: [0xa1; 16], span_id: [0xb2; 8], flags: 1 };

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
        traced(record, None)
    }

    fn traced(record: &Record<'_>, trace: Option<TraceContext>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(record, trace, &mut bytes);
        bytes
    }

    fn trace_context() -> impl Strategy<Value = TraceContext> {
        let not_zero = |id: &[u8]| id.iter().any(|&byte| byte != 0);
        let trace_id = any::<[u8; 16]>().prop_filter("no trace", move |id| not_zero(id));
        let span_id = any::<[u8; 8]>().prop_filter("no span", move |id| not_zero(id));
        (trace_id, span_id, any::<u8>()).prop_map(|(trace_id, span_id, flags)| TraceContext {
            trace_id,
            span_id,
            flags,
        })
    }

    proptest! {
        #[test]
        fn the_span_that_publishes_a_record_comes_back_and_one_without_costs_no_byte(
            trace in trace_context(),
            upstream_id in "\\PC{1,300}",
            payload in "\"\\w{0,300}\"",
            is_delete in any::<bool>(),
        ) {
            let op = if is_delete { Op::Delete } else { Op::Upsert };
            let record = Record { op, upstream_id: &upstream_id, ..record(&payload) };
            let (with, without) = (traced(&record, Some(trace)), encoded(&record));
            prop_assert_eq!(decode(&with).expect("an envelope"), record.clone());
            prop_assert_eq!(decode(&without).expect("an envelope"), record);
            prop_assert_eq!((decode_trace(&with), decode_trace(&without)), (Some(trace), None));
            let routed = [&with, &without].map(|bytes| decode_routing(bytes).expect("an envelope"));
            prop_assert_eq!(routed.map(|routing| routing.is_traced), [true, false]);
            prop_assert_eq!(Routing { is_traced: false, ..routed[0] }, routed[1]);
            // One field fewer, and nothing else is different: its name, how long it is, and 25 bytes.
            let field = [&[0xa5][..], b"trace", &[0xc4, 25]].concat();
            let version = 1 + [&[0xa1][..], b"v", &[VERSION]].concat().len();
            prop_assert_eq!(&with[version..version + field.len()], &field[..]);
            prop_assert_eq!(without[0] + 1, with[0]);
            prop_assert_eq!(&without[1..], &[&with[1..version], &with[version + field.len() + 25..]].concat()[..]);
        }
    }

    #[test]
    fn an_older_release_passes_over_the_trace_and_so_does_this_one_over_what_is_none() {
        let envelope = traced(&record("1"), Some(TRACE));
        let name = envelope.windows(5).position(|bytes| bytes == b"trace").expect("the field");
        // To an older release it is a field of a name that it does not know.
        let mut older = envelope.clone();
        older[name..name + 5].copy_from_slice(b"other");
        // A span of no trace, and one byte fewer.
        let (mut of_none, mut short) = (envelope.clone(), envelope);
        of_none[name + 7..][..16].fill(0);
        short[name + 6] = 24;
        short.remove(name + 7);
        for bytes in [older, of_none, short] {
            assert_eq!(decode(&bytes).expect("an envelope"), record("1"));
            assert!(!decode_routing(&bytes).expect("an envelope").is_traced);
            assert_eq!(decode_trace(&bytes), None);
        }
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
            added: (&'a str, [f64; 2], Option<bool>),
        }
        let added = rmp_serde::to_vec_named(&Added { added: ("t", [1.5, 2.5], None) }).expect("bytes");
        let envelope = encoded(&record("1"));
        // A map of one more field, the added one first: a map of up to 15 fields begins with one byte.
        let wider = [&[envelope[0] + 1], &added[1..], &envelope[1..]].concat();
        assert_eq!(decode(&wider).expect("an envelope"), record("1"));
        assert_eq!(decode_routing(&wider).expect("an envelope").sequin_id, record("1").sequin_id);
    }

    #[test]
    fn an_envelope_that_was_cut_or_damaged_anywhere_is_refused() {
        let record = Record { sync_external_id: None, ..record("\"payload\"") };
        let whole = traced(&record, Some(TRACE));
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
