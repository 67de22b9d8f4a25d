//! A provider's stream: made with its first record, and made again if it was lost.

use std::time::Duration;

use async_nats::jetstream::stream::Info;
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    names::Names,
    registry::{ProviderEntry, Registry},
};
use crate::{
    jetstream::{IDENTITY, JetStream, JetStreamError, MOST_CONSUMERS},
    model::{Provider, StreamId},
};

/// No stream takes more records in a second, for all of its life. So what a lost one can have given is known.
const MOST_PER_SECOND: u64 = 1_000_000;

/// For how long a stream must not be there before it counts as lost.
const LOST: Duration = Duration::from_secs(3);

/// How long the server knows what it has accepted, so that what is published again is not taken twice.
const DUPLICATES: Duration = Duration::from_secs(120);

/// Makes sure that the provider has a stream, as far as is known.
pub(super) async fn ensure(
    connection: &JetStream,
    registry: &Registry,
    provider: &Provider,
) -> Result<(), JetStreamError> {
    if registry.provider(provider).is_none() {
        create(connection, registry, provider, 1).await?;
    }
    Ok(())
}

/// Makes the stream again if it is gone for good.
pub(super) async fn check(
    connection: &JetStream,
    registry: &Registry,
    provider: &Provider,
) -> Result<(), JetStreamError> {
    let began = Instant::now();
    loop {
        match info(connection, provider).await {
            Ok(_) => return Ok(()),
            Err(error) if !error.is_no_stream() => return Err(error),
            Err(_) if began.elapsed() < LOST => sleep(Duration::from_millis(500)).await,
            Err(_) => break,
        }
    }
    let lost = registry.find_provider(provider).await?;
    let first = lost.as_ref().map_or(1, |lost| beyond(lost, Utc::now()));
    tracing::error!(%provider, first, "the provider's stream is gone with its records, and is made again");
    create(connection, registry, provider, first).await.map(drop)
}

/// A position above every one that a stream can have given.
fn beyond(lost: &ProviderEntry, now: DateTime<Utc>) -> u64 {
    let seconds = u64::try_from((now - lost.created_at).num_seconds()).unwrap_or_default() + 1;
    lost.first + seconds * MOST_PER_SECOND
}

/// Makes the stream unless it is there, and writes down what is there; says whether it was made.
pub(super) async fn create(
    connection: &JetStream,
    registry: &Registry,
    provider: &Provider,
    first: u64,
) -> Result<bool, JetStreamError> {
    let names = Names::of(connection, provider);
    let identity = StreamId(Uuid::new_v4());
    let config = json!({
        "name": names.stream(),
        "subjects": [names.records(), names.tombstones()],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "max_consumers": MOST_CONSUMERS,
        "discard": "old",
        "storage": "file",
        "num_replicas": connection.replicas(),
        "duplicate_window": DUPLICATES.as_secs() * 1_000_000_000,
        "allow_direct": true,
        "first_seq": first,
        "metadata": {IDENTITY: identity.to_string()},
    });
    let create = format!("STREAM.CREATE.{}", names.stream());
    let info = match connection.ask_patiently::<Info>(&create, &config).await {
        // Another node was first.
        Err(error) if error.is_name_taken() => info_soon(connection, provider).await?,
        outcome => outcome?,
    };
    let Some(found) = identity_of(&info) else {
        let message = format!("the stream {} is not one of ours: rename it, or the cluster", names.stream());
        return Err(JetStreamError::Settings(message));
    };
    let first = info.config.first_sequence.unwrap_or(1).max(1);
    let created_at = info.created.unix_timestamp();
    let created_at = DateTime::from_timestamp(created_at, 0).unwrap_or_default();
    registry.put_provider(provider, &ProviderEntry { identity: found, first, created_at }).await?;
    Ok(found == identity)
}

/// A stream that another node is just making has its name before it is there.
async fn info_soon(connection: &JetStream, provider: &Provider) -> Result<Info, JetStreamError> {
    let began = Instant::now();
    loop {
        match info(connection, provider).await {
            Err(error) if error.is_no_stream() && began.elapsed() < LOST => sleep(Duration::from_millis(100)).await,
            outcome => return outcome,
        }
    }
}

pub(super) async fn info(connection: &JetStream, provider: &Provider) -> Result<Info, JetStreamError> {
    connection.ask(&format!("STREAM.INFO.{}", Names::of(connection, provider).stream()), &()).await
}

pub(super) fn identity_of(info: &Info) -> Option<StreamId> {
    info.config.metadata.get(IDENTITY)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_made_again_begins_beyond_what_the_lost_one_can_have_given() {
        let created_at = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        let lost = ProviderEntry { identity: StreamId(Uuid::from_u128(1)), first: 500, created_at };
        assert!(beyond(&lost, created_at) > lost.first);
        let a_year = created_at + chrono::Duration::days(365);
        let again = ProviderEntry { first: beyond(&lost, a_year), created_at: a_year, ..lost };
        let a_century = beyond(&again, a_year + chrono::Duration::days(36_500));
        assert!(again.first < a_century && i64::try_from(a_century).is_ok(), "{a_century}");
    }
}
