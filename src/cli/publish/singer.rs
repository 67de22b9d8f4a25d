//! `--format singer`: what a Singer tap writes, published as the records of one sync.
//!
//! A stream is a collection, and its key properties make the `upstream_id`. The value of a STATE goes to standard output
//! once everything before it is acknowledged, so that what is there can be given to the tap when it is run again. A
//! version that is activated deletes what it has not brought again: the server remembers where each version began, so
//! that a version may go on over several runs.

mod message;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    str::FromStr,
};

use anyhow::{Context, bail};
use sequin_actors::model::SyncId;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use self::message::{Message, Properties};
use super::{batches::RecordKey, requests::Publisher};
use crate::cli::output::{note, print};

/// Whose records these are.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) provider: String,
    pub(super) sync: SyncId,
    pub(super) sync_external_id: Option<String>,
    pub(super) keys: Vec<StreamKeys>,
}

/// `STREAM=PROPERTY[,PROPERTY…]`: the keys of a stream whose tap gives none, or not the right ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamKeys {
    stream: String,
    properties: Vec<String>,
}

impl FromStr for StreamKeys {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stream, properties) = text.split_once('=').unwrap_or_default();
        let properties: Vec<String> = properties.split(',').map(ToOwned::to_owned).collect();
        if stream.is_empty() || properties.iter().any(String::is_empty) {
            return Err("takes STREAM=PROPERTY, or STREAM=PROPERTY,PROPERTY");
        }
        Ok(Self { stream: stream.into(), properties })
    }
}

/// What is known of a tap's streams while its messages are read.
pub(super) struct Singer {
    source: Source,
    streams: HashMap<String, Stream>,
    /// Values of STATE messages, each with the number of requests that have to be acknowledged before it is told.
    states: VecDeque<(u64, String)>,
    unknown: HashSet<String>,
}

#[derive(Default)]
struct Stream {
    keys: Vec<String>,
    version: Option<u64>,
    /// Records have come without a version, since the one that goes on began.
    has_unversioned: bool,
    /// Some came before it began, and would count as stale.
    is_incomplete: bool,
}

/// A record as it is published.
#[derive(Serialize)]
struct Record<'a> {
    op: &'a str,
    provider: &'a str,
    sync_id: SyncId,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_external_id: Option<&'a str>,
    collection_id: &'a str,
    upstream_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
}

/// What the server says of an activation.
#[derive(Deserialize)]
struct Activation {
    deleted: u64,
    done: bool,
}

impl Singer {
    pub(super) fn new(source: Source) -> Self {
        let stream =
            |keys: &StreamKeys| (keys.stream.clone(), Stream { keys: keys.properties.clone(), ..Stream::default() });
        let streams = source.keys.iter().map(stream).collect();
        Self { source, streams, states: VecDeque::new(), unknown: HashSet::new() }
    }

    /// Does what a line says.
    pub(super) async fn line(&mut self, number: u64, line: &[u8], publisher: &mut Publisher<'_>) -> anyhow::Result<()> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match Message::parse(line).map_err(anyhow::Error::msg)? {
            Message::Schema { stream, key_properties } => self.schema(&stream, key_properties),
            Message::Record { stream, record, version } => {
                match version {
                    Some(version) => self.begin(&stream, version, publisher).await?,
                    None => self.streams.entry(stream.to_string()).or_default().has_unversioned = true,
                }
                self.record(number, &stream, record, publisher).await?;
            }
            Message::State { value } => self.state(value, publisher),
            Message::ActivateVersion { stream, version } => {
                self.begin(&stream, version, publisher).await?;
                if self.streams.get(&*stream).is_some_and(|stream| stream.is_incomplete) {
                    note(format_args!(
                        "line {number}: {stream} has records without a version, so what version {version} lacks is not \
                         known: nothing is deleted"
                    ));
                } else {
                    self.activate(&stream, version, publisher).await?;
                }
            }
            Message::Batch { stream } => bail!(
                "stream {stream} comes as BATCH messages, which name files that are elsewhere: \
                 have the tap write RECORD messages (no batch_config)"
            ),
            Message::Other { kind } => {
                if self.unknown.insert(kind.clone()) {
                    note(format_args!("line {number}: {kind} messages are not known here, and passed over"));
                }
            }
        }
        Ok(())
    }

    fn schema(&mut self, stream: &str, key_properties: Vec<String>) {
        if self.source.keys.iter().all(|keys| keys.stream != stream) {
            self.streams.entry(stream.into()).or_default().keys = key_properties;
        }
    }

    async fn record(
        &self,
        number: u64,
        stream: &str,
        record: &RawValue,
        publisher: &mut Publisher<'_>,
    ) -> anyhow::Result<()> {
        let keys = self.streams.get(stream).map(|stream| &stream.keys[..]).unwrap_or_default();
        if keys.is_empty() {
            bail!(
                "stream {stream} has no key_properties, and a record without a key can't be told from others: \
                 name them with --key '{stream}=PROPERTY'"
            );
        }
        let properties = Properties::of(record).map_err(anyhow::Error::msg)?;
        let id = properties.id(keys);
        let upstream_id = id.map_err(|what| anyhow::anyhow!("a record of stream {stream} can't be known: {what}"))?;
        let is_deleted = properties.is_deleted();
        let published = Record {
            op: if is_deleted { "delete" } else { "upsert" },
            provider: &self.source.provider,
            sync_id: self.source.sync,
            sync_external_id: self.source.sync_external_id.as_deref(),
            collection_id: stream,
            upstream_id: &upstream_id,
            payload: (!is_deleted).then_some(record),
        };
        let json = serde_json::to_vec(&published).context("writing a record")?;
        let key = RecordKey::of(self.source.sync, stream, &upstream_id);
        publisher.record(number, &json, Some(key)).await
    }

    /// Only the last one of those that become true at the same moment is told.
    fn state(&mut self, value: &RawValue, publisher: &Publisher<'_>) {
        let after = publisher.number_of_requests();
        if self.states.back().is_some_and(|(last, _)| *last == after) {
            self.states.pop_back();
        }
        self.states.push_back((after, value.get().into()));
    }

    /// Tells the states that everything before is acknowledged.
    pub(super) fn tell_states(&mut self, publisher: &Publisher<'_>) -> anyhow::Result<()> {
        while self.states.front().is_some_and(|(after, _)| *after <= publisher.acknowledged()) {
            if let Some((_, value)) = self.states.pop_front() {
                // Whoever keeps the states has to know that there are no more: this is no success.
                print(value).map_err(|error| anyhow::anyhow!("writing a state: {error}"))?;
            }
        }
        Ok(())
    }

    /// Has the server remember where a version begins, unless it is the one that goes on.
    async fn begin(&mut self, stream: &str, version: u64, publisher: &mut Publisher<'_>) -> anyhow::Result<()> {
        let known = self.streams.get(stream).and_then(|stream| stream.version);
        if known == Some(version) {
            return Ok(());
        }
        // What is of the version before lies before it in the stream, too.
        publisher.settle().await?;
        let sync = self.source.sync.to_string();
        let (path, body) = (["syncs", &sync, "collections", stream, "version"], json!({"version": version}));
        let client = publisher.client();
        publisher.ask(|| client.put_json(&path, &body)).await?;
        let stream = self.streams.entry(stream.into()).or_default();
        stream.version = Some(version);
        stream.is_incomplete = std::mem::take(&mut stream.has_unversioned);
        Ok(())
    }

    async fn activate(&self, stream: &str, version: u64, publisher: &mut Publisher<'_>) -> anyhow::Result<()> {
        publisher.settle().await?;
        let sync = self.source.sync.to_string();
        let path = ["syncs", &sync, "collections", stream, "version", "activate"];
        let (client, body) = (publisher.client(), json!({"version": version}));
        let mut deleted = 0;
        loop {
            let activation: Activation = publisher.ask(|| client.post_json(&path, &body)).await?.read()?;
            deleted += activation.deleted;
            if activation.done {
                break;
            }
        }
        if deleted > 0 {
            note(format_args!("{stream}: {deleted} deleted that version {version} does not have"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_stream() {
        let keys = |stream: &str, properties: &[&str]| {
            let properties = properties.iter().map(ToString::to_string).collect();
            Ok(StreamKeys { stream: stream.into(), properties })
        };
        assert_eq!("users=id".parse(), keys("users", &["id"]));
        assert_eq!("public-users=org,id".parse(), keys("public-users", &["org", "id"]));
        for wrong in ["users", "=id", "users=", "users=a,,b"] {
            assert!(wrong.parse::<StreamKeys>().is_err(), "{wrong}");
        }
    }
}
