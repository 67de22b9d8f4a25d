//! Loading: where a consumer goes on.

use std::sync::Arc;

use chrono::Utc;
use tokio_util::task::TaskTracker;

use super::{Quarantine, SavedCheckpoint};
use crate::{
    flow::{progress::Progress, refusals::RefusalLimit},
    model::{Backfill, Consumer, Filter, Idx, Quarantined},
    spans::ErrorType,
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
    /// It seems so. A server of a cluster may not know all that there is, while another begins to lead.
    #[error("the record stream ends at {head}, but was read up to {checkpoint}")]
    WentBack { checkpoint: Idx, head: Idx },
    #[error("the consumer is deleted")]
    Deleted,
}

impl ErrorType for LoadError {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Documents(error) => error.error_type(),
            Self::Stream(_) => "stream",
            Self::WentBack { .. } => "went_back",
            Self::Deleted => "deleted",
        }
    }
}

/// Where a consumer goes on.
pub(crate) struct Loaded {
    pub(crate) progress: Box<Progress>,
    pub(crate) checkpoint: Arc<SavedCheckpoint>,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// Loads where the consumer goes on, and the quarantine; one that has not begun, or begins again, begins a backfill. One whose
/// checkpoint says nothing of the stream that is there is astray, and is to read nothing.
///
/// `earlier` are the transactions of the pipelines before. That the stream went back is believed if that `is_sure`: it stays
/// written down.
pub(crate) async fn load(
    consumer: &Consumer,
    documents: &Documents,
    stream: &dyn RecordStream,
    refusal_limit: RefusalLimit,
    earlier: &TaskTracker,
    is_sure: bool,
) -> Result<Loaded, LoadError> {
    let (in_store, saved) = SavedCheckpoint::read(consumer.id, documents).await?;
    // Its owner may be another node by now, and have removed what there was of it.
    if saved.is_none() && documents.get::<Consumer>(consumer.id).await?.is_none() {
        return Err(LoadError::Deleted);
    }
    let saved = saved.unwrap_or_default();
    let mut checkpoint = saved.clone().going_on_for(consumer);
    let is_rewound = checkpoint.rewinds != saved.rewinds;
    let present = stream.identity(&consumer.filter).await?;
    let (idx, went_back_to) = (checkpoint.idx, checkpoint.went_back_to);
    checkpoint = checkpoint.going_on_in(present, stream.head(&consumer.filter).await?, is_rewound);
    if let Some(head) = checkpoint.went_back_to.filter(|_| went_back_to.is_none() && !is_sure) {
        return Err(LoadError::WentBack { checkpoint: idx, head });
    }
    let astray = checkpoint.astray_in(present);
    if checkpoint.backfill.is_none() && astray.is_none() {
        checkpoint.backfill = Some(begin_backfill(&consumer.filter, checkpoint.idx, stream).await?);
    }
    if checkpoint != saved {
        in_store.write(&checkpoint).await?;
    }
    if checkpoint.clears_quarantine {
        // Only once it is written that everything is read again: what is refused then is set aside then. What an earlier
        // pipeline still sets aside comes first.
        earlier.wait().await;
        documents.delete_all_of::<Quarantined>(consumer.id).await?;
        checkpoint.clears_quarantine = false;
        in_store.write(&checkpoint).await?;
    }
    let quarantine = Quarantine::load(consumer.id, documents, refusal_limit).await?;
    let mut progress = Progress::resume(checkpoint);
    if let Some(astray) = astray {
        progress.is_astray(astray);
    }
    Ok(Loaded { progress: Box::new(progress), checkpoint: Arc::new(in_store), quarantine })
}

/// The backfill is what the stream holds beyond `from` now.
async fn begin_backfill(filter: &Filter, from: Idx, stream: &dyn RecordStream) -> Result<Backfill, StreamError> {
    let until = stream.head(filter).await?;
    let all = stream.lag(filter, from).await?.records;
    let beyond = stream.lag(filter, until).await?.records;
    Ok(Backfill { until, total: all.saturating_sub(beyond), done: 0, started_at: Utc::now(), finished_at: None })
}
