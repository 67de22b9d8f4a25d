//! Removal: of deleted syncs, and of tombstones that everybody has passed.
//!
//! Tombstones and collections go up to a position that was seen: a version that is published meanwhile stays. A whole
//! sync goes with all that it has by then.

use super::{
    super::passed::Passed,
    messages::{Stored, TOMBSTONE, last, purge},
    names::{Names, record_of},
    registry::Registry,
    several::several,
};
use crate::{
    jetstream::{Arrived, Cursor, JetStream, JetStreamError},
    model::{Filter, Idx, Provider, SyncId, decode},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;

/// How many records are removed at a time.
const AT_A_TIME: usize = 64;

/// How much of a stream is looked through at a time.
const SOME: (usize, usize) = (1000, 1 << 20);

/// Deletes the streams of all providers, those that the registry does not know included.
pub(super) async fn remove_all(connection: &JetStream) -> Result<(), JetStreamError> {
    #[derive(Deserialize)]
    struct Answer {
        streams: Option<Vec<String>>,
    }
    let (prefix, subject) = Names::of_all(connection);
    loop {
        // The first of them that are left.
        let names: Answer = connection.ask_patiently("STREAM.NAMES", &json!({ "subject": subject })).await?;
        let ours: Vec<_> = names.streams.into_iter().flatten().filter(|name| name.starts_with(&prefix)).collect();
        if ours.is_empty() {
            return Ok(());
        }
        for stream in ours {
            match connection.ask_patiently::<IgnoredAny>(&format!("STREAM.DELETE.{stream}"), &()).await {
                Err(error) if !error.is_no_stream() => return Err(error),
                _ => {}
            }
        }
    }
}

pub(super) async fn purge_sync(
    connection: &JetStream,
    registry: &Registry,
    sync: SyncId,
    collection: Option<&str>,
) -> Result<u64, JetStreamError> {
    let Some(entry) = registry.sync(sync).await? else {
        return Ok(0);
    };
    let names = Names::of(connection, &entry.provider);
    if let Some(collection) = collection {
        return purge_collection(connection, &names, sync, collection).await;
    }
    let purged = purge(connection, &names.stream(), &names.records_of(sync), None).await?;
    purge(connection, &names.stream(), &names.tombstones_of(sync), None).await?;
    Ok(purged)
}

async fn purge_collection(
    connection: &JetStream,
    names: &Names,
    sync: SyncId,
    collection: &str,
) -> Result<u64, JetStreamError> {
    let is_of = |message: &Arrived| decode(&message.payload).is_ok_and(|record| record.collection_id == collection);
    let mut cursor = Cursor::new(connection.clone(), names.stream(), names.records_of(sync), 0);
    let mut removed = 0;
    loop {
        let some = take_some(&mut cursor).await?;
        if some.is_empty() {
            if cursor.is_done().await? {
                break;
            }
            cursor.ready().await?;
        }
        let of_collection = some.iter().filter(|message| is_of(message));
        let removals = of_collection.map(|message| remove(connection, names, message));
        let counts = several(removals, AT_A_TIME).await?;
        removed += counts.iter().sum::<u64>();
    }
    cursor.close().await;
    Ok(removed)
}

/// Removes a version, and its entry in the index if it has one.
async fn remove(connection: &JetStream, names: &Names, message: &Arrived) -> Result<u64, JetStreamError> {
    let Some((sync, record)) = record_of(&message.subject) else { return Ok(0) };
    let before = Some(message.sequence + 1);
    if message.headers.as_ref().is_some_and(|headers| headers.get(TOMBSTONE).is_some()) {
        purge(connection, &names.stream(), &names.tombstone(sync, record), before).await?;
    }
    purge(connection, &names.stream(), &message.subject, before).await
}

/// What comes next, and nothing at the end.
async fn take_some(cursor: &mut Cursor) -> Result<Vec<Arrived>, JetStreamError> {
    cursor.fetch(SOME.0, SOME.1).await?;
    Ok(std::iter::from_fn(|| cursor.take()).collect())
}

/// Goes through the index, from the oldest entry on.
pub(super) async fn drop_tombstones(
    connection: &JetStream,
    provider: &Provider,
    before: DateTime<Utc>,
    passed: &[(Filter, Idx)],
) -> Result<u64, JetStreamError> {
    let passed = Passed::by(passed);
    let names = Names::of(connection, provider);
    let mut cursor = Cursor::new(connection.clone(), names.stream(), names.tombstones(), 0);
    let mut dropped = 0;
    loop {
        let some = take_some(&mut cursor).await?;
        let old: Vec<&Arrived> = some.iter().take_while(|entry| entry.published_at < before).collect();
        let walk = Walk { connection, names: &names, provider, before, passed: &passed };
        let outcomes = several(old.iter().map(|entry| walk.drop_one(entry)), AT_A_TIME).await?;
        dropped += outcomes.iter().filter(|&&is_dropped| is_dropped).count() as u64;
        if some.is_empty() || old.len() < some.len() {
            break;
        }
    }
    cursor.close().await;
    Ok(dropped)
}

/// One walk through the index of a provider.
struct Walk<'a> {
    connection: &'a JetStream,
    names: &'a Names,
    provider: &'a Provider,
    before: DateTime<Utc>,
    passed: &'a Passed,
}

impl Walk<'_> {
    /// Drops the tombstone of an entry, if it is one that nobody needs, and the entry if there is none.
    async fn drop_one(&self, entry: &Arrived) -> Result<bool, JetStreamError> {
        let Some((sync, record)) = record_of(&entry.subject) else { return Ok(false) };
        let (stream, subject) = (self.names.stream(), self.names.record(sync, record));
        let tombstone = last(self.connection, &stream, &subject).await?.filter(Stored::is_tombstone);
        if let Some(tombstone) = &tombstone {
            let is_passed = self.passed.is_beyond(self.provider, sync, Idx(tombstone.sequence));
            if tombstone.time >= self.before || !is_passed {
                return Ok(false);
            }
            purge(self.connection, &stream, &subject, Some(tombstone.sequence + 1)).await?;
        }
        // Last: what is begun here and breaks off is found again.
        purge(self.connection, &stream, &entry.subject, Some(entry.sequence + 1)).await?;
        Ok(tombstone.is_some())
    }
}
