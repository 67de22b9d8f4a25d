//! Where something belongs in a trace, as it travels with a record.

use serde::{Serialize, Serializer};

/// What other spans need to be linked to the one of this: its W3C trace context, without what vendors add
/// (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span.
    pub span_id: [u8; 8],
    /// The trace's flags; bit 0 says that it is sampled.
    pub flags: u8,
}

/// As binary: the ids, and then the flags.
const BYTES: usize = 25;

impl TraceContext {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24] = self.flags;
        bytes
    }

    /// `None` if that is no trace context; one of no trace or no span is none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk::<16>()?;
        let (span_id, rest) = rest.split_first_chunk::<8>()?;
        let &[flags] = rest else { return None };
        let is_valid = *trace_id != [0; 16] && *span_id != [0; 8];
        is_valid.then_some(Self { trace_id: *trace_id, span_id: *span_id, flags })
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}
