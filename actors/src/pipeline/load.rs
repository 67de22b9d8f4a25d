//! Loading: where a consumer goes on.

use std::sync::Arc;

use chrono::Utc;
use tokio_util::task::TaskTracker;

use super::Quarantine;
use crate::{
    flow::{progress::Progress, refusals::RefusalLimit},
    model::{Backfill, Checkpoint, Consumer, Filter, Idx, Quarantined},
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

/// Loads where the consumer goes on, and the quarantine; one that has not begun, or begins again, begins a backfill. One whose
/// checkpoint says nothing of the stream that is there is astray, and is to read nothing.
///
/// `earlier` are the transactions of the pipelines before.
pub(crate) async fn load(
    consumer: &Consumer,
    documents: &Documents,
    stream: &dyn RecordStream,
    refusal_limit: RefusalLimit,
    earlier: &TaskTracker,
) -> Result<(Box<Progress>, Arc<Quarantine>), LoadError> {
    let saved = documents.get::<Checkpoint>(consumer.id).await?.map(|saved| saved.value).unwrap_or_default();
    let mut checkpoint = saved.clone().going_on_for(consumer);
    let is_rewound = checkpoint.rewinds != saved.rewinds;
    let present = stream.identity(&consumer.filter).await?;
    checkpoint = checkpoint.going_on_in(present, stream.head(&consumer.filter).await?, is_rewound);
    let astray = checkpoint.astray_in(present);
    if checkpoint.backfill.is_none() && astray.is_none() {
        checkpoint.backfill = Some(begin_backfill(&consumer.filter, checkpoint.idx, stream).await?);
    }
    if checkpoint != saved {
        documents.put(consumer.id, &checkpoint).await?;
    }
    if checkpoint.clears_quarantine {
        // Only once it is written that everything is read again: what is refused then is set aside then. What an earlier
        // pipeline still sets aside comes first.
        earlier.wait().await;
        documents.delete_all_of::<Quarantined>(consumer.id).await?;
        checkpoint.clears_quarantine = false;
        documents.put(consumer.id, &checkpoint).await?;
    }
    let quarantine = Quarantine::load(consumer.id, documents, refusal_limit).await?;
    let mut progress = Progress::resume(checkpoint);
    if let Some(astray) = astray {
        progress.is_astray(astray);
    }
    Ok((Box::new(progress), quarantine))
}

/// The backfill is what the stream holds beyond `from` now.
async fn begin_backfill(filter: &Filter, from: Idx, stream: &dyn RecordStream) -> Result<Backfill, StreamError> {
    let until = stream.head(filter).await?;
    let all = stream.lag(filter, from).await?.records;
    let beyond = stream.lag(filter, until).await?.records;
    Ok(Backfill { until, total: all.saturating_sub(beyond), done: 0, started_at: Utc::now(), finished_at: None })
}
