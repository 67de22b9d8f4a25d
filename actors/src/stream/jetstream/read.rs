//! Reading: pages from a cursor, once it is known in which stream a filter's records lie.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    super::{PageLimit, RecordReader, StreamError},
    names::Names,
    registry::Registry,
};
use crate::{
    jetstream::{Cursor, JetStream},
    model::{Filter, Idx, Page},
};

/// A reader of one provider or sync.
pub(super) struct JetStreamReader {
    connection: JetStream,
    registry: Arc<Registry>,
    changes: watch::Receiver<()>,
    filter: Filter,
    after: Idx,
    /// `None` until the provider or sync is known.
    cursor: Option<Cursor>,
}

impl JetStreamReader {
    pub(super) fn new(connection: JetStream, registry: Arc<Registry>, filter: Filter, after: Idx) -> Self {
        let changes = registry.changes();
        Self { connection, registry, changes, filter, after, cursor: None }
    }

    fn cursor(&mut self) -> Option<&mut Cursor> {
        if self.cursor.is_none() {
            // Before the look: what it does not see is still to come.
            self.changes.mark_unchanged();
            let (stream, subject) = place(&self.connection, &self.registry, &self.filter)?;
            self.cursor = Some(Cursor::new(self.connection.clone(), stream, subject, self.after.0));
        }
        self.cursor.as_mut()
    }
}

#[async_trait]
impl RecordReader for JetStreamReader {
    async fn ready(&mut self) -> Result<(), StreamError> {
        loop {
            let after = self.after;
            if let Some(cursor) = self.cursor() {
                match cursor.ready().await {
                    Err(error) if error.is_no_stream() && after == Idx::START => self.cursor = None,
                    Err(error) if error.is_no_stream() => return Err(StreamError::Replaced(error.to_string())),
                    outcome => return Ok(outcome?),
                }
            }
            let closed = |_| StreamError::Unavailable("the stream was closed".into());
            self.changes.changed().await.map_err(closed)?;
        }
    }

    async fn read(&mut self, limit: PageLimit) -> Result<Page, StreamError> {
        let after = self.after;
        let Some(cursor) = self.cursor() else { return Ok(Page::with_capacity(after, 0)) };
        match cursor.fetch(limit.records, limit.bytes).await {
            Err(error) if error.is_no_stream() && after == Idx::START => {
                self.cursor = None;
                return Ok(Page::with_capacity(after, 0));
            }
            Err(error) if error.is_no_stream() => return Err(StreamError::Replaced(error.to_string())),
            outcome => outcome?,
        }
        let mut page = Page::with_capacity(after, cursor.bytes().min(limit.bytes));
        while let Some(next) = cursor.peek() {
            let is_full = page.entries().len() >= limit.records || page.size() + next.payload.len() > limit.bytes;
            if is_full && !page.entries().is_empty() {
                break;
            }
            let Some(next) = cursor.take() else { break };
            if page.entries().is_empty() {
                page.was_published(next.published_at);
            }
            page.push(Idx(next.sequence), &next.payload);
        }
        match cursor.read_to().await {
            Ok(read_to) => page.extend_to(Idx(read_to)),
            Err(error) if page.entries().is_empty() => return Err(error.into()),
            // What was taken is not lost; the error is met again.
            Err(error) => tracing::debug!(%error, "the end of a stream could not be asked for"),
        }
        self.after = page.read_to();
        Ok(page)
    }
}

/// The stream and the subject of a filter, once its provider or sync is known.
pub(super) fn place(connection: &JetStream, registry: &Registry, filter: &Filter) -> Option<(String, String)> {
    match filter {
        Filter::Provider(provider) => {
            registry.provider(provider)?;
            let names = Names::of(connection, provider);
            Some((names.stream(), names.records()))
        }
        Filter::Sync(sync) => {
            let names = Names::of(connection, &registry.provider_of(*sync)?);
            Some((names.stream(), names.records_of(*sync)))
        }
    }
}
