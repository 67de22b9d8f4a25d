//! A cursor over the messages of a stream, in order, which no failure stalls.
//!
//! The server keeps a consumer for it that nobody would miss: in memory, on one server, and forgotten soon. Whatever goes
//! wrong, and whenever nothing is heard of it for some seconds, another one is made that begins where the messages ended
//! that have arrived. Nothing else is remembered, so there is nothing that could be lost.
//!
//! - Messages carry a number that counts what the consumer has sent. A gap in it is a message that went astray.
//! - While there is nothing to read, the server says now and then that it is there, and what it has sent.
//! - A consumer that was deleted, or whose server is gone, answers with an error or not at all.

use std::{collections::VecDeque, time::Duration};

use async_nats::jetstream::stream;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    JetStream, JetStreamError,
    consumer::{Answer, Arrived, Broken, Consumer, nanos},
};

/// After how long without a question the server forgets the consumer. Another one is made then.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How long it is tried to go on, without any success, before whoever reads is told.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long a stream may seem to end before what was read of it, as that of a leader that has just been elected.
const BEHIND: Duration = Duration::from_secs(5);

/// What the server counts beside the payloads, as far as it is granted on top of what may be read. What comes too much
/// is kept for the next time.
const OVERHEAD: usize = 64 * 1024;

/// The most messages of one question: what the client holds for a reader has an end.
const MOST: usize = 16_384;

/// The key in a stream's metadata under which its identity lies: that of the stream that was made then, and no later one.
pub(crate) const IDENTITY: &str = "sequin-stream";

/// See the module.
pub(crate) struct Cursor {
    connection: JetStream,
    stream: String,
    filter: String,
    /// Of the stream when it was first read; empty if it has none.
    identity: Option<String>,
    /// Everything that matches was taken up to here.
    taken: u64,
    /// What comes after that.
    arrived: VecDeque<Arrived>,
    /// Where the stream ended before the consumer was made.
    end: Option<End>,
    /// Where there was more to come than the consumer knew of, or nobody could tell. It is asked again now and then.
    doubted: Option<u64>,
    consumer: Option<Consumer>,
    failing_since: Option<Instant>,
    behind_since: Option<Instant>,
}

/// Where a stream ends, as its leader says.
struct End {
    last: u64,
    leader: Option<String>,
}

/// What there is that matches, beyond what was taken.
enum Beyond {
    Nothing,
    Something,
    /// Nobody could tell.
    Unknown,
    /// Nothing, but it is another leader that says so, which may have less.
    ByAnotherLeader,
}

#[derive(Deserialize)]
struct Made {
    num_pending: u64,
}

impl Cursor {
    /// Begins behind the message `after` of the stream, with those that match the filter. Nothing is asked yet.
    pub(crate) fn new(connection: JetStream, stream: String, filter: String, after: u64) -> Self {
        Self {
            connection,
            stream,
            filter,
            identity: None,
            taken: after,
            arrived: VecDeque::new(),
            end: None,
            doubted: None,
            consumer: None,
            failing_since: None,
            behind_since: None,
        }
    }

    /// Waits until there may be something to take. Losing the future loses nothing.
    pub(crate) async fn ready(&mut self) -> Result<(), JetStreamError> {
        loop {
            if !self.arrived.is_empty() {
                return Ok(());
            }
            if self.consumer().await?.pending > 0 || self.may_end() {
                return Ok(());
            }
            let Self { consumer: Some(consumer), arrived, .. } = self else { continue };
            match consumer.wait(arrived).await {
                // Whatever was doubted, it did not come: it may be the end by now.
                Ok(()) if self.arrived.is_empty() => (self.failing_since, self.doubted) = (None, None),
                Ok(()) => self.failing_since = None,
                Err(broken) => self.breaks(broken).await?,
            }
        }
    }

    /// Fetches what there is, until that makes about so many messages and bytes, or one message however large.
    pub(crate) async fn fetch(&mut self, messages: usize, bytes: usize) -> Result<(), JetStreamError> {
        let held = self.bytes();
        if self.arrived.len() >= messages || (held >= bytes && held > 0) {
            return Ok(());
        }
        let most = messages.min(MOST).saturating_sub(self.arrived.len()).max(1);
        let mut question = (most, Some(bytes - held.min(bytes) + OVERHEAD));
        loop {
            if self.consumer().await?.pending == 0 {
                return Ok(());
            }
            let Self { consumer: Some(consumer), arrived, .. } = self else { continue };
            match consumer.fetch(question, arrived).await {
                // One that is larger than all that may be read comes alone.
                Ok(Answer::TooLarge) if self.arrived.is_empty() => question = (1, None),
                Ok(_) => {
                    self.failing_since = None;
                    return Ok(());
                }
                Err(broken) => self.breaks(broken).await?,
            }
        }
    }

    /// The next message that has arrived.
    pub(crate) fn take(&mut self) -> Option<Arrived> {
        let arrived = self.arrived.pop_front()?;
        self.taken = arrived.sequence;
        Some(arrived)
    }

    /// How many bytes of payloads have arrived.
    pub(crate) fn bytes(&self) -> usize {
        self.arrived.iter().map(|arrived| arrived.payload.len()).sum()
    }

    /// The next message that has arrived, left where it is.
    pub(crate) fn peek(&self) -> Option<&Arrived> {
        self.arrived.front()
    }

    /// Everything that matches was taken up to here. At the end, that may be beyond the last message that was.
    ///
    /// A consumer may lie on a server that does not have all yet that the leader has, so that is asked.
    pub(crate) async fn read_to(&mut self) -> Result<u64, JetStreamError> {
        if self.is_at_end() && self.may_end() {
            match self.look_beyond().await? {
                Beyond::Nothing => self.taken = self.end.as_ref().map_or(self.taken, |end| end.last),
                Beyond::Something | Beyond::Unknown => self.doubted = Some(self.taken),
                // Where the stream ends is asked again with the next consumer.
                Beyond::ByAnotherLeader => self.consumer = None,
            }
        }
        Ok(self.taken)
    }

    /// Whether everything was taken that the stream held when this consumer was made.
    pub(crate) async fn is_done(&mut self) -> Result<bool, JetStreamError> {
        let taken = self.read_to().await?;
        Ok(self.end.as_ref().is_some_and(|end| end.last <= taken))
    }

    /// Whether the end of the stream may have been reached without a message that says so.
    fn may_end(&self) -> bool {
        self.doubted != Some(self.taken) && self.end.as_ref().is_some_and(|end| end.last > self.taken)
    }

    /// What the leader that has said where the stream ends knows of beyond what was taken.
    async fn look_beyond(&self) -> Result<Beyond, JetStreamError> {
        let next = json!({"seq": self.taken + 1, "next_by_subj": self.filter});
        match self.connection.ask::<IgnoredAny>(&format!("STREAM.MSG.GET.{}", self.stream), &next).await {
            Ok(_) => return Ok(Beyond::Something),
            Err(error) if error.is_no_message() => {}
            Err(error) if error.may_pass() => return Ok(Beyond::Unknown),
            Err(error) => return Err(error),
        }
        let leader_now = match self.info().await {
            Ok(info) => leader(&info),
            Err(error) if error.may_pass() => return Ok(Beyond::Unknown),
            Err(error) => return Err(error),
        };
        let is_same = self.end.as_ref().is_some_and(|end| end.leader == leader_now);
        Ok(if is_same { Beyond::Nothing } else { Beyond::ByAnotherLeader })
    }

    async fn info(&self) -> Result<stream::Info, JetStreamError> {
        self.connection.ask(&format!("STREAM.INFO.{}", self.stream), &()).await
    }

    /// Whether everything was taken that the stream held when it was last heard of.
    fn is_at_end(&self) -> bool {
        self.arrived.is_empty() && self.consumer.as_ref().is_some_and(|consumer| consumer.pending == 0)
    }

    /// Lets the server forget the consumer now rather than soon.
    pub(crate) async fn close(mut self) {
        if let Some(consumer) = self.consumer.take() {
            let delete = format!("CONSUMER.DELETE.{}.{}", self.stream, consumer.name);
            if let Err(error) = self.connection.ask::<IgnoredAny>(&delete, &()).await {
                tracing::debug!(%error, "a consumer is left to be forgotten");
            }
        }
    }

    /// Everything that matches has arrived up to here.
    fn received(&self) -> u64 {
        self.arrived.back().map_or(self.taken, |last| last.sequence)
    }

    async fn consumer(&mut self) -> Result<&Consumer, JetStreamError> {
        while self.consumer.is_none() {
            match self.make_consumer().await {
                Ok(consumer) => self.consumer = Some(consumer),
                Err(error) if error.may_pass() => self.breaks(Broken(error.to_string())).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(self.consumer.as_ref().expect("made above"))
    }

    async fn make_consumer(&mut self) -> Result<Consumer, JetStreamError> {
        let info = self.info().await?;
        let found = info.config.metadata.get(IDENTITY).cloned().unwrap_or_default();
        if *self.identity.get_or_insert(found.clone()) != found {
            let message = format!("the stream {} was deleted and made again", self.stream);
            return Err(JetStreamError::Replaced(message));
        }
        self.check_end(End { last: info.state.last_sequence, leader: leader(&info) })?;
        let inbox = self.connection.new_inbox();
        let subscriber = self.connection.subscribe(format!("{inbox}.*")).await?;
        let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let config = json!({
            "stream_name": self.stream,
            "action": "create",
            "config": {
                "name": name,
                "filter_subject": self.filter,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self.received() + 1,
                "ack_policy": "none",
                "replay_policy": "instant",
                "inactive_threshold": nanos(FORGOTTEN),
                "num_replicas": 1,
                "mem_storage": true,
            },
        });
        let create = format!("CONSUMER.CREATE.{}.{name}.{}", self.stream, self.filter);
        let made: Made = self.connection.ask(&create, &config).await?;
        let stream = self.stream.clone();
        Ok(Consumer::new(self.connection.clone(), stream, name, inbox, subscriber, made.num_pending))
    }

    /// A stream that ends before what was read of it has gone back, and what comes is not what follows.
    fn check_end(&mut self, end: End) -> Result<(), JetStreamError> {
        let (last, received) = (end.last, self.received());
        if last >= received {
            self.behind_since = None;
            self.end = Some(end);
            self.doubted = None;
            return Ok(());
        }
        let message = format!(
            "the stream {} ends at {last}, but it was read to {received}: it was restored or made again",
            self.stream
        );
        if self.behind_since.get_or_insert_with(Instant::now).elapsed() > BEHIND {
            return Err(JetStreamError::Replaced(message));
        }
        Err(JetStreamError::unanswered("a reader", message))
    }

    /// Leaves the consumer, and gives up if that has gone on for too long.
    async fn breaks(&mut self, Broken(why): Broken) -> Result<(), JetStreamError> {
        self.consumer = None;
        if self.failing_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            self.failing_since = None;
            return Err(JetStreamError::unanswered("a reader", why));
        }
        tracing::debug!(stream = self.stream, received = self.received(), why, "a consumer is made again");
        sleep(Duration::from_millis(100)).await;
        Ok(())
    }
}

/// The server that has said so.
fn leader(info: &stream::Info) -> Option<String> {
    info.cluster.as_ref().and_then(|cluster| cluster.leader.clone())
}
