//! Watching keys: a consumer of the stream below the bucket, made again whenever it does not do its work.
//!
//! A task reads it and keeps the place, so whoever watches may drop a call of `next` at any time, and a slow one holds the
//! task up rather than memory. The server is to say every few seconds that it is there. If it does not, or if a message was
//! left out, or the consumer is gone, the task begins again behind the last write that it told. Nothing is missed by that:
//! the stream keeps the last write of each key, and of a key that was deleted its marker, for a day.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_nats::{Message, StatusCode, Subscriber, jetstream};
use async_trait::async_trait;
use futures_util::StreamExt;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{Entry, Event, Revision, StoreError, Watch},
    bucket::{Bucket, value_of},
    failure::Failure,
    keys,
};

/// How many events are kept for one who watches.
const KEPT: usize = 16;

/// How many messages are asked for at once, and for how long.
const BATCH: usize = 64;
const EXPIRES: Duration = Duration::from_secs(20);

/// How often the server says that it is there while it has nothing else to say, and how much silence is too much.
const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);

/// How long the server keeps a consumer that nobody asks for messages.
const ABANDONED: Duration = Duration::from_secs(10);

/// After how long without a word from the server it is told that a watch does not work.
const UNHEARD: Duration = Duration::from_secs(10);

/// How long is waited before a consumer is made again.
const AGAIN: Duration = Duration::from_millis(250);

/// A watch over the keys under a prefix.
pub(super) struct JetStreamWatch {
    bucket: Arc<Bucket>,
    events: Receiver<Result<Event, StoreError>>,
    _reading: AbortOnDropHandle<()>,
}

impl JetStreamWatch {
    pub(super) fn new(bucket: Arc<Bucket>, prefix: &str) -> Self {
        let (told, events) = channel(KEPT);
        let reader = Reader {
            filter: keys::filter_of(&bucket.root, prefix),
            bucket: Arc::clone(&bucket),
            prefix: prefix.into(),
            passed: 0,
            current_at: Some(u64::MAX),
            complete_at: Instant::now(),
            heard_at: Instant::now(),
            is_reported: false,
            events: told,
        };
        Self { bucket, events, _reading: AbortOnDropHandle::new(tokio::spawn(reader.run())) }
    }
}

#[async_trait]
impl Watch for JetStreamWatch {
    async fn next(&mut self) -> Result<Event, StoreError> {
        let ended = || {
            self.bucket.is_there()?;
            Err(StoreError::Unavailable("the watch has ended".into()))
        };
        self.events.recv().await.unwrap_or_else(ended)
    }
}

/// Reads for a watch.
struct Reader {
    bucket: Arc<Bucket>,
    prefix: String,
    filter: String,
    /// The sequence of the last message that was told, or had nothing to tell.
    passed: u64,
    /// What has to be passed before the watch is current; `None` from then on.
    current_at: Option<u64>,
    /// When there was last nothing beyond what was told.
    complete_at: Instant,
    /// When a consumer last said anything, and whether it was told since that none does.
    heard_at: Instant,
    is_reported: bool,
    events: Sender<Result<Event, StoreError>>,
}

impl Reader {
    async fn run(mut self) {
        let error = loop {
            let Err(failure) = self.read().await;
            match failure {
                Failure::Lost(cause) => break StoreError::Lost(cause),
                Failure::Refused(cause) => break StoreError::Unavailable(cause),
                other if self.heard_at.elapsed() > UNHEARD && !self.is_reported => {
                    self.is_reported = true;
                    tracing::warn!(failure = ?other, prefix = self.prefix, "a watch of the store does not work at present");
                }
                other => tracing::debug!(failure = ?other, prefix = self.prefix, "a watch of the store begins again"),
            }
            // The marker of what was deleted meanwhile may be gone.
            if self.complete_at.elapsed() > self.bucket.markers_last / 2 {
                let cause = "the watch was cut off for too long to hear of everything that was deleted";
                break StoreError::Unavailable(cause.into());
            }
            tokio::time::sleep(AGAIN).await;
        };
        // Nobody may be there any more.
        let _ = self.events.send(Err(error)).await;
    }

    /// Tells what comes, until something is wrong.
    async fn read(&mut self) -> Result<Infallible, Failure> {
        self.bucket.check().await?;
        self.look_whether_current().await?;
        let mut consumer = Consumer::of(&self.bucket, &self.filter, self.passed + 1).await?;
        loop {
            let passed = self.passed;
            consumer.ask_for_messages().await?;
            while let Some(delivered) = consumer.next().await? {
                (self.heard_at, self.is_reported) = (Instant::now(), false);
                match delivered {
                    Delivered::Message(message) => self.tell(message).await?,
                    Delivered::Nothing => self.look_whether_current().await?,
                }
            }
            if self.passed == passed {
                self.look_whether_complete().await?;
            }
        }
    }

    async fn tell(&mut self, message: Box<jetstream::Message>) -> Result<(), Failure> {
        let (sequence, pending) = {
            let info = message.info().map_err(Failure::Passing)?;
            (info.stream_sequence, info.pending)
        };
        let Message { subject, payload, headers, .. } = message.message;
        // What is no key of ours, or of another prefix, is passed over.
        let key = keys::key_of(&self.bucket.root, &subject).filter(|key| key.starts_with(&self.prefix));
        if let Some(key) = key {
            self.send(match value_of(payload, headers.as_ref()) {
                Some(value) => Event::Put(Entry { key, value: value.into(), revision: Revision(sequence) }),
                None => Event::Deleted { key },
            })
            .await?;
        }
        self.passed = sequence;
        self.bucket.has_reached(sequence);
        if pending == 0 {
            self.complete_at = Instant::now();
        }
        self.say_if_current().await
    }

    /// Finds out what was there when the watch began. The leader of the stream knows: the consumer may be on a server that
    /// has not heard of all of it yet. It is asked again as long as that does not come, because markers go by themselves.
    async fn look_whether_current(&mut self) -> Result<(), Failure> {
        if let Some(current_at) = self.current_at {
            let last = self.bucket.last(&self.filter).await?.map_or(0, |last| last.sequence);
            self.current_at = Some(current_at.min(last));
        }
        self.say_if_current().await
    }

    async fn say_if_current(&mut self) -> Result<(), Failure> {
        if self.current_at.is_some_and(|current_at| self.passed >= current_at) {
            self.send(Event::Current).await?;
            self.current_at = None;
        }
        Ok(())
    }

    /// Fails if there is something to tell, though the consumer had nothing for as long as it was asked.
    async fn look_whether_complete(&mut self) -> Result<(), Failure> {
        let asked_at = Instant::now();
        match self.bucket.last(&self.filter).await? {
            // Should it just be on its way, another consumer tells it as well.
            Some(last) if last.sequence > self.passed => Err(passing("the consumer does not tell what is there")),
            _ => {
                self.complete_at = asked_at;
                Ok(())
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), Failure> {
        self.events.send(Ok(event)).await.map_err(|_| passing("nobody watches any more"))
    }
}

/// A consumer on the server, and what it has sent.
struct Consumer {
    bucket: Arc<Bucket>,
    name: String,
    inbox: String,
    subscriber: Subscriber,
    /// How many messages it has delivered.
    delivered: u64,
    /// How many it was asked for, and has still to deliver.
    asked_for: usize,
}

enum Delivered {
    Message(Box<jetstream::Message>),
    /// It has nothing at present.
    Nothing,
}

impl Consumer {
    /// A new one, that begins with the first message of `filter` at `sequence` or later.
    async fn of(bucket: &Arc<Bucket>, filter: &str, sequence: u64) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            name: String,
        }
        let config = json!({
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": sequence,
            "filter_subject": filter,
            "ack_policy": "none",
            "replay_policy": "instant",
            "num_replicas": 1,
            "mem_storage": true,
            "inactive_threshold": nanoseconds(ABANDONED),
        });
        let with = json!({ "stream_name": bucket.stream, "config": config });
        let asked = bucket.connection.ask::<Answer>(&format!("CONSUMER.CREATE.{}", bucket.stream), &with).await;
        let Answer { name } = asked.map_err(|error| match error {
            refusal if refusal.is_refusal() => Failure::Refused(refusal.into()),
            error => bucket.failed(error),
        })?;
        let inbox = bucket.connection.new_inbox().to_string();
        let subscriber = bucket.connection.subscribe(inbox.clone()).await?;
        Ok(Self { bucket: Arc::clone(bucket), name, inbox, subscriber, delivered: 0, asked_for: 0 })
    }

    async fn ask_for_messages(&mut self) -> Result<(), Failure> {
        let with = json!({ "batch": BATCH, "expires": nanoseconds(EXPIRES), "idle_heartbeat": nanoseconds(HEARTBEAT) });
        let what = format!("CONSUMER.MSG.NEXT.{}.{}", self.bucket.stream, self.name);
        self.bucket.connection.ask_for_reply(&what, self.inbox.clone(), with.to_string().into()).await?;
        self.asked_for = BATCH;
        Ok(())
    }

    /// The next message; `None` if it has to be asked for more. Losing the future loses nothing.
    async fn next(&mut self) -> Result<Option<Delivered>, Failure> {
        if self.asked_for == 0 {
            return Ok(None);
        }
        let message = timeout(SILENCE, self.subscriber.next()).await;
        let message = message.map_err(|_| passing("the server has fallen silent"))?;
        let message = message.ok_or_else(|| passing("the subscription has ended"))?;
        match message.status {
            None => self.deliver(message).map(Some),
            Some(StatusCode::IDLE_HEARTBEAT) => Ok(Some(Delivered::Nothing)),
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => {
                self.asked_for = 0;
                Ok(None)
            }
            // It is gone, or its server goes.
            Some(status) => Err(passing(&format!("{status} {}", message.description.unwrap_or_default()))),
        }
    }

    fn deliver(&mut self, message: Message) -> Result<Delivered, Failure> {
        let message = Box::new(jetstream::Message { message, context: self.bucket.connection.context() });
        let number = message.info().map_err(Failure::Passing)?.consumer_sequence;
        if number != self.delivered + 1 {
            return Err(passing(&format!("message {number} came after message {}", self.delivered)));
        }
        self.delivered = number;
        self.asked_for -= 1;
        Ok(Delivered::Message(message))
    }
}

impl Drop for Consumer {
    /// The server need not wait until nobody asks for it any more.
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let subject = format!("CONSUMER.DELETE.{}.{}", self.bucket.stream, self.name);
        let connection = self.bucket.connection.clone();
        runtime.spawn(async move { connection.ask::<IgnoredAny>(&subject, &()).await });
    }
}

fn passing(why: &str) -> Failure {
    Failure::Passing(why.into())
}

fn nanoseconds(duration: Duration) -> u128 {
    duration.as_nanos()
}
