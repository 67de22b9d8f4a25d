//! Records of an input, put together into requests.

use std::{
    borrow::Cow,
    collections::HashSet,
    io::{self, BufRead, Read},
};

use sequin_actors::model::{SequinId, SyncId};
use serde::Deserialize;
use uuid::Uuid;

/// The size of a request that is worth its way.
const BATCH_BYTES: usize = 1024 * 1024;

/// The most records of a request: what the stream takes in one transaction without others noticing.
const BATCH_RECORDS: usize = 2000;

/// The longest line, in bytes: more than any record may have.
const LINE_BYTES: u64 = 32 * 1024 * 1024;

/// What makes two versions those of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RecordKey(SyncId, SequinId);

impl RecordKey {
    pub(super) fn of(sync: SyncId, collection_id: &str, upstream_id: &str) -> Self {
        Self(sync, SequinId::derive(sync, collection_id, upstream_id))
    }

    /// `None` if the line is no record, which the server says more clearly.
    pub(super) fn of_line(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(rename = "sync_id")]
            sync: Uuid,
            #[serde(rename = "collection_id", borrow)]
            collection: Cow<'a, str>,
            #[serde(rename = "upstream_id", borrow)]
            upstream: Cow<'a, str>,
            #[serde(rename = "sequin_id", default)]
            given: Option<Uuid>,
        }
        let Fields { sync, collection, upstream, given } = serde_json::from_slice(line).ok()?;
        let sync = SyncId(sync);
        Some(given.map_or_else(|| Self::of(sync, &collection, &upstream), |id| Self(sync, SequinId(id))))
    }
}

/// What one request publishes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Lines of JSON, each with its end.
    pub(super) bytes: Vec<u8>,
    /// Which line of the input each of them comes from, from 1.
    pub(super) numbers: Vec<u64>,
    /// How many bytes of the input it stands for.
    pub(super) input_bytes: u64,
    records: HashSet<RecordKey>,
}

impl Batch {
    pub(super) fn push(&mut self, number: u64, line: &[u8], record: Option<RecordKey>) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.numbers.push(number);
        self.records.extend(record);
    }

    /// The size is exceeded by the last line at most.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.numbers.len() >= BATCH_RECORDS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Its records, which have to come before others' newer versions of them.
    pub(super) fn take_records(&mut self) -> HashSet<RecordKey> {
        std::mem::take(&mut self.records)
    }

    pub(super) fn has_any_of(&self, records: &HashSet<RecordKey>) -> bool {
        !self.records.is_disjoint(records)
    }
}

/// The lines of a reader, without their ends, none of them endless.
pub(in crate::cli) struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(in crate::cli) fn of(reader: R) -> Self {
        Self { reader, number: 0 }
    }

    /// What the lines are read from.
    pub(super) fn reader(&self) -> &R {
        &self.reader
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.number += 1;
        let mut line = Vec::new();
        match self.reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Err(error) => return Some(Err(error)),
            Ok(0) => return None,
            Ok(_) => (),
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 == LINE_BYTES {
            let what = format!("line {} is longer than {LINE_BYTES} bytes", self.number);
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Some(Ok(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: &str = "0dea6e4e-64b9-4b1c-ac03-2e6b25795c18";

    fn key(line: &str) -> Option<RecordKey> {
        RecordKey::of_line(line.as_bytes())
    }

    #[test]
    fn a_record_is_known_by_its_ids_however_they_are_written() {
        let plain = format!(r#"{{"sync_id":"{SYNC}","collection_id":"a","upstream_id":"1","payload":[1]}}"#);
        let escaped = format!(r#"{{"op":"delete","upstream_id":"\u0031","collection_id":"a","sync_id":"{SYNC}"}}"#);
        let RecordKey(_, derived) = key(&plain).expect("a record");
        let given = format!(r#"{{"sync_id":"{SYNC}","collection_id":"b","upstream_id":"2","sequin_id":"{derived}"}}"#);
        assert_eq!([key(&plain), key(&plain)], [key(&escaped), key(&given)]);
        assert_ne!(key(&plain), key(&plain.replace("\"1\"", "\"2\"")));
        for wrong in ["", "{}", "7", &plain.replace(SYNC, "acme")] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_batch_is_full_with_the_line_that_fills_it() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        batch.push(1, &vec![b'x'; BATCH_BYTES - 2], None);
        assert!(!batch.is_full() && !batch.is_empty());
        batch.push(2, b"", None);
        assert!(batch.is_full());
        let mut many = Batch::default();
        (1..=2000).for_each(|number| many.push(number, b"", None));
        assert!(many.is_full());
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let lines = |text: &str| Lines::of(text.as_bytes()).map(|line| line.expect("a line")).collect::<Vec<_>>();
        assert_eq!(lines("a\nb"), [b"a", b"b"]);
        assert_eq!(lines("a\n\n"), [&b"a"[..], b""]);
        assert!(lines("").is_empty());
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut lines = Lines::of(io::BufReader::new(io::repeat(b'x')));
        let error = lines.next().expect("a line").expect_err("too long");
        assert!(error.to_string().contains("line 1 is longer"), "{error}");
    }
}
