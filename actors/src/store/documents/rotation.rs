//! Rotation: everything that an earlier encryption key sealed is sealed anew, under the first one.
//!
//! It may be interrupted and run again, and beside changes: a document is written at the revision that was read, and
//! only if another key than the first sealed it.

use super::{Document, Documents, DocumentsError, Entry, StoreError, Unreadable, decode, prefix};
use crate::model::{AlertingSettings, IdempotencyKey, Target};

/// How often a document is read that somebody else changes at the same moment.
pub(super) const READ_AT_MOST: usize = 10;

/// What a rotation did.
#[derive(Debug, Default, PartialEq)]
pub struct Resealed {
    /// How many documents are now sealed under the first key that were not before.
    pub documents: u64,
    /// What can't be read, and so may still need another key.
    pub unreadable: Vec<Unreadable>,
}

impl Documents {
    /// Seals everything under the first key. The other keys are not needed any more, unless something can't be read.
    pub async fn reseal(&self) -> Result<Resealed, DocumentsError> {
        let mut resealed = Resealed::default();
        // Every kind that seals something.
        self.reseal_all::<Target>(&mut resealed).await?;
        self.reseal_all::<IdempotencyKey>(&mut resealed).await?;
        self.reseal_all::<AlertingSettings>(&mut resealed).await?;
        // Last: while anything needs another key, the node is not to start without it.
        if resealed.unreadable.is_empty() {
            self.reseal_key_check().await?;
        }
        Ok(resealed)
    }

    async fn reseal_all<T: Document>(&self, resealed: &mut Resealed) -> Result<(), DocumentsError> {
        for entry in self.entries_under(&prefix::<T>()).await? {
            match self.reseal_one::<T>(entry).await {
                Ok(is_new) => resealed.documents += u64::from(is_new),
                Err(DocumentsError::Unreadable(unreadable)) => resealed.unreadable.push(unreadable),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns whether another key had sealed it.
    async fn reseal_one<T: Document>(&self, entry: Entry) -> Result<bool, DocumentsError> {
        let (lies_at, mut found) = (entry.key.clone(), Some(entry));
        for _ in 0..READ_AT_MOST {
            // What was deleted in the meantime needs no key.
            let Some(entry) = found else { return Ok(false) };
            if T::from_stored(decode(T::VERSION, &entry)?, &self.keyring.first_alone()).is_ok() {
                return Ok(false);
            }
            let document = self.read::<T>(&entry)?.value;
            match self.store.update(&lies_at, self.write(&document), entry.revision).await {
                Ok(_) => return Ok(true),
                Err(StoreError::Conflict { .. }) => found = self.store.get(&lies_at).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict { key: lies_at }.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;

    use super::{
        super::{
            super::{Keyring, Named, Store},
            key,
            tests::{documents, target},
        },
        *,
    };

    fn under(store: &Arc<dyn Store>, keys: &str) -> Documents {
        Documents::new(Arc::clone(store), Arc::new(Keyring::from_base64(keys).expect("keys")))
    }

    /// Targets, sealed under the first of two keys.
    async fn sealed_before() -> (tempfile::TempDir, Arc<dyn Store>, Vec<Target>, [String; 2]) {
        let (directory, Documents { store, .. }) = documents().await;
        let keys = [Keyring::generate_base64(), Keyring::generate_base64()];
        let documents = under(&store, &keys[0]);
        documents.check_key().await.expect("a new store");
        let targets: Vec<_> = ["a", "b", "c"].map(target).into();
        for target in &targets {
            documents.create(target, Utc::now()).await.expect("created");
        }
        (directory, store, targets, keys)
    }

    #[tokio::test]
    async fn after_a_rotation_everything_opens_under_the_new_key_alone_and_a_second_one_has_nothing_to_do() {
        let (_directory, store, targets, [old, new]) = sealed_before().await;
        let both = under(&store, &format!("{new},{old}"));
        both.check_key().await.expect("the old one is among them");
        assert!(matches!(under(&store, &new).check_key().await, Err(DocumentsError::WrongKey)));
        assert_eq!(both.reseal().await.expect("rotated"), Resealed { documents: 3, unreadable: vec![] });
        assert_eq!(both.reseal().await.expect("rotated"), Resealed::default());
        let later = under(&store, &new);
        later.check_key().await.expect("the new one is enough");
        for target in targets {
            assert_eq!(later.get::<Target>(target.id()).await.expect("read").expect("there").value, target);
        }
    }

    #[tokio::test]
    async fn rotations_that_run_at_once_do_it_together() {
        let (_directory, store, _, [old, new]) = sealed_before().await;
        let both = under(&store, &format!("{new},{old}"));
        let rotations = tokio::join!(both.reseal(), both.reseal(), both.reseal());
        let resealed = [rotations.0, rotations.1, rotations.2].map(|rotation| rotation.expect("rotated").documents);
        assert_eq!(resealed.iter().sum::<u64>(), 3, "{resealed:?}");
        under(&store, &new).check_key().await.expect("the new one is enough");
    }

    #[tokio::test]
    async fn a_rotation_that_was_interrupted_still_needs_the_old_key_and_is_completed_by_the_next() {
        let (_directory, store, targets, [old, new]) = sealed_before().await;
        let both = under(&store, &format!("{new},{old}"));
        let first = store.get(&key::<Target>(targets[0].id)).await.expect("read").expect("there");
        assert!(both.reseal_one::<Target>(first).await.expect("sealed anew"));
        assert!(matches!(under(&store, &new).check_key().await, Err(DocumentsError::WrongKey)));
        assert_eq!(both.reseal().await.expect("rotated").documents, 2);
    }

    #[tokio::test]
    async fn what_somebody_changes_meanwhile_is_sealed_anew_as_it_is_by_then_or_left_if_it_is_gone() {
        let (_directory, store, targets, [old, new]) = sealed_before().await;
        let both = under(&store, &format!("{new},{old}"));
        let [changed, deleted, _] = &targets[..] else { panic!("three") };
        let read = async |target: &Target| store.get(&key::<Target>(target.id)).await.expect("read").expect("there");
        let (first, second) = (read(changed).await, read(deleted).await);
        let elsewhere = under(&store, &old);
        let later = Target { pool_size: 9, ..changed.clone() };
        elsewhere.update(changed.id, &later, first.revision).await.expect("changed");
        elsewhere.delete::<Target>(deleted.id, None).await.expect("deleted");
        assert!(both.reseal_one::<Target>(first).await.expect("sealed anew"));
        assert!(!both.reseal_one::<Target>(second).await.expect("passed over"));
        let found = under(&store, &new).get::<Target>(changed.id).await.expect("read").expect("there");
        assert_eq!(found.value, later);
        assert_eq!(both.get::<Target>(deleted.id).await.expect("read"), None);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_and_keeps_the_old_key_needed() {
        let (_directory, store, targets, [old, new]) = sealed_before().await;
        let third = under(&store, &Keyring::generate_base64());
        let lost = target("lost");
        third.create(&lost, Utc::now()).await.expect("created");
        let both = under(&store, &format!("{new},{old}"));
        let resealed = both.reseal().await.expect("rotated");
        let named: Vec<_> = resealed.unreadable.iter().map(Unreadable::id).collect();
        assert_eq!((resealed.documents, named), (3, vec![lost.id.to_string().as_str()]));
        assert!(matches!(under(&store, &new).check_key().await, Err(DocumentsError::WrongKey)));
        both.delete::<Target>(lost.id, None).await.expect("deleted");
        assert_eq!(both.reseal().await.expect("rotated"), Resealed::default());
        under(&store, &new).check_key().await.expect("the new one is enough");
        assert_eq!(targets.len(), 3);
    }
}
