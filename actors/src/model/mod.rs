//! The plain types that everything else speaks in: no I/O, no actors, no database.

mod alerting;
mod audit;
mod checkpoint;
mod collection;
mod consumer;
mod envelope;
mod idempotency;
mod ids;
mod incident;
mod networks;
mod notice;
mod ownership;
mod page;
mod publication;
mod quarantine;
mod record;
mod secret;
mod silence;
mod status;
mod sync;
mod target;
mod token;
mod trace;

pub use alerting::{AlertingSettings, Webhook, WebhookFormat};
pub use audit::{AuditEntry, AuditedToken};
pub use checkpoint::{Astray, Backfill, Checkpoint, RowAhead, TableId};
pub use collection::{CollectionKey, CollectionVersion};
pub use consumer::{Consumer, Desired, Filter, Rewind, TableName, UnsupportedText};
pub use envelope::{EnvelopeError, Routing, decode, decode_routing, decode_trace, encode};
pub use idempotency::IdempotencyKey;
pub use ids::{
    AuditId, ConsumerId, Idx, IncidentId, NoticeId, Provider, SequinId, SessionId, StreamId, SyncId, TargetId, TokenId,
};
pub use incident::{Behind, Incident, IncidentKind, Resolution, Subject};
pub(crate) use networks::parse_network;
pub use networks::{DeniedNetworks, NetworkError};
pub use notice::{Delivery, Destination, Notice, NoticeEvent};
pub use ownership::{Epoch, Ownership, Phase, Revision, Session};
pub use page::{Entry, Page};
pub use publication::{Envelopes, Outgoing, Publication, SyncDescription, SyncSeen};
pub use quarantine::{QuarantineKey, Quarantined};
pub(crate) use record::MAX_ENVELOPE_BYTES;
pub use record::{Op, Record, RecordFields};
pub use secret::Secret;
pub use silence::{CONSUMER_SILENT, TARGET_SILENT, silence_on_consumer, silence_on_target};
pub use status::{Applied, ConsumerStatus, Lag, Reason, RunState, Severity, TargetState, TargetStatus};
pub use sync::{Sync, SyncSettings};
pub(crate) use target::is_plain_name;
pub use target::{Bastion, ChannelBinding, Connection, Limits, Target, Tls, TlsMode};
pub use token::{Role, SETTINGS_TOKEN, Token, TokenHash};
pub use trace::TraceContext;

/// A JSON object that customers attach to what they make, kept as they gave it.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// A value that is not what its field takes: which field, and what it takes instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The path of the field, as the outside writes it (`connection.host`).
    pub field: String,
    /// What the field takes, in words for the person who filled it in.
    pub message: String,
}

impl FieldError {
    /// Says that `field` is wrong, and why.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Checks a name that people address things by: 1 to 100 letters, digits, `.`, `_` or `-`, beginning with a letter or digit.
///
/// A name that reads as a uuid is refused, because resources are addressed by id or by name.
pub fn check_name(field: &str, name: &str) -> Result<(), FieldError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let well_formed = (1..=100).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !well_formed {
        return Err(FieldError::new(
            field,
            "takes 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        ));
    }
    if uuid::Uuid::parse_str(name).is_ok() {
        return Err(FieldError::new(field, "can't be a uuid: resources are addressed by id or by name"));
    }
    Ok(())
}
