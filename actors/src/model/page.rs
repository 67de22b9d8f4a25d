//! A page: what one read of the stream returns, in one piece of memory.

use std::ops::Range;

use chrono::{DateTime, Utc};

use super::Idx;

/// Consecutive records of a stream, in order of their index.
#[derive(Debug, Default)]
pub struct Page {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    read_to: Idx,
    published_at: Option<DateTime<Utc>>,
}

/// One version of a record in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position in its provider's stream.
    pub idx: Idx,
    envelope: Range<usize>,
}

impl Page {
    /// A page that has read up to `read_to`, and found nothing so far, with room for so many bytes of envelopes.
    pub fn with_capacity(read_to: Idx, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), entries: Vec::new(), read_to, published_at: None }
    }

    /// Gives back the memory that it has taken ahead of what came.
    pub fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Adds the next version.
    pub fn push(&mut self, idx: Idx, envelope: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(envelope);
        let envelope = start..self.bytes.len();
        self.entries.push(Entry { idx, envelope });
        self.read_to = self.read_to.max(idx);
    }

    /// Says when its first version was published, which is its oldest.
    pub fn was_published(&mut self, at: DateTime<Utc>) {
        self.published_at = Some(at);
    }

    /// When its oldest version was published, if that is known.
    pub fn published_at(&self) -> Option<DateTime<Utc>> {
        self.published_at
    }

    /// Says that nothing else that matches lies up to `idx`.
    pub fn extend_to(&mut self, idx: Idx) {
        self.read_to = self.read_to.max(idx);
    }

    /// Every matching version up to this position is in this page or before it.
    pub fn read_to(&self) -> Idx {
        self.read_to
    }

    /// The versions, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The envelope of one of this page's entries.
    pub fn envelope(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.envelope.clone()]
    }

    /// How much memory the envelopes take, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}
