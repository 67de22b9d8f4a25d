//! How long a change takes from the acknowledgement of its publication until its row can be read: measured, by reading.

use std::time::{Duration, Instant};

use sequin_actors::model::{Connection, SequinId, SyncId};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::demo::customer::{Customer, CustomerError, Versions};

/// A change to wait for.
pub(super) struct Sample {
    record: SequinId,
    idx: u64,
    acknowledged_at: Instant,
}

impl Sample {
    /// The last of the changes that were just acknowledged; none if it is not a record with an id.
    pub(super) fn of(line: &str, idx: u64) -> Option<Self> {
        let Line { sync_id, collection_id, upstream_id } = serde_json::from_str(line).ok()?;
        let record = SequinId::derive(sync_id, collection_id, upstream_id);
        Some(Self { record, idx, acknowledged_at: Instant::now() })
    }
}

/// What of a line says which record it is.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "they are called so on the wire")]
struct Line<'a> {
    sync_id: SyncId,
    collection_id: &'a str,
    upstream_id: &'a str,
}

/// Looks for samples in the table, one at a time, over a connection of its own.
pub(super) struct Probe {
    samples: mpsc::Sender<Sample>,
    latencies: mpsc::UnboundedReceiver<Duration>,
}

/// How often the table is looked at while a sample is not there.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A sample that is not there after this long will not be: it was deleted meanwhile, or the lag shows.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// How long to wait before connecting again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

impl Probe {
    /// Connects, and waits for samples from then on.
    pub(super) async fn start(connection: Connection, table: String) -> Result<Self, CustomerError> {
        let mut versions = open(&connection, &table).await?;
        let (samples, mut incoming) = mpsc::channel(1);
        let (outgoing, latencies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // An error is a broken connection, which is made again: databases are restarted.
            while measure(&versions, &mut incoming, &outgoing).await.is_err() {
                versions = loop {
                    tokio::time::sleep(RECONNECT_AFTER).await;
                    if let Ok(versions) = open(&connection, &table).await {
                        break versions;
                    }
                };
                // What came meanwhile would tell how long that took.
                while incoming.try_recv().is_ok() {}
            }
        });
        Ok(Self { samples, latencies })
    }

    /// Takes a sample, unless another is being waited for.
    pub(super) fn offer(&self, sample: Option<Sample>) {
        if let Some(sample) = sample {
            let _ = self.samples.try_send(sample);
        }
    }

    /// The latencies since the last time.
    pub(super) fn take(&mut self) -> Vec<Duration> {
        std::iter::from_fn(|| self.latencies.try_recv().ok()).collect()
    }
}

async fn open(connection: &Connection, table: &str) -> Result<Versions, CustomerError> {
    Customer::connect(connection).await?.watch(table).await
}

/// Waits for one sample after the other, until there are no more.
async fn measure(
    versions: &Versions,
    incoming: &mut mpsc::Receiver<Sample>,
    outgoing: &mpsc::UnboundedSender<Duration>,
) -> Result<(), CustomerError> {
    while let Some(sample) = incoming.recv().await {
        if let Some(latency) = wait_for(&sample, versions).await? {
            let _ = outgoing.send(latency);
        }
    }
    Ok(())
}

async fn wait_for(sample: &Sample, versions: &Versions) -> Result<Option<Duration>, CustomerError> {
    while sample.acknowledged_at.elapsed() < GIVE_UP_AFTER {
        let found = versions.of(sample.record).await?;
        if found.is_some_and(|idx| idx >= sample.idx) {
            return Ok(Some(sample.acknowledged_at.elapsed()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// What so many of a hundred did not exceed. Sorts them.
pub(super) fn percentile(latencies: &mut [Duration], percent: usize) -> Option<Duration> {
    latencies.sort_unstable();
    let rank = (latencies.len() * percent).div_ceil(100).max(1);
    latencies.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_latencies() {
        let mut latencies: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut latencies, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&mut latencies, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&mut latencies[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn a_sample_is_the_record_of_the_line() {
        let line = r#"{"op":"upsert","sync_id":"00000000-0000-0000-0000-000000000007","collection_id":"contact",
                       "upstream_id":"101","payload":{}}"#;
        let sample = Sample::of(line, 9).expect("a record");
        assert_eq!(sample.record.to_string(), "42cfc972-87dd-5fae-9cd2-1bf1128d73a3");
    }
}
