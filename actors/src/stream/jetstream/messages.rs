//! Single messages of a stream, asked of its leader, who knows all that was acknowledged. One that was deposed and has not
//! heard of it yet answers for some seconds too, with what it had: what must not be of then is written with a condition.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::json;

use crate::jetstream::{JetStream, JetStreamError};

/// The header of a tombstone, so that it is known without decoding it.
pub(super) const TOMBSTONE: &str = "Sequin-Tombstone";

/// The header of a message that is to be refused unless the last message of its subject has this sequence.
pub(super) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// A message as the stream holds it.
#[derive(Deserialize)]
pub(super) struct Stored {
    #[serde(rename = "seq")]
    pub(super) sequence: u64,
    #[serde(default, rename = "hdrs", deserialize_with = "from_base64")]
    headers: Vec<u8>,
    #[serde(default, rename = "data", deserialize_with = "from_base64")]
    pub(super) payload: Vec<u8>,
    pub(super) time: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Answer {
    message: Stored,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

impl Stored {
    pub(super) fn is_tombstone(&self) -> bool {
        self.header(TOMBSTONE).is_some()
    }

    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = str::from_utf8(&self.headers).ok()?.split("\r\n");
        lines.filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    }
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(D::Error::custom)
}

/// The last message of a subject, or of all that a wildcard matches.
pub(super) async fn last(
    connection: &JetStream,
    stream: &str,
    subject: &str,
) -> Result<Option<Stored>, JetStreamError> {
    get(connection, stream, json!({"last_by_subj": subject})).await
}

/// The first message of a subject from `sequence` on.
pub(super) async fn next(
    connection: &JetStream,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<Stored>, JetStreamError> {
    get(connection, stream, json!({"seq": sequence, "next_by_subj": subject})).await
}

async fn get(connection: &JetStream, stream: &str, which: impl Serialize) -> Result<Option<Stored>, JetStreamError> {
    match connection.ask::<Answer>(&format!("STREAM.MSG.GET.{stream}"), &which).await {
        Ok(answer) => Ok(Some(answer.message)),
        Err(error) if error.is_no_message() || error.is_no_stream() => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many messages of a subject there are from `sequence` on. Any replica is asked, so it may be of a moment ago.
pub(super) async fn count(
    connection: &JetStream,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<u64, JetStreamError> {
    let first = json!({"seq": sequence, "next_by_subj": subject, "batch": 1});
    let answer = connection.ask_directly(stream, &first).await?;
    let beyond = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Num-Pending"));
    let beyond = beyond.and_then(|value| value.as_str().parse::<u64>().ok());
    Ok(beyond.map_or(0, |beyond| beyond + 1))
}

/// Removes what matches a subject, as far as it lies before `sequence` if that is given, and says how much that was.
pub(super) async fn purge(
    connection: &JetStream,
    stream: &str,
    subject: &str,
    before: Option<u64>,
) -> Result<u64, JetStreamError> {
    let what = match before {
        Some(sequence) => json!({"filter": subject, "seq": sequence}),
        None => json!({"filter": subject}),
    };
    match connection.ask::<Purged>(&format!("STREAM.PURGE.{stream}"), &what).await {
        Ok(answer) => Ok(answer.purged),
        Err(error) if error.is_no_stream() => Ok(0),
        Err(error) => Err(error),
    }
}
