//! A consumer as the server keeps it for a cursor: what is asked of it, what it says, and whether that is whole.

use std::{collections::VecDeque, fmt::Write as _, time::Duration};

use async_nats::{HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::JetStream;

/// How often the server says that it is there, while there is nothing to read.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// After how long without a word the consumer counts as gone.
const SILENCE: Duration = Duration::from_secs(5);

/// The largest message that comes unasked. All that wait hold one, beside what readers may hold.
const SMALL: usize = 64 * 1024;

/// How long one question for the next message stands.
const WAIT: Duration = Duration::from_secs(30);

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) sequence: u64,
    pub(crate) published_at: DateTime<Utc>,
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
}

/// What the server sends us messages by.
pub(super) struct Consumer {
    connection: JetStream,
    stream: String,
    pub(super) name: String,
    inbox: Subject,
    subscriber: Subscriber,
    /// How many messages it has sent.
    sent: u64,
    /// How many match beyond what has arrived, as it was told last.
    pub(super) pending: u64,
    question: Option<Question>,
    /// How many questions were asked.
    questions: u64,
    silent_at: Instant,
}

/// A pull that has not been answered in full.
struct Question {
    left: usize,
    waits: bool,
}

/// Which messages are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// The next one, whenever it comes. One that is not small is only heard of.
    Next,
    /// Those that are there, as far as they fit in so many bytes, if that is given.
    There(Option<usize>),
}

/// How a question ended.
#[derive(PartialEq, Eq)]
pub(super) enum Answer {
    Goes,
    Done,
    /// The next message is larger than what may be read.
    TooLarge,
}

/// Why another consumer is needed.
pub(super) struct Broken(pub(super) String);

impl Consumer {
    /// One that was made just now, and has sent nothing.
    pub(super) fn new(
        connection: JetStream,
        stream: String,
        name: String,
        inbox: Subject,
        subscriber: Subscriber,
        pending: u64,
    ) -> Self {
        let silent_at = Instant::now() + SILENCE;
        Self { connection, stream, name, inbox, subscriber, sent: 0, pending, question: None, questions: 0, silent_at }
    }

    /// Waits for one thing that the server says.
    pub(super) async fn wait(&mut self, arrived: &mut VecDeque<Arrived>) -> Result<(), Broken> {
        if self.question.is_none() {
            self.ask(1, Which::Next).await?;
        }
        self.receive(arrived).await.map(drop)
    }

    /// Fetches up to so many messages that are there and fit in the room, if it has an end.
    pub(super) async fn fetch(
        &mut self,
        (most, room): (usize, Option<usize>),
        arrived: &mut VecDeque<Arrived>,
    ) -> Result<Answer, Broken> {
        // Another one may be left, of a future that was lost: what it brings is as good.
        if self.question.is_none() {
            self.ask(most, Which::There(room)).await?;
        }
        loop {
            let answer = self.receive(arrived).await?;
            if answer != Answer::Goes || self.question.as_ref().is_none_or(|asked| asked.waits) {
                return Ok(answer);
            }
        }
    }

    /// Asks for messages.
    async fn ask(&mut self, batch: usize, which: Which) -> Result<(), Broken> {
        let mut pull = format!(r#"{{"batch":{batch}"#);
        match which {
            Which::Next => {
                let (wait, heartbeat) = (nanos(WAIT), nanos(HEARTBEAT));
                write!(pull, r#","expires":{wait},"idle_heartbeat":{heartbeat},"max_bytes":{SMALL}}}"#)
            }
            Which::There(None) => write!(pull, r#","no_wait":true}}"#),
            Which::There(Some(bytes)) => write!(pull, r#","no_wait":true,"max_bytes":{bytes}}}"#),
        }
        .expect("writing to memory can't fail");
        self.questions += 1;
        let reply = format!("{}.{}", self.inbox, self.questions);
        let what = format!("CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name);
        let asked = self.connection.ask_for_reply(&what, reply, pull.into()).await;
        asked.map_err(|error| Broken(error.to_string()))?;
        self.question = Some(Question { left: batch, waits: which == Which::Next });
        self.silent_at = Instant::now() + SILENCE;
        Ok(())
    }

    /// Takes what the server says next. Losing the future loses nothing.
    async fn receive(&mut self, arrived: &mut VecDeque<Arrived>) -> Result<Answer, Broken> {
        // What has come is taken first, however late that is.
        let message = match timeout_at(self.silent_at, self.subscriber.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Broken("the subscription ended".into())),
            Err(_) => return Err(Broken(format!("nothing was heard for {} s", SILENCE.as_secs()))),
        };
        self.silent_at = Instant::now() + SILENCE;
        match message.status {
            None | Some(StatusCode::OK) => self.take_message(message, arrived),
            Some(_) if !self.is_of_question(&message.subject) => Ok(Answer::Goes),
            Some(StatusCode::IDLE_HEARTBEAT) => self.check_sent(message.headers.as_ref()),
            Some(StatusCode::NOT_FOUND) => {
                self.question = None;
                self.pending = 0;
                Ok(Answer::Done)
            }
            // A question that stood long enough, or one that got all there is.
            Some(StatusCode::TIMEOUT) => {
                let waited = self.question.take().is_some_and(|question| question.waits);
                if !waited {
                    self.pending = 0;
                }
                Ok(Answer::Done)
            }
            Some(StatusCode::REQUEST_TERMINATED) if message.description.as_deref().is_some_and(is_of_size) => {
                self.question = None;
                // It is there, though it was not counted yet when the last one came.
                self.pending = self.pending.max(1);
                Ok(Answer::TooLarge)
            }
            Some(status) => Err(Broken(format!("{status}: {}", message.description.unwrap_or_default()))),
        }
    }

    fn take_message(&mut self, message: Message, arrived: &mut VecDeque<Arrived>) -> Result<Answer, Broken> {
        let Some(place) = message.reply.as_deref().and_then(Place::parse) else {
            return Err(Broken("a message comes from nowhere".into()));
        };
        if place.number != self.sent + 1 {
            return Err(Broken(format!("message {} was sent, {} has come", place.number, self.sent)));
        }
        self.sent = place.number;
        self.pending = place.pending;
        let Message { subject, headers, payload, .. } = message;
        let published_at = DateTime::from_timestamp_nanos(place.published_at);
        arrived.push_back(Arrived { sequence: place.sequence, published_at, subject, headers, payload });
        let left = self.question.as_mut().map_or(0, |question| {
            question.left -= 1;
            question.left
        });
        if left > 0 {
            return Ok(Answer::Goes);
        }
        self.question = None;
        Ok(Answer::Done)
    }

    /// Whether what the server says is about the question that was asked last.
    fn is_of_question(&self, subject: &str) -> bool {
        subject.rsplit('.').next().and_then(|number| number.parse().ok()) == Some(self.questions)
    }

    fn check_sent(&self, headers: Option<&HeaderMap>) -> Result<Answer, Broken> {
        let sent =
            headers.and_then(|headers| headers.get("Nats-Last-Consumer")).map(|value| value.as_str().parse::<u64>());
        match sent {
            Some(Ok(sent)) if sent != self.sent => Err(Broken(format!("{sent} were sent, {} have come", self.sent))),
            _ => Ok(Answer::Goes),
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000_000
}

fn is_of_size(description: &str) -> bool {
    description.contains("MaxBytes") || description.contains("Batch Completed")
}

/// What the server says of a message in its reply subject.
struct Place {
    sequence: u64,
    /// The how manieth message of its consumer it is.
    number: u64,
    published_at: i64,
    pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>.<time>.<pending>`, or with a domain and the hash of an
    /// account before the stream, and more behind.
    /// See <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md>.
    fn parse(reply: &str) -> Option<Self> {
        let before = if reply.bytes().filter(|&byte| byte == b'.').count() == 8 { 5 } else { 7 };
        let mut parts = reply.strip_prefix("$JS.ACK.").map(|_| reply.split('.').skip(before))?;
        Some(Self {
            sequence: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
            published_at: parts.next()?.parse().ok()?,
            pending: parts.next()?.parse().ok()?,
        })
    }
}
