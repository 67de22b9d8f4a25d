//! The bucket on the server: the stream below it, what is asked of it, and whether it is still the one that was opened.
//!
//! What is read is read from the stream's leader (`STREAM.MSG.GET`, `STREAM.INFO`), never from a replica that may not know
//! of a write yet. A leader that was deposed and has not heard of it answers for some seconds too, with what it had, so
//! whoever was told that something is written finds it by way of any node, but then. A write on top of it is refused.

use std::{
    collections::HashMap,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap, HeaderValue,
    header::NATS_MESSAGE_TTL,
    jetstream::{
        ErrorCode,
        message::StreamMessage,
        stream::{Config, Info, RawMessage},
    },
};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    failure::{Failure, Patience},
    keys,
};
use crate::{
    jetstream::{JetStream, JetStreamError, MOST_CONSUMERS},
    store::StoreError,
};

/// What the stream's metadata calls the identity of the bucket.
const IDENTITY: &str = "sequin-control";

/// For how long a write that is sent again is known for the same: longer than any is tried.
const DUPLICATES: Duration = Duration::from_secs(60);

/// For how long it has to be said that the bucket is gone. Servers that have just begun may not know all they have.
const SURE_AFTER: Duration = Duration::from_secs(10);

/// The header that says what was done with a key, and what it says of one that is there no more.
const OPERATION: &str = "KV-Operation";
const GONE: [&str; 2] = ["DEL", "PURGE"];

/// The header of a marker that the server has put there by itself.
const MARKED_BY_SERVER: &str = "Nats-Marker-Reason";

/// A key-value bucket that keeps the last write of each key.
pub(super) struct Bucket {
    pub(super) connection: JetStream,
    /// The stream below it.
    pub(super) stream: String,
    /// What its subjects begin with.
    pub(super) root: String,
    /// What tells it from every other that had, or will have, its name.
    identity: String,
    /// For how long it can be seen that a key was deleted.
    pub(super) markers_last: Duration,
    /// The highest sequence that it is known to have given.
    reached: AtomicU64,
    /// Since when it seems to be gone.
    missing_since: Mutex<Option<Instant>>,
    /// Why it is gone for good.
    lost: OnceLock<String>,
}

/// The last write of a key: a value, or a marker that the key was deleted.
pub(super) struct Last {
    pub(super) sequence: u64,
    pub(super) value: Option<Bytes>,
}

impl Bucket {
    /// Opens the bucket, and makes it if it is not there.
    pub(super) async fn open(connection: JetStream, markers_last: Duration) -> Result<Self, JetStreamError> {
        let name = format!("{}-control", connection.cluster());
        let (stream, root) = (format!("KV_{name}"), format!("$KV.{name}"));
        let info = open_stream(&connection, &stream, &root).await?;
        let identity = info.config.metadata.get(IDENTITY).cloned();
        let foreign = || {
            let advice = "remove it, or give the cluster another name";
            JetStreamError::Settings(format!("the NATS stream {stream} was not made by sequin: {advice}"))
        };
        Ok(Self {
            identity: identity.ok_or_else(foreign)?,
            connection,
            stream,
            root,
            markers_last,
            reached: info.state.last_sequence.into(),
            missing_since: Mutex::default(),
            lost: OnceLock::new(),
        })
    }

    /// Where a key lies.
    pub(super) fn subject(&self, key: &str) -> String {
        keys::subject_of(&self.root, key)
    }

    /// Makes a message the marker of a deleted key.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(OPERATION, GONE[0]);
        headers.insert(NATS_MESSAGE_TTL, self.markers_last.as_secs().to_string());
    }

    /// The last write of a subject, or of all that a filter passes.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Last>, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            message: RawMessage,
        }
        let asked = self.ask::<Answer>("STREAM.MSG.GET", &json!({ "last_by_subj": subject })).await;
        let message = match asked {
            Ok(answer) => StreamMessage::try_from(answer.message).map_err(Failure::Passing)?,
            Err(error) if error.is_no_message() => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        self.has_reached(message.sequence);
        Ok(Some(Last { sequence: message.sequence, value: value_of(message.payload, Some(&message.headers)) }))
    }

    /// The keys that begin with `prefix`, in no order, those that were deleted not long ago included.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            total: usize,
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: Option<HashMap<String, u64>>,
        }
        let (filter, mut keys, mut offset) = (keys::filter_of(&self.root, prefix), Vec::new(), 0);
        loop {
            let with = json!({ "subjects_filter": filter, "offset": offset });
            let answer: Answer = self.ask("STREAM.INFO", &with).await.map_err(|error| self.failed(error))?;
            let subjects = answer.state.subjects.unwrap_or_default();
            offset += subjects.len();
            let page = subjects.keys().filter_map(|subject| keys::key_of(&self.root, subject));
            keys.extend(page.filter(|key| key.starts_with(prefix)));
            if subjects.is_empty() || offset >= answer.total {
                return Ok(keys);
            }
        }
    }

    /// Writes a message, and returns its sequence. With the same headers again it is known for the same message.
    pub(super) async fn publish(&self, subject: &str, headers: &HeaderMap, value: &Bytes) -> Result<u64, Failure> {
        let sequence = self.connection.write(subject, headers.clone(), value.clone()).await?;
        self.has_reached(sequence);
        Ok(sequence)
    }

    /// Fails if the bucket is not there any more, or is another one than was opened, or not all of it is there.
    pub(super) async fn check(&self) -> Result<(), Failure> {
        // Before the question: what is acknowledged meanwhile may be missing in the answer.
        let reached = self.reached.load(Ordering::Relaxed);
        let info: Info = match self.ask("STREAM.INFO", &json!({})).await {
            Ok(info) => info,
            Err(error) => return Err(self.failed(error)),
        };
        if info.config.metadata.get(IDENTITY) != Some(&self.identity) {
            return Err(self.lose(format!("the NATS stream {} was replaced by another one", self.stream)));
        }
        if info.state.last_sequence < reached {
            let went_back = format!("went back from {reached} to {}", info.state.last_sequence);
            return Err(self.seems_lost(format!("the NATS stream {} {went_back}", self.stream)));
        }
        *self.missing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Fails if the bucket is known to be lost.
    pub(super) fn is_there(&self) -> Result<(), StoreError> {
        self.lost.get().map_or(Ok(()), |why| Err(StoreError::Lost(why.clone().into())))
    }

    pub(super) fn has_reached(&self, sequence: u64) {
        self.reached.fetch_max(sequence, Ordering::Relaxed);
    }

    async fn ask<T: DeserializeOwned>(&self, what: &str, with: &serde_json::Value) -> Result<T, JetStreamError> {
        self.connection.ask(&format!("{what}.{}", self.stream), with).await
    }

    pub(super) fn failed(&self, error: JetStreamError) -> Failure {
        match Failure::from(error) {
            Failure::NoStream(_) => self.seems_lost(format!("the NATS stream {} is not there any more", self.stream)),
            other => other,
        }
    }

    /// It is lost if that has been said for long enough, and nothing else in between.
    fn seems_lost(&self, why: String) -> Failure {
        let mut missing_since = self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if missing_since.get_or_insert_with(Instant::now).elapsed() < SURE_AFTER {
            return Failure::NoStream(why.into());
        }
        drop(missing_since);
        self.lose(why)
    }

    fn lose(&self, why: String) -> Failure {
        Failure::Lost(self.lost.get_or_init(|| why).clone().into())
    }
}

/// What is written there, unless it is a marker.
pub(super) fn value_of(payload: Bytes, headers: Option<&HeaderMap>) -> Option<Bytes> {
    let is_gone = headers.is_some_and(|headers| {
        let operation = headers.get(OPERATION).map(HeaderValue::as_str);
        operation.is_some_and(|operation| GONE.contains(&operation)) || headers.get(MARKED_BY_SERVER).is_some()
    });
    (!is_gone).then_some(payload)
}

/// Finds the stream, or makes it; of nodes that do so at once, one makes it.
async fn open_stream(connection: &JetStream, stream: &str, root: &str) -> Result<Info, JetStreamError> {
    let config = Config {
        name: stream.into(),
        subjects: vec![format!("{root}.>")],
        max_messages_per_subject: 1,
        max_consumers: MOST_CONSUMERS,
        num_replicas: connection.replicas(),
        duplicate_window: DUPLICATES,
        allow_message_ttl: true,
        metadata: HashMap::from([(IDENTITY.into(), Uuid::new_v4().to_string())]),
        ..Config::default()
    };
    let mut patience = Patience::new();
    loop {
        let error = match find_or_create(connection, &config).await {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        // One that another node is just making has its name before it is there.
        let may_pass = error.may_pass() || error.is_no_stream();
        if !may_pass || !patience.is_left().await {
            return Err(error);
        }
    }
}

async fn find_or_create(connection: &JetStream, config: &Config) -> Result<Info, JetStreamError> {
    let of_stream = |what: &str| format!("STREAM.{what}.{}", config.name);
    let found: Info = match connection.ask(&of_stream("INFO"), &json!({})).await {
        Ok(found) => found,
        Err(error) if error.is_no_stream() => {
            // Another node may be faster, and has given it another identity.
            match connection.ask(&of_stream("CREATE"), config).await {
                Err(error) if error.code() == Some(ErrorCode::STREAM_NAME_EXIST) => {
                    connection.ask(&of_stream("INFO"), &json!({})).await?
                }
                other => return other,
            }
        }
        Err(error) => return Err(error),
    };
    connection.raise_replicas(&config.name).await;
    Ok(found)
}
