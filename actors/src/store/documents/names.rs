//! Names: unique among the resources of a kind, claimed before the resource is written.
//!
//! A claim without a resource that bears the name is void: its maker died between the two writes. It is taken over
//! once it is older than any request may take.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Document, Documents, DocumentsError, Entry, Revision, StoreError, decode, encode, wire::FIRST};

/// Longer than there is between the two writes, unless their maker is gone.
const CLAIM_HOLDS: TimeDelta = TimeDelta::minutes(2);

/// A resource that people address by name.
pub trait Named: Document {
    /// Its id.
    fn id(&self) -> Self::Id;
    /// Its name.
    fn name(&self) -> &str;
}

#[derive(Serialize, Deserialize)]
struct Claim {
    id: String,
    at: DateTime<Utc>,
}

impl Documents {
    /// Writes a resource that must not be there, under a name that must be free.
    pub async fn create<T: Named>(&self, value: &T, now: DateTime<Utc>) -> Result<Revision, DocumentsError> {
        self.claim(value, now).await?;
        self.insert(value.id(), value).await
    }

    /// Writes a resource that must be at `revision`, under a name that must be free if it is another than so far.
    pub async fn update_named<T: Named>(
        &self,
        before: &T,
        value: &T,
        revision: Revision,
        now: DateTime<Utc>,
    ) -> Result<Revision, DocumentsError> {
        let is_renamed = before.name() != value.name();
        if is_renamed {
            self.claim(value, now).await?;
        }
        let updated = self.update(value.id(), value, revision).await;
        // What is not known to be written or not keeps both names: one of the claims is void.
        let free = match &updated {
            Ok(_) => Some(before.name()),
            Err(DocumentsError::Store(StoreError::Conflict { .. })) => Some(value.name()),
            Err(_) => None,
        };
        if let Some(name) = free.filter(|_| is_renamed) {
            self.release::<T>(name, value.id()).await?;
        }
        updated
    }

    /// The id of the resource of this name.
    pub async fn id_of_name<T: Named>(&self, name: &str) -> Result<Option<T::Id>, DocumentsError> {
        let Some(entry) = self.store.get(&name_key::<T>(name)).await? else {
            return Ok(None);
        };
        let claim: Claim = decode(FIRST, &entry)?;
        Ok(claim.id.parse().ok())
    }

    /// Deletes a resource that must be at `revision`, and gives its name free.
    pub async fn delete_named<T: Named>(&self, value: &T, revision: Revision) -> Result<(), DocumentsError> {
        self.delete::<T>(value.id(), Some(revision)).await?;
        self.release::<T>(value.name(), value.id()).await
    }

    /// Gives a name free, if it is still the one's who has it, and who is called otherwise.
    async fn release<T: Named>(&self, name: &str, owner: T::Id) -> Result<(), DocumentsError> {
        let key = name_key::<T>(name);
        let Some(entry) = self.store.get(&key).await? else { return Ok(()) };
        let is_in_use =
            async || Ok::<_, DocumentsError>(self.get::<T>(owner).await?.is_some_and(|of| of.value.name() == name));
        // Two may have called it so at the same time.
        if decode::<Claim>(FIRST, &entry)?.id != owner.to_string() || is_in_use().await? {
            return Ok(());
        }
        match self.store.delete(&key, Some(entry.revision)).await {
            // Somebody else has claimed it by now.
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn claim<T: Named>(&self, value: &T, now: DateTime<Utc>) -> Result<(), DocumentsError> {
        let key = name_key::<T>(value.name());
        let claim = encode(FIRST, Claim { id: value.id().to_string(), at: now });
        let claimed = match self.store.get(&key).await? {
            None => self.store.create(&key, claim).await,
            Some(entry) if self.is_void(&entry, value, now).await? => {
                self.store.update(&key, claim, entry.revision).await
            }
            Some(_) => Err(StoreError::Conflict { key }),
        };
        match claimed {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(DocumentsError::NameTaken { name: value.name().into() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a claim to the name of `value` holds nobody off who makes that.
    async fn is_void<T: Named>(&self, entry: &Entry, value: &T, now: DateTime<Utc>) -> Result<bool, DocumentsError> {
        let claim: Claim = decode(FIRST, entry)?;
        // Its own, from an attempt that ended before it was written. Should it be there, it is not written again.
        if claim.id == value.id().to_string() {
            return Ok(true);
        }
        // A claim from far in the future was made before the clock was set back, and would hold for as long.
        if (now - claim.at).abs() < CLAIM_HOLDS {
            return Ok(false);
        }
        let Ok(id) = claim.id.parse() else { return Ok(true) };
        Ok(self.get::<T>(id).await?.is_none_or(|found| found.value.name() != value.name()))
    }
}

fn name_key<T: Named>(name: &str) -> String {
    format!("{}-name/{name}", T::KIND)
}
