//! The status of a consumer, as the store has it.
//!
//! Who begins writes over what is there. From then on each write names the revision that the one before has left: a node
//! that lost the consumer, and does not know it yet, takes nothing back that its successor says.

use tokio::sync::Mutex;

use crate::{
    model::{ConsumerId, ConsumerStatus, Revision},
    store::{Documents, DocumentsError, StoreError},
};

/// What was last written of it here.
pub(crate) struct WrittenStatus {
    consumer: ConsumerId,
    documents: Documents,
    /// Held while it is written.
    last: Mutex<Last>,
}

#[derive(Clone, Copy)]
enum Last {
    /// Nothing was written yet.
    Nothing,
    At(Revision),
    /// Somebody else writes it now.
    BySuccessor,
}

impl WrittenStatus {
    pub(crate) fn new(consumer: ConsumerId, documents: &Documents) -> Self {
        Self { consumer, documents: documents.clone(), last: Mutex::new(Last::Nothing) }
    }

    /// Writes it, unless somebody else does by now.
    pub(crate) async fn write(&self, status: &ConsumerStatus) -> Result<(), DocumentsError> {
        let mut last = self.last.lock().await;
        // Should this be dropped half way, nobody knows what the next one finds.
        let before = std::mem::replace(&mut *last, Last::Nothing);
        let written = match before {
            Last::Nothing => self.documents.put(self.consumer, status).await,
            Last::At(revision) => self.documents.update(self.consumer, status, revision).await,
            Last::BySuccessor => {
                *last = Last::BySuccessor;
                return Ok(());
            }
        };
        let (after, outcome) = match written {
            Ok(revision) => (Last::At(revision), Ok(())),
            Err(DocumentsError::Store(StoreError::Conflict { .. })) => (Last::BySuccessor, Ok(())),
            Err(error) => (before, Err(error)),
        };
        *last = after;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        flow::progress::Progress,
        model::{Checkpoint, RunState},
        store::{Keyring, SqliteStore},
    };

    #[tokio::test]
    async fn who_was_succeeded_says_nothing_any_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        let documents = Documents::new(Arc::new(store), Arc::new(keyring));
        let (id, progress) = (ConsumerId::generate(), Progress::resume(Checkpoint::default()));
        let says = |state| progress.status(state, Vec::new(), 0, "node", chrono::Utc::now());
        let (former, successor) = (WrittenStatus::new(id, &documents), WrittenStatus::new(id, &documents));
        former.write(&says(RunState::Live)).await.expect("written");
        former.write(&says(RunState::Backfilling)).await.expect("written again");
        successor.write(&says(RunState::Live)).await.expect("written over");
        former.write(&says(RunState::Waiting)).await.expect("left alone");
        let found = documents.get::<ConsumerStatus>(id).await.expect("read").expect("there").value;
        assert_eq!(found.state, RunState::Live);
        successor.write(&says(RunState::Paused)).await.expect("written again");
    }
}
