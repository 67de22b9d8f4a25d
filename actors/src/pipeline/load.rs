//! Loading: where a consumer goes on.

use std::sync::Arc;

use chrono::Utc;

use super::Quarantine;
use crate::{
    flow::{progress::Progress, refusals::RefusalLimit},
    model::{Backfill, Checkpoint, Consumer, Filter, Idx},
    store::{Documents, DocumentsError},
    stream::{RecordStream, StreamError},
};

/// Why it can't be loaded where a consumer goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Loads the checkpoint and the quarantine; a consumer that has no checkpoint begins its backfill.
pub(crate) async fn load(
    consumer: &Consumer,
    documents: &Documents,
    stream: &dyn RecordStream,
    refusal_limit: RefusalLimit,
) -> Result<(Progress, Arc<Quarantine>), LoadError> {
    let saved = documents.get::<Checkpoint>(consumer.id).await?;
    let mut checkpoint = saved.map(|saved| saved.value).unwrap_or_default();
    if checkpoint.backfill.is_none() {
        checkpoint.backfill = Some(begin_backfill(&consumer.filter, stream).await?);
        documents.put(consumer.id, &checkpoint).await?;
    }
    let quarantine = Quarantine::load(consumer.id, documents, refusal_limit).await?;
    Ok((Progress::resume(checkpoint), quarantine))
}

/// The backfill is what the stream holds now.
async fn begin_backfill(filter: &Filter, stream: &dyn RecordStream) -> Result<Backfill, StreamError> {
    let until = stream.head(filter).await?;
    let all = stream.lag(filter, Idx::START).await?.records;
    let beyond = stream.lag(filter, until).await?.records;
    Ok(Backfill { until, total: all.saturating_sub(beyond), done: 0, started_at: Utc::now(), finished_at: None })
}
