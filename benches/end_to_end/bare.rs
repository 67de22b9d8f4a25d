//! The limit: what the server takes from a program that does nothing but send. The rows lie in memory, encoded, in the
//! order of their keys within each batch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::{SinkExt, future::join_all};
use sequin_actors::model::{Record, SequinId, TableName};
use tokio_postgres::Client;

use super::server::{Server, sql};

/// How many rows go in one transaction.
const BATCH: usize = 5000;

/// How many bytes are handed to the driver at once.
const CHUNK: usize = 128 * 1024;

/// Each number of connections is tried; the best counts.
pub(crate) const CONNECTIONS: [usize; 3] = [2, 3, 4];

const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows on their way into batches.
#[derive(Default)]
pub(crate) struct Bare {
    rows: Vec<(SequinId, Bytes)>,
    batches: Vec<Bytes>,
}

impl Bare {
    pub(crate) fn push(&mut self, record: &Record<'_>, idx: u64) {
        self.rows.push((record.sequin_id, row(record, idx)));
        if self.rows.len() == BATCH {
            self.end_batch();
        }
    }

    fn end_batch(&mut self) {
        self.rows.sort_unstable_by_key(|(id, _)| *id);
        let mut batch = BytesMut::new();
        batch.put_slice(COPY_HEADER);
        for (_, row) in self.rows.drain(..) {
            batch.put_slice(&row);
        }
        batch.put_i16(-1);
        self.batches.push(batch.freeze());
    }

    /// The batches, ready to send.
    pub(crate) fn finish(mut self) -> Batches {
        self.end_batch();
        Batches(Arc::new(self.batches))
    }
}

/// Rows as they are sent, a COPY each.
pub(crate) struct Batches(Arc<Vec<Bytes>>);

impl Batches {
    /// Copies them into an empty table.
    pub(crate) async fn copy(&self, server: &Server, table: &TableName, connections: usize) -> Duration {
        let copy = format!("copy {} from stdin (format binary)", sql(table));
        self.on_each(server, connections, "", async |client, batch| send(client, &copy, batch).await).await
    }

    /// Copies them into a temporary table, batch by batch, and upserts them from there in one statement.
    pub(crate) async fn upsert(&self, server: &Server, table: &TableName, connections: usize) -> Duration {
        let table = sql(table);
        let stage = format!("create temporary table stage (like {table}) on commit delete rows");
        let columns = "sync_id sync_external_id sync_metadata collection_id upstream_id payload updated_idx \
                       upstream_updated_at upstream_created_at updated_at";
        let set: Vec<_> = columns.split_whitespace().map(|column| format!("{column} = excluded.{column}")).collect();
        let upsert = format!(
            "insert into {table} as t select * from stage on conflict (sequin_id) do update set {} \
             where t.updated_idx < excluded.updated_idx",
            set.join(", ")
        );
        self.on_each(server, connections, &stage, async |client, batch| {
            client.batch_execute("begin").await.expect("a transaction");
            send(client, "copy stage from stdin (format binary)", batch).await;
            client.batch_execute(&upsert).await.expect("upserted");
            client.batch_execute("commit").await.expect("committed");
        })
        .await
    }

    /// Shares the batches among connections, each of which takes the next when it is done with one.
    async fn on_each(
        &self,
        server: &Server,
        connections: usize,
        setup: &str,
        bring: impl AsyncFn(&Client, Bytes),
    ) -> Duration {
        let clients = join_all((0..connections).map(|_| server.session())).await;
        join_all(clients.iter().map(async |client| client.batch_execute(setup).await.expect("set up"))).await;
        let next = std::sync::atomic::AtomicUsize::new(0);
        let began = Instant::now();
        join_all(clients.iter().map(async |client| {
            while let Some(batch) = self.0.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                bring(client, batch.clone()).await;
            }
        }))
        .await;
        began.elapsed()
    }
}

async fn send(client: &Client, copy: &str, batch: Bytes) {
    let mut sink = Box::pin(client.copy_in::<_, Bytes>(copy).await.expect("a copy"));
    for start in (0..batch.len()).step_by(CHUNK) {
        sink.feed(batch.slice(start..batch.len().min(start + CHUNK))).await.expect("sent");
    }
    sink.as_mut().finish().await.expect("copied");
}

/// A row of binary COPY: <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format".
fn row(record: &Record<'_>, idx: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(12);
    let mut field = |parts: &[&[u8]]| {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        out.put_i32(i32::try_from(length).expect("fits"));
        for part in parts {
            out.put_slice(part);
        }
    };
    let time = |time: DateTime<Utc>| (time.timestamp_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes();
    field(&[record.sequin_id.0.as_bytes()]);
    field(&[record.sync_id.0.as_bytes()]);
    field(&[record.sync_external_id.expect("the CRM's syncs have one").as_bytes()]);
    field(&[&[1], record.sync_metadata.as_bytes()]);
    field(&[record.collection_id.as_bytes()]);
    field(&[record.upstream_id.as_bytes()]);
    field(&[&[1], record.payload.as_bytes()]);
    field(&[&idx.to_be_bytes()]);
    field(&[&time(record.upstream_updated_at)]);
    field(&[&time(record.upstream_created_at)]);
    field(&[&time(Utc::now())]);
    field(&[&time(Utc::now())]);
    out.freeze()
}
