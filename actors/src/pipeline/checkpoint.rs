//! The checkpoint, as the store has it.
//!
//! Each write names the revision that the one before has left. So a node that owns the consumer no more, and does not know
//! it yet, takes nothing back that its successor has written, and brings nothing back of a consumer that was deleted.

use tokio::sync::Mutex;

use crate::{
    model::{Checkpoint, ConsumerId, Revision},
    spans::ErrorType,
    store::{Documents, DocumentsError, StoreError},
};

impl ErrorType for DocumentsError {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Store(StoreError::Conflict { .. }) => "conflict",
            _ => "store",
        }
    }
}

/// What was last read or written of it here.
pub(crate) struct SavedCheckpoint {
    consumer: ConsumerId,
    documents: Documents,
    /// `None` while there is none. Held while it is written.
    revision: Mutex<Option<Revision>>,
}

impl SavedCheckpoint {
    /// Reads it, if there is one.
    pub(crate) async fn read(
        consumer: ConsumerId,
        documents: &Documents,
    ) -> Result<(Self, Option<Checkpoint>), DocumentsError> {
        let found = documents.get::<Checkpoint>(consumer).await?;
        let revision = Mutex::new(found.as_ref().map(|found| found.revision));
        Ok((Self { consumer, documents: documents.clone(), revision }, found.map(|found| found.value)))
    }

    /// Writes it, unless somebody else has done so meanwhile: that is a conflict. So it is after a write that was done though
    /// nobody could say so. Either way it has to be read again.
    pub(crate) async fn write(&self, checkpoint: &Checkpoint) -> Result<(), DocumentsError> {
        let mut revision = self.revision.lock().await;
        let written = match *revision {
            Some(revision) => self.documents.update(self.consumer, checkpoint, revision).await,
            None => self.documents.insert(self.consumer, checkpoint).await,
        };
        *revision = Some(written?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::Idx,
        store::{Keyring, SqliteStore},
    };

    async fn documents() -> (tempfile::TempDir, Documents) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(&directory.path().join("control.db")).await.expect("a store");
        let keyring = Keyring::from_base64(&Keyring::generate_base64()).expect("a key");
        (directory, Documents::new(Arc::new(store), Arc::new(keyring)))
    }

    fn at(idx: u64) -> Checkpoint {
        Checkpoint { idx: Idx(idx), ..Checkpoint::default() }
    }

    fn is_conflict(written: &Result<(), DocumentsError>) -> bool {
        matches!(written, Err(DocumentsError::Store(StoreError::Conflict { .. })))
    }

    #[tokio::test]
    async fn who_was_succeeded_writes_nothing_over_what_the_successor_has_written() {
        let (_directory, documents) = documents().await;
        let id = ConsumerId::generate();
        let (former, nothing) = SavedCheckpoint::read(id, &documents).await.expect("read");
        assert_eq!(nothing, None);
        former.write(&at(10)).await.expect("written");
        let (successor, found) = SavedCheckpoint::read(id, &documents).await.expect("read");
        assert_eq!(found, Some(at(10)));
        former.write(&at(20)).await.expect("nobody has written since");
        assert!(is_conflict(&successor.write(&at(30)).await), "it has to read again");
        let (successor, _) = SavedCheckpoint::read(id, &documents).await.expect("read");
        successor.write(&at(30)).await.expect("written");
        successor.write(&at(40)).await.expect("written");
        assert!(is_conflict(&former.write(&at(25)).await));
        assert_eq!(documents.get::<Checkpoint>(id).await.expect("read").map(|found| found.value), Some(at(40)));
    }

    #[tokio::test]
    async fn what_was_deleted_is_not_brought_back() {
        let (_directory, documents) = documents().await;
        let id = ConsumerId::generate();
        let (checkpoint, _) = SavedCheckpoint::read(id, &documents).await.expect("read");
        checkpoint.write(&at(10)).await.expect("written");
        documents.delete::<Checkpoint>(id, None).await.expect("deleted");
        assert!(is_conflict(&checkpoint.write(&at(20)).await));
        assert_eq!(documents.get::<Checkpoint>(id).await.expect("read"), None);
    }
}
