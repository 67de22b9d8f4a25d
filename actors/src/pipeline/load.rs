//! Loading: where a consumer goes on.

use chrono::Utc;

use crate::{
    flow::progress::Progress,
    model::{Backfill, Checkpoint, Consumer, Filter, Idx},
    store::{Documents, DocumentsError},
    stream::{RecordStream, StreamError},
};

/// Why a consumer's progress can't be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Loads the checkpoint; a consumer that has none begins its backfill.
pub(crate) async fn load(
    consumer: &Consumer,
    documents: &Documents,
    stream: &dyn RecordStream,
) -> Result<Progress, LoadError> {
    let saved = documents.get::<Checkpoint>(consumer.id).await?;
    let mut checkpoint = saved.map(|saved| saved.value).unwrap_or_default();
    if checkpoint.backfill.is_none() {
        checkpoint.backfill = Some(begin_backfill(&consumer.filter, stream).await?);
        documents.put(consumer.id, &checkpoint).await?;
    }
    Ok(Progress::resume(checkpoint))
}

/// The backfill is what the stream holds now.
async fn begin_backfill(filter: &Filter, stream: &dyn RecordStream) -> Result<Backfill, StreamError> {
    let until = stream.head(filter).await?;
    let all = stream.lag(filter, Idx::START).await?.records;
    let beyond = stream.lag(filter, until).await?.records;
    Ok(Backfill { until, total: all.saturating_sub(beyond), done: 0, started_at: Utc::now(), finished_at: None })
}
