//! Publishing: the last version of each record of a publication, many at a time, each until it was acknowledged.
//!
//! A message that is sent again has the id that it had, by which the server knows it. So whatever is lost on the way, the
//! message or its acknowledgement, the record is taken once.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{
    super::{Published, StreamError},
    messages::{self, EXPECTED, TOMBSTONE},
    names::Names,
    provision,
    registry::{Registry, SyncEntry},
    several::several,
};
use crate::{
    jetstream::{JetStream, JetStreamError},
    model::{Idx, Op, Outgoing, Publication, SyncSeen},
};

/// How many messages of one publication may be without an acknowledgement.
const WINDOW: usize = 2000;

/// How many bytes of all publications may be without an acknowledgement.
const ROOM: usize = 32 << 20;

/// How many questions about syncs are asked at a time.
const QUESTIONS: usize = 64;

/// How long nothing may be acknowledged before a publication is given up.
const PATIENCE: Duration = Duration::from_secs(25);

const MESSAGE_ID: &str = "Nats-Msg-Id";

/// Sends what one node publishes.
pub(super) struct Publisher {
    /// What the ids of this node's messages begin with, of this run alone.
    prefix: String,
    next: AtomicU64,
    room: Semaphore,
}

/// A message on its way.
struct Message {
    stream: String,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
    /// The version that it is to replace, if it must be that one.
    replaces: Option<Idx>,
    fate: Fate,
}

/// What has become of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotSent,
    /// It was sent, and may have been taken.
    Sent,
    Taken(u64),
    /// Another version counts than the one that it was to replace.
    LeftOut,
}

impl Message {
    fn is_on_its_way(&self) -> bool {
        matches!(self.fate, Fate::NotSent | Fate::Sent)
    }
}

impl Publisher {
    pub(super) fn new() -> Self {
        let prefix = format!("{:x}.", fastrand::u64(..));
        Self { prefix, next: AtomicU64::new(0), room: Semaphore::new(ROOM) }
    }

    pub(super) async fn publish(
        &self,
        connection: &JetStream,
        registry: &Registry,
        publication: Publication,
    ) -> Result<Published, StreamError> {
        admit(registry, &publication).await?;
        let syncs = publication.syncs().to_vec();
        for seen in &syncs {
            provision::ensure(connection, registry, &seen.provider).await?;
        }
        let names: Vec<Names> = syncs.iter().map(|seen| Names::of(connection, &seen.provider)).collect();
        let last_versions = last_versions(&publication);
        let deleted = last_versions.iter().filter(|record| record.op == Op::Delete);
        let mut entries: Vec<Message> = deleted
            .map(|record| Message {
                stream: names[record.sync].stream(),
                subject: names[record.sync].tombstone(syncs[record.sync].id, record.sequin_id),
                headers: self.headers(),
                payload: Bytes::new(),
                replaces: None,
                fate: Fate::NotSent,
            })
            .collect();
        // First: a tombstone that is not in the index would stay for ever, and an entry without one does not.
        self.send_all(connection, registry, &syncs, &mut entries).await?;
        let publication = publication.share();
        let mut messages: Vec<Message> = last_versions
            .iter()
            .map(|record| {
                let mut headers = self.headers();
                if record.op == Op::Delete {
                    headers.insert(TOMBSTONE, "1");
                }
                if let Some(version) = record.replaces {
                    headers.insert(EXPECTED, version.to_string());
                }
                let subject = names[record.sync].record(syncs[record.sync].id, record.sequin_id);
                let payload = publication.envelope(record);
                let stream = names[record.sync].stream();
                Message { stream, subject, headers, payload, replaces: record.replaces, fate: Fate::NotSent }
            })
            .collect();
        self.send_all(connection, registry, &syncs, &mut messages).await?;
        let provider = last_versions.last().map(|record| &syncs[record.sync].provider);
        let fates =
            last_versions.iter().zip(&messages).map(|(record, message)| (&syncs[record.sync].provider, message));
        let mut published = Published { last: Idx::START, left_out: 0 };
        for (of, Message { fate, .. }) in fates {
            match *fate {
                Fate::Taken(position) if Some(of) == provider => published.last = published.last.max(Idx(position)),
                Fate::LeftOut => published.left_out += 1,
                _ => {}
            }
        }
        Ok(published)
    }

    fn headers(&self) -> HeaderMap {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, format!("{}{number:x}", self.prefix));
        headers
    }

    /// Sends until all are acknowledged, or nothing was for too long.
    async fn send_all(
        &self,
        connection: &JetStream,
        registry: &Registry,
        syncs: &[SyncSeen],
        messages: &mut [Message],
    ) -> Result<(), StreamError> {
        let mut progress_at = Instant::now();
        loop {
            let before = unacknowledged(messages);
            if before == 0 {
                return Ok(());
            }
            let Err(error) = self.send_some(connection, messages).await else { continue };
            if unacknowledged(messages) < before {
                progress_at = Instant::now();
            }
            if !error.may_pass() || progress_at.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tracing::debug!(%error, "what was not acknowledged is published again");
            sleep(Duration::from_millis(250)).await;
            if error.is_nobody_there() {
                check(connection, registry, syncs).await?;
            }
        }
    }

    /// Sends what has no position yet, in order, until the first of them fails; returns that failure.
    async fn send_some(&self, connection: &JetStream, messages: &mut [Message]) -> Result<(), JetStreamError> {
        let mut in_flight = FuturesUnordered::new();
        let mut failure: Option<JetStreamError> = None;
        let mut rest: Vec<usize> = (0..messages.len()).filter(|&number| messages[number].is_on_its_way()).collect();
        // Taken from its end.
        rest.reverse();
        loop {
            let number = rest.last().copied().filter(|_| failure.is_none() && in_flight.len() < WINDOW);
            // What waits for room must not keep from looking at what gives it back.
            let outcome = tokio::select! {
                biased;
                Some(outcome) = in_flight.next() => outcome,
                sent = self.send(connection, &messages[number.unwrap_or_default()]), if number.is_some() => {
                    rest.pop();
                    let Some(number) = number else { continue };
                    let before = std::mem::replace(&mut messages[number].fate, Fate::Sent);
                    match sent {
                        Ok(acknowledged) => {
                            in_flight.push(async move { (number, before, acknowledged.await) });
                            continue;
                        }
                        Err(error) => (number, before, Err(error)),
                    }
                }
                else => return failure.map_or(Ok(()), Err),
            };
            let (number, before, taken) = outcome;
            let fate = match taken {
                Ok(position) => Ok(Fate::Taken(position)),
                Err(error) if messages[number].replaces.is_none() || !error.is_conflict() => Err(error),
                Err(_) if before == Fate::NotSent => Ok(Fate::LeftOut),
                Err(_) => fate_of(connection, &messages[number]).await,
            };
            match fate {
                Ok(fate) => messages[number].fate = fate,
                // What does not pass is what is to be told.
                Err(error) if failure.as_ref().is_none_or(JetStreamError::may_pass) => failure = Some(error),
                Err(_) => {}
            }
        }
    }

    /// Sends a message, and holds room for it until it is acknowledged.
    async fn send<'a>(
        &'a self,
        connection: &JetStream,
        message: &Message,
    ) -> Result<impl Future<Output = Result<u64, JetStreamError>> + use<'a>, JetStreamError> {
        let bytes = u32::try_from(message.payload.len().min(ROOM)).expect("less than the room");
        let room = self.room.acquire_many(bytes).await;
        let (headers, payload) = (message.headers.clone(), message.payload.clone());
        let acknowledged = connection.send(&message.subject, headers, payload).await?;
        Ok(async move {
            let outcome = acknowledged.await;
            drop(room);
            outcome
        })
    }
}

/// What became of a message that was sent before, when what it replaces does not count any more: it may be by its own
/// doing.
async fn fate_of(connection: &JetStream, message: &Message) -> Result<Fate, JetStreamError> {
    let counts = messages::last(connection, &message.stream, &message.subject).await?;
    let id = message.headers.get(MESSAGE_ID).map(HeaderValue::as_str);
    let is_it = counts.filter(|counts| counts.header(MESSAGE_ID) == id);
    Ok(is_it.map_or(Fate::LeftOut, |counts| Fate::Taken(counts.sequence)))
}

fn unacknowledged(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.is_on_its_way()).count()
}

/// Looks whether the streams are there, and makes those again that were lost.
async fn check(connection: &JetStream, registry: &Registry, syncs: &[SyncSeen]) -> Result<(), JetStreamError> {
    let mut checked = HashSet::new();
    for seen in syncs.iter().filter(|seen| checked.insert(&seen.provider)) {
        match provision::check(connection, registry, &seen.provider).await {
            Err(error) if !error.may_pass() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The last version of each record, in the order in which they came.
fn last_versions(publication: &Publication) -> Vec<Outgoing> {
    let mut seen = HashSet::with_capacity(publication.records().len());
    let latest_first = publication.records().iter().rev();
    let mut last: Vec<Outgoing> =
        latest_first.filter(|record| seen.insert((record.sync, record.sequin_id))).cloned().collect();
    last.reverse();
    last
}

/// Makes the syncs that are new and describes those that changed, unless one belongs to another provider.
async fn admit(registry: &Registry, publication: &Publication) -> Result<(), StreamError> {
    let seen = publication.syncs();
    if registry.knows_all(seen) {
        return Ok(());
    }
    let known = several(seen.iter().map(|seen| registry.sync(seen.id)), QUESTIONS).await?;
    for (number, known) in known.iter().enumerate() {
        if let Some(known) = known {
            check_provider(publication, number, known)?;
        }
    }
    let writes = seen.iter().zip(known).map(|(seen, known)| write(registry, seen, known));
    // Somebody else may have made one at the same time, as another provider's.
    let written = several(writes, QUESTIONS).await?;
    for (number, written) in written.iter().enumerate() {
        check_provider(publication, number, written)?;
    }
    Ok(())
}

/// Makes a sync that is not known, describes one that has changed, and says what there is.
async fn write(registry: &Registry, seen: &SyncSeen, known: Option<SyncEntry>) -> Result<SyncEntry, JetStreamError> {
    let entry = SyncEntry::new(&seen.provider, seen.description.as_ref());
    match known {
        None => registry.create_sync(seen.id, &entry).await,
        Some(known) => {
            if seen.description.is_some() && known != entry {
                registry.put_sync(seen.id, &entry).await?;
            }
            Ok(known)
        }
    }
}

fn check_provider(publication: &Publication, number: usize, known: &SyncEntry) -> Result<(), StreamError> {
    let seen = &publication.syncs()[number];
    if known.provider == seen.provider {
        return Ok(());
    }
    let record = publication.records().iter().position(|record| record.sync == number).unwrap_or_default();
    Err(StreamError::SyncOfAnotherProvider { record, sync: seen.id, provider: known.provider.clone() })
}
