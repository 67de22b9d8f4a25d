//! Encoding rows for the database: the payload's bytes go from the envelope into the protocol as they are.

use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Utc};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::catalog::{COLUMNS, FROM_RECORD};
use crate::model::{Idx, Record};

/// What begins a binary COPY: its signature, no flags, no extension
/// (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format").
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends a binary COPY.
const COPY_TRAILER: i16 = -1;

/// The version of jsonb's binary form: a byte before the text.
const JSONB_VERSION: u8 = 1;

/// PostgreSQL's times count from 2000-01-01: this many microseconds after 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

pub(super) fn copy_header(out: &mut BytesMut) {
    out.put_slice(COPY_HEADER);
}

pub(super) fn copy_trailer(out: &mut BytesMut) {
    out.put_i16(COPY_TRAILER);
}

/// Appends a row of binary COPY: the columns that come from the record, in their order, and those that say when it was
/// written, if that is known.
pub fn copy_row(record: &Record<'_>, idx: Idx, written_at: Option<DateTime<Utc>>, out: &mut BytesMut) {
    let columns = if written_at.is_some() { COLUMNS.len() } else { FROM_RECORD };
    out.put_i16(i16::try_from(columns).expect("a dozen"));
    field(out, record.sequin_id.0.as_bytes());
    field(out, record.sync_id.0.as_bytes());
    match record.sync_external_id {
        Some(external_id) => field(out, external_id.as_bytes()),
        None => out.put_i32(-1),
    }
    jsonb(out, record.sync_metadata);
    field(out, record.collection_id.as_bytes());
    field(out, record.upstream_id.as_bytes());
    jsonb(out, record.payload);
    field(out, &idx.as_bigint().to_be_bytes());
    time(out, record.upstream_updated_at);
    time(out, record.upstream_created_at);
    if let Some(written_at) = written_at {
        time(out, written_at);
        time(out, written_at);
    }
}

fn field(out: &mut BytesMut, bytes: &[u8]) {
    length(out, bytes.len());
    out.put_slice(bytes);
}

fn jsonb(out: &mut BytesMut, text: &str) {
    length(out, text.len() + 1);
    out.put_u8(JSONB_VERSION);
    out.put_slice(text.as_bytes());
}

fn time(out: &mut BytesMut, time: DateTime<Utc>) {
    field(out, &(time.timestamp_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());
}

fn length(out: &mut BytesMut, length: usize) {
    out.put_i32(i32::try_from(length).expect("a record is checked at the door to be far below 2 GiB"));
}

/// A JSON text as a jsonb parameter.
#[derive(Debug)]
pub(super) struct Jsonb<'a>(pub(super) &'a str);

impl ToSql for Jsonb<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_u8(JSONB_VERSION);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}
