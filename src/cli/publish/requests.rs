//! Requests on their way: several at once, and yet the versions of a record arrive in the order in which they came.
//!
//! A request waits as long as one that is under way has one of its records. So of two versions of a record, the later
//! one is sent when the earlier one is acknowledged. A request whose fate is unknown is sent again, which does no harm:
//! nothing newer can have overtaken it, and the stream keeps the last version of each record.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::{
    Summary,
    batches::{Batch, RecordKey},
    compression::Compression,
    ranges::Ranges,
};
use crate::cli::{
    answers::Published,
    client::{Answer, Client, ClientError},
    figures,
    progress::{Notes, Progress, Unit},
};

/// How long a request is tried again before its failure counts.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// The first pause between two tries, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long records wait for others that fill their request.
pub(super) const LINGER: Duration = Duration::from_millis(500);

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Sending {
    /// How many are under way at once, at most.
    pub(super) parallel: usize,
    pub(super) compression: Compression,
}

/// Publishes records, in requests that it puts together.
pub(in crate::cli) struct Publisher<'a> {
    client: &'a Client,
    retries: Retries,
    sending: Sending,
    progress: &'a mut Progress,
    /// What the next request will have.
    batch: Batch,
    /// When the first record of it came.
    batch_began: Option<Instant>,
    /// The last line that was read, and the last one whose record was given to a request.
    last_line: u64,
    sent_to: u64,
    /// The requests that are under way, by number.
    sent: BTreeMap<u64, Sent>,
    tasks: JoinSet<(u64, Result<Published, ClientError>)>,
    next_number: u64,
    published: Ranges,
    has_failed: bool,
    summary: Summary,
    began: Instant,
}

/// A request that is under way.
struct Sent {
    /// The records that no other request may have meanwhile.
    records: HashSet<RecordKey>,
    /// The lines of the input that it stands for, and of its records.
    lines: (u64, u64),
    numbers: Vec<u64>,
    input_bytes: u64,
}

/// How a request ended.
pub(super) type Ended = Result<(u64, Result<Published, ClientError>), JoinError>;

impl<'a> Publisher<'a> {
    pub(in crate::cli) fn new(client: &'a Client, sending: Sending, progress: &'a mut Progress) -> Self {
        Self {
            client,
            retries: Retries { notes: progress.notes(), is_told: Arc::default() },
            sending,
            progress,
            batch: Batch::default(),
            batch_began: None,
            last_line: 0,
            sent_to: 0,
            sent: BTreeMap::new(),
            tasks: JoinSet::new(),
            next_number: 0,
            published: Ranges::default(),
            has_failed: false,
            summary: Summary::default(),
            began: Instant::now(),
        }
    }

    /// Publishes a line as it stands.
    pub(in crate::cli) async fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let number = self.last_line + 1;
        let record = RecordKey::of_line(line);
        self.pass(number, line);
        self.record(number, line, record).await?;
        if record.is_none() && !line.trim_ascii().is_empty() {
            // The server says what is wrong with it. Nothing that stands behind it is sent before.
            self.settle().await?;
        }
        Ok(())
    }

    /// A line of the input was read.
    pub(super) fn pass(&mut self, number: u64, line: &[u8]) {
        self.last_line = number;
        self.batch.input_bytes += line.len() as u64 + 1;
    }

    /// Publishes a record that was made of a line of the input.
    pub(super) async fn record(&mut self, number: u64, json: &[u8], record: Option<RecordKey>) -> anyhow::Result<()> {
        self.batch_began.get_or_insert_with(Instant::now);
        self.batch.push(number, json, record);
        if self.batch.is_full() { self.flush().await } else { Ok(()) }
    }

    /// When the records that wait for others have waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.batch_began.map(|began| began + LINGER)
    }

    /// Sends what waits to be sent.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        while self.sent.len() >= self.sending.parallel
            || self.sent.values().any(|sent| self.batch.has_any_of(&sent.records))
        {
            let ended = self.ended().await.context("a request was lost")?;
            self.account(ended).await?;
        }
        self.batch_began = None;
        let mut batch = std::mem::take(&mut self.batch);
        let first_line = self.sent_to + 1;
        self.sent_to = batch.numbers.last().copied().unwrap_or(self.sent_to);
        let number = self.next_number;
        self.next_number += 1;
        let sent = Sent {
            records: batch.take_records(),
            lines: (first_line, self.sent_to),
            numbers: std::mem::take(&mut batch.numbers),
            input_bytes: batch.input_bytes,
        };
        self.sent.insert(number, sent);
        let (client, retries, compression) = (self.client.clone(), self.retries.clone(), self.sending.compression);
        self.tasks.spawn(async move {
            let published = async {
                let (lines, encoding) = compression.of(batch.bytes).await;
                retries.until_answered(|| client.post_records(lines.clone(), encoding)).await?.read()
            };
            (number, published.await)
        });
        Ok(())
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Whether a request has failed: nothing else is to be sent then.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Waits until the next request that is under way has ended; `None` if there is none. Losing the future loses nothing.
    pub(super) async fn ended(&mut self) -> Option<Ended> {
        self.tasks.join_next().await
    }

    /// Counts what was published; a failure is told when the other requests have ended.
    pub(super) async fn account(&mut self, ended: Ended) -> anyhow::Result<()> {
        let Some(failure) = self.count(ended)? else {
            return Ok(());
        };
        let mut failures = BTreeMap::from([failure]);
        while let Some(ended) = self.ended().await {
            failures.extend(self.count(ended)?);
        }
        self.has_failed = true;
        Err(self.explained(failures))
    }

    fn count(&mut self, ended: Ended) -> anyhow::Result<Option<(u64, ClientError)>> {
        let (number, published) = ended?;
        let published = match published {
            Ok(published) => published,
            Err(error) => return Ok(Some((number, error))),
        };
        if let Some(sent) = self.sent.remove(&number) {
            self.published.add(sent.lines);
            self.progress.advance(match self.progress.unit() {
                Unit::Bytes => sent.input_bytes,
                Unit::Records => sent.numbers.len() as u64,
            });
        }
        self.summary.accepted += published.accepted;
        self.summary.last_updated_idx = self.summary.last_updated_idx.max(published.last_updated_idx);
        Ok(None)
    }

    /// Sends what waits, and waits until everything that was sent is acknowledged.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.flush().await?;
        while let Some(ended) = self.ended().await {
            self.account(ended).await?;
        }
        Ok(())
    }

    /// Publishes what is left, and says what was published in all.
    pub(in crate::cli) async fn finish(mut self) -> anyhow::Result<Summary> {
        self.settle().await?;
        Ok(Summary { took: self.began.elapsed(), ..self.summary })
    }

    /// How many requests have to end until all records are acknowledged that came so far.
    pub(super) fn number_of_requests(&self) -> u64 {
        self.next_number + u64::from(!self.batch.is_empty())
    }

    /// Every request before this number is acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.sent.first_key_value().map_or(self.next_number, |(number, _)| *number)
    }

    /// Asks for something else that is safe to be asked for twice, as often as it takes.
    pub(super) async fn ask<F: Future<Output = Result<Answer, ClientError>>>(
        &self,
        request: impl FnMut() -> F,
    ) -> Result<Answer, ClientError> {
        self.retries.until_answered(request).await
    }

    pub(super) fn client(&self) -> &'a Client {
        self.client
    }

    /// What became of the lines, as far as is known.
    pub(super) fn fate_of_lines(&self) -> String {
        self.published.to_string()
    }

    /// Counts lines from the input's beginning, and says what became of the others. What the server refused is told
    /// rather than what it did not answer.
    fn explained(&self, failures: BTreeMap<u64, ClientError>) -> anyhow::Error {
        let (refused, unknown): (Vec<_>, Vec<_>) = failures.into_iter().partition(|(_, error)| is_refusal(error));
        let mut fate = self.fate_of_lines();
        let lines = unknown.iter().filter_map(|(number, _)| self.sent.get(number)).map(|sent| sent.lines);
        let lines: Vec<String> = lines.map(|(first, last)| format!("{first} to {last}")).collect();
        if !lines.is_empty() {
            let lines = lines.join(" and ");
            fate = format!("{fate}; lines {lines} may be published or not: publishing all again does no harm");
        }
        match refused.into_iter().chain(unknown).next() {
            Some((number, error)) => anyhow::anyhow!("{}\n{fate}", self.with_lines_of_input(number, error)),
            None => anyhow::anyhow!(fate),
        }
    }

    fn with_lines_of_input(&self, request: u64, error: ClientError) -> ClientError {
        let numbers = self.sent.get(&request).map(|sent| &sent.numbers[..]).unwrap_or_default();
        let of_input = |line: u64| numbers.get(usize::try_from(line).ok()?.checked_sub(1)?).copied();
        match error {
            ClientError::Refused { mut problem, retry_after } => {
                for finding in &mut problem.errors {
                    finding.line = finding.line.and_then(of_input);
                }
                ClientError::Refused { problem, retry_after }
            }
            error => error,
        }
    }
}

/// Whether nothing of the request was taken. One that took too long, or failed there, may have been.
fn is_refusal(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { problem, .. } if problem.status < 500) && !error.is_transient()
}

/// Tries again what may succeed in a while.
#[derive(Clone)]
struct Retries {
    notes: Notes,
    /// Whether it was told that something is tried again: once an outage, not once a request.
    is_told: Arc<AtomicBool>,
}

impl Retries {
    async fn until_answered<F: Future<Output = Result<Answer, ClientError>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<Answer, ClientError> {
        let give_up_at = Instant::now() + RETRY_FOR;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match request().await {
                Ok(answer) => {
                    self.is_told.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !error.is_transient() || Instant::now() + pause >= give_up_at {
                return Err(error);
            }
            if !self.is_told.swap(true, Ordering::Relaxed) {
                let tries = figures::span(RETRY_FOR);
                self.notes.note(format_args!("{error}\ntrying again, for {tries} at most"));
            }
            let asked_for = match &error {
                ClientError::Refused { retry_after: Some(after), .. } => (*after).min(LONGEST_PAUSE),
                _ => Duration::ZERO,
            };
            tokio::time::sleep(pause.max(asked_for)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
