//! The key check: a text that was sealed when the store was new, and that the right encryption key opens.
//!
//! Without it a node with a wrong key would start, read no target, and seal new secrets that the right key can't open.

use super::{Documents, DocumentsError, StoreError, decode, encode, rotation::READ_AT_MOST, wire::FIRST};
use crate::model::Secret;

const KEY: &str = "key-check";

/// What is sealed. It says nothing that anybody may not know.
const TEXT: &str = "sequin";

impl Documents {
    /// Fails if the keyring is another than the one that the store's secrets are sealed with.
    pub async fn check_key(&self) -> Result<(), DocumentsError> {
        let sealed = encode(FIRST, self.keyring.seal(&Secret::new(TEXT), KEY));
        match self.store.create(KEY, sealed).await {
            // The store was new.
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let entry = self.store.get(KEY).await?.ok_or_else(|| StoreError::Conflict { key: KEY.into() })?;
        let sealed: Vec<u8> = decode(FIRST, &entry)?;
        self.keyring.open(&sealed, KEY).map(drop).map_err(|_| DocumentsError::WrongKey)
    }

    /// Reads the one thing that every store holds, and nothing else: for whoever asks again and again whether it is lost.
    pub async fn look(&self) -> Result<(), DocumentsError> {
        Ok(self.store.get(KEY).await.map(drop)?)
    }

    /// Seals it under the first key, unless it is: from then on the others are not needed to start.
    pub(super) async fn reseal_key_check(&self) -> Result<(), DocumentsError> {
        for _ in 0..READ_AT_MOST {
            let entry = self.store.get(KEY).await?.ok_or_else(|| StoreError::Conflict { key: KEY.into() })?;
            let sealed: Vec<u8> = decode(FIRST, &entry)?;
            if self.keyring.first_alone().open(&sealed, KEY).is_ok() {
                return Ok(());
            }
            let sealed = encode(FIRST, self.keyring.seal(&Secret::new(TEXT), KEY));
            match self.store.update(KEY, sealed, entry.revision).await {
                Ok(_) => return Ok(()),
                // Another rotation was faster.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict { key: KEY.into() }.into())
    }
}
