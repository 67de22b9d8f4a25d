//! A record: one version of one upstream object.

use chrono::{DateTime, Datelike, Utc};

use super::{FieldError, Provider, SequinId, SyncId};

/// What a version does to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The record is as this version says.
    Upsert,
    /// The record is gone.
    Delete,
}

/// One version of one record, borrowed from where its bytes are.
///
/// `payload` and `sync_metadata` are JSON texts, kept as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    /// What the version does.
    pub op: Op,
    /// The sync that the record belongs to.
    pub sync_id: SyncId,
    /// The publisher's own id of the sync.
    pub sync_external_id: Option<&'a str>,
    /// The publisher's notes on the sync: a JSON object.
    pub sync_metadata: &'a str,
    /// The kind of record: `contact`, `deal`, …
    pub collection_id: &'a str,
    /// The record's id upstream.
    pub upstream_id: &'a str,
    /// The record, and its row's primary key.
    pub sequin_id: SequinId,
    /// The record as the API gave it: any JSON value; `null` for a delete.
    pub payload: &'a str,
    /// When it was created upstream.
    pub upstream_created_at: DateTime<Utc>,
    /// When it was last changed upstream.
    pub upstream_updated_at: DateTime<Utc>,
}

/// What a publisher says of a record, before any of it is believed.
///
/// `payload` and `sync_metadata` are JSON texts that a JSON parser has accepted.
#[derive(Clone, Debug)]
pub struct RecordFields<'a> {
    /// `upsert` or `delete`.
    pub op: Op,
    /// The provider's slug.
    pub provider: &'a str,
    /// The sync.
    pub sync_id: SyncId,
    /// The publisher's own id of the sync.
    pub sync_external_id: Option<&'a str>,
    /// A JSON object; `{}` when absent.
    pub sync_metadata: Option<&'a str>,
    /// The kind of record.
    pub collection_id: &'a str,
    /// The record's id upstream.
    pub upstream_id: &'a str,
    /// Brought by the publisher, or derived.
    pub sequin_id: Option<SequinId>,
    /// Any JSON value; needed by an upsert.
    pub payload: Option<&'a str>,
    /// The time of publishing when absent.
    pub upstream_created_at: Option<DateTime<Utc>>,
    /// The time of publishing when absent.
    pub upstream_updated_at: Option<DateTime<Utc>>,
}

/// The longest `collection_id`, `upstream_id` and `sync_external_id`, in bytes.
const MAX_ID_BYTES: usize = 1024;

/// The longest payload, in bytes.
const MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

/// The longest sync metadata, in bytes: it comes with every record.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// The largest envelope of a record that was believed, in bytes: the payload, the metadata, the ids, and their names.
pub(crate) const MAX_ENVELOPE_BYTES: usize = MAX_PAYLOAD_BYTES + MAX_METADATA_BYTES + 3 * MAX_ID_BYTES + 1024;

impl<'a> RecordFields<'a> {
    /// Believes the fields, or says which of them are wrong.
    pub fn check(self, now: DateTime<Utc>) -> Result<(Provider, Record<'a>), Vec<FieldError>> {
        let mut errors = Vec::new();
        let provider = Provider::parse(self.provider).map_err(|error| errors.push(error)).ok();
        check_id("collection_id", self.collection_id, &mut errors);
        check_id("upstream_id", self.upstream_id, &mut errors);
        if let Some(external_id) = self.sync_external_id {
            check_id("sync_external_id", external_id, &mut errors);
        }
        let sync_metadata = self.sync_metadata.unwrap_or("{}");
        check_metadata("sync_metadata", sync_metadata, &mut errors);
        let payload = match (self.op, self.payload) {
            (Op::Delete, _) => "null",
            (Op::Upsert, Some(payload)) => payload,
            (Op::Upsert, None) => {
                errors.push(FieldError::new("payload", "is missing: an upsert takes any JSON value"));
                "null"
            }
        };
        check_length("payload", payload, MAX_PAYLOAD_BYTES, &mut errors);
        let upstream_created_at = self.upstream_created_at.unwrap_or(now);
        let upstream_updated_at = self.upstream_updated_at.unwrap_or(now);
        check_time("upstream_created_at", upstream_created_at, &mut errors);
        check_time("upstream_updated_at", upstream_updated_at, &mut errors);
        let Some(provider) = provider.filter(|_| errors.is_empty()) else {
            return Err(errors);
        };
        let sequin_id =
            self.sequin_id.unwrap_or_else(|| SequinId::derive(self.sync_id, self.collection_id, self.upstream_id));
        let record = Record {
            op: self.op,
            sync_id: self.sync_id,
            sync_external_id: self.sync_external_id,
            sync_metadata,
            collection_id: self.collection_id,
            upstream_id: self.upstream_id,
            sequin_id,
            payload,
            upstream_created_at,
            upstream_updated_at,
        };
        Ok((provider, record))
    }
}

pub(super) fn check_metadata(field: &str, metadata: &str, errors: &mut Vec<FieldError>) {
    if !metadata.starts_with('{') {
        errors.push(FieldError::new(field, "takes a JSON object"));
    }
    check_length(field, metadata, MAX_METADATA_BYTES, errors);
}

pub(super) fn check_id(field: &str, value: &str, errors: &mut Vec<FieldError>) {
    if value.is_empty() || value.len() > MAX_ID_BYTES {
        errors.push(FieldError::new(field, format!("takes 1 to {MAX_ID_BYTES} bytes of text, not {}", value.len())));
    }
}

fn check_length(field: &str, text: &str, most: usize, errors: &mut Vec<FieldError>) {
    if text.len() > most {
        errors.push(FieldError::new(field, format!("takes at most {most} bytes, not {}", text.len())));
    }
}

/// Years 1 to 9999: what RFC 3339 can write, and well within what `timestamptz` holds.
fn check_time(field: &str, time: DateTime<Utc>, errors: &mut Vec<FieldError>) {
    if !(1..=9999).contains(&time.year()) {
        errors.push(FieldError::new(field, "takes an RFC 3339 time in the years 1 to 9999"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact() -> RecordFields<'static> {
        RecordFields {
            op: Op::Upsert,
            provider: "hubspot",
            sync_id: SyncId(uuid::Uuid::from_u128(1)),
            sync_external_id: None,
            sync_metadata: None,
            collection_id: "contact",
            upstream_id: "101",
            sequin_id: None,
            payload: Some(r#"{"email":"a@example.com"}"#),
            upstream_created_at: None,
            upstream_updated_at: None,
        }
    }

    fn wrong_fields(fields: RecordFields<'_>) -> Vec<String> {
        let errors = fields.check(Utc::now()).expect_err("a wrong field");
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn absent_fields_have_the_defaults_of_the_contract() {
        let now = Utc::now();
        let (provider, record) = contact().check(now).expect("a good record");
        assert_eq!(provider.as_str(), "hubspot");
        assert_eq!(record.sync_metadata, "{}");
        assert_eq!(record.upstream_created_at, now);
        assert_eq!(record.sequin_id, SequinId::derive(record.sync_id, "contact", "101"));
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let long = "x".repeat(1025);
        let fields = RecordFields {
            provider: "Hub Spot",
            collection_id: "",
            upstream_id: &long,
            sync_metadata: Some("[1]"),
            payload: None,
            ..contact()
        };
        let expected = ["provider", "collection_id", "upstream_id", "sync_metadata", "payload"];
        assert_eq!(wrong_fields(fields), expected);
    }

    #[test]
    fn a_delete_needs_no_payload_and_keeps_none() {
        let fields = RecordFields { op: Op::Delete, ..contact() };
        let (_, record) = fields.check(Utc::now()).expect("a good record");
        assert_eq!(record.payload, "null");
    }
}
