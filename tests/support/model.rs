//! The oracle: what a table must hold, from the same operations applied to a map.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
};

use chrono::Utc;
use sequin_actors::model::{Op, Provider, Publication, RecordFields, SequinId, SyncId};
use serde_json::{Value, json};
use uuid::Uuid;

/// The provider of most tests.
pub(crate) const HUBSPOT: &str = "hubspot";

/// One version of a record, to be published.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) provider: &'static str,
    pub(crate) sync: Uuid,
    pub(crate) collection: String,
    pub(crate) upstream_id: String,
    /// `None` deletes the record.
    pub(crate) payload: Option<Value>,
}

/// A record by what its publisher knows it by: sync, collection and upstream id.
pub(crate) type Key = (Uuid, String, String);

/// A row of a table, as far as the model tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) sequin_id: Uuid,
    pub(crate) payload: Value,
    pub(crate) updated_idx: i64,
}

/// The rows of a table.
pub(crate) type Table = BTreeMap<Key, Row>;

/// All records of all providers, as they must come out.
#[derive(Default)]
pub(crate) struct Model {
    last_idx: HashMap<&'static str, i64>,
    last_idx_of_sync: HashMap<Uuid, i64>,
    records: HashMap<&'static str, Table>,
}

/// The id of a sync, by number.
pub(crate) fn sync(number: u128) -> Uuid {
    Uuid::from_u128(0x5e9_0000_0000_4000_8000_0000_0000_0000 + number)
}

/// A contact of a sync of HubSpot.
pub(crate) fn contact(sync: Uuid, upstream_id: impl Display, payload: Value) -> Version {
    let payload = Some(payload);
    Version { provider: HUBSPOT, sync, collection: "contact".into(), upstream_id: upstream_id.to_string(), payload }
}

/// The deletion of a contact of a sync of HubSpot.
pub(crate) fn no_contact(sync: Uuid, upstream_id: impl Display) -> Version {
    Version { payload: None, ..contact(sync, upstream_id, Value::Null) }
}

impl Version {
    /// The record as it is published over HTTP.
    pub(crate) fn to_json(&self) -> Value {
        let mut record = json!({
            "op": if self.payload.is_some() { "upsert" } else { "delete" }, "provider": self.provider,
            "sync_id": self.sync, "collection_id": self.collection, "upstream_id": self.upstream_id,
        });
        if let Some(payload) = &self.payload {
            record["payload"] = payload.clone();
        }
        record
    }

    fn key(&self) -> Key {
        (self.sync, self.collection.clone(), self.upstream_id.clone())
    }
}

/// The versions as they are published over HTTP.
pub(crate) fn lines(versions: &[Version]) -> String {
    versions.iter().flat_map(|version| [version.to_json().to_string(), "\n".into()]).collect()
}

/// The versions as they are published to the stream itself.
pub(crate) fn publication(versions: &[Version]) -> Publication {
    let mut publication = Publication::default();
    for version in versions {
        let payload = version.payload.as_ref().map(Value::to_string);
        let fields = RecordFields {
            op: if payload.is_some() { Op::Upsert } else { Op::Delete },
            provider: version.provider,
            sync_id: SyncId(version.sync),
            sync_external_id: None,
            sync_metadata: None,
            collection_id: &version.collection,
            upstream_id: &version.upstream_id,
            sequin_id: None,
            payload: payload.as_deref(),
            upstream_created_at: None,
            upstream_updated_at: None,
        };
        let (provider, record) = fields.check(Utc::now()).expect("a good record");
        publication.push(&provider, &record).expect("a sync of this provider");
    }
    publication
}

impl Model {
    /// Publishes the versions to the map; returns the position of the last one.
    pub(crate) fn publish(&mut self, versions: &[Version]) -> i64 {
        let mut last = 0;
        for version in versions {
            let next = self.last_idx.entry(version.provider).or_default();
            *next += 1;
            last = *next;
            self.last_idx_of_sync.insert(version.sync, last);
            let records = self.records.entry(version.provider).or_default();
            let Some(payload) = version.payload.clone() else {
                records.remove(&version.key());
                continue;
            };
            let sequin_id = SequinId::derive(SyncId(version.sync), &version.collection, &version.upstream_id).0;
            records.insert(version.key(), Row { sequin_id, payload, updated_idx: last });
        }
        last
    }

    /// What the table of a consumer of this provider must hold.
    pub(crate) fn of_provider(&self, provider: &str) -> Table {
        self.records.get(provider).cloned().unwrap_or_default()
    }

    /// What the table of a consumer of this sync must hold.
    pub(crate) fn of_sync(&self, sync: Uuid) -> Table {
        let records = self.records.values().flatten().filter(|((of, ..), _)| *of == sync);
        records.map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    /// The position of the provider's last version.
    pub(crate) fn last_idx(&self, provider: &str) -> i64 {
        self.last_idx.get(provider).copied().unwrap_or_default()
    }

    /// The position of the sync's last version.
    pub(crate) fn last_idx_of_sync(&self, sync: Uuid) -> i64 {
        self.last_idx_of_sync.get(&sync).copied().unwrap_or_default()
    }
}

/// `Err` says how many rows are not as they must be, and shows some of them.
pub(crate) fn compare(found: &Table, expected: &Table) -> Result<(), String> {
    const SHOWN: usize = 3;
    let keys = found.keys().chain(expected.keys().filter(|key| !found.contains_key(*key)));
    let wrong: Vec<&Key> = keys.filter(|key| found.get(*key) != expected.get(*key)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let show = |key: &&Key| format!("\n  {key:?}: is {:?}, must be {:?}", found.get(*key), expected.get(*key));
    let shown: String = wrong.iter().take(SHOWN).map(show).collect();
    let (wrong, found, expected) = (wrong.len(), found.len(), expected.len());
    Err(format!("of {found} rows, which must be {expected}, {wrong} are not as they must be:{shown}"))
}

/// A provider that exists.
pub(crate) fn provider(slug: &str) -> Provider {
    Provider::parse(slug).expect("a slug")
}
