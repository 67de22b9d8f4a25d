//! Incidents and notices, as the store has them.
//!
//! Each write names the revision that the one before has left, and what is new must not be there. So two nodes that both
//! believe to be the one that alerts can't both say something: the second is refused, and reads what the first has written.

use std::{collections::HashMap, hash::Hash, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::{
    flow::backoff::Backoff,
    model::{Incident, IncidentId, Notice, NoticeId, Revision},
    store::{Document, Documents, DocumentsError, StoreError},
};

/// How many are written at the same time.
const AT_ONCE: usize = 32;

/// Everything of it, with the revisions that the next writes name.
pub(crate) struct Ledger {
    documents: Documents,
    incidents: HashMap<IncidentId, Revision>,
    notices: HashMap<NoticeId, Revision>,
}

/// What was kept from before.
pub(crate) struct Kept {
    pub(super) ledger: Ledger,
    pub(super) incidents: Vec<Incident>,
    pub(super) notices: Vec<Notice>,
}

/// What is to be written, in this order, and what is to be deleted.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) incidents: Vec<Incident>,
    pub(super) notices: Vec<Notice>,
    pub(super) forgotten_incidents: Vec<IncidentId>,
    pub(super) forgotten_notices: Vec<NoticeId>,
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        let Self { incidents, notices, forgotten_incidents, forgotten_notices } = self;
        incidents.is_empty() && notices.is_empty() && forgotten_incidents.is_empty() && forgotten_notices.is_empty()
    }
}

impl Ledger {
    /// Reads everything. What can't be read is left as it is: it was written by a newer release, which will go on with it.
    pub(super) async fn load(documents: Documents) -> Result<Kept, DocumentsError> {
        let (incidents, of_incidents) = read_all(&documents, |incident: &Incident| incident.id).await?;
        let (notices, of_notices) = read_all(&documents, |notice: &Notice| notice.id).await?;
        let ledger = Self { documents, incidents: of_incidents, notices: of_notices };
        Ok(Kept { ledger, incidents, notices })
    }

    /// Writes everything, however long the store is away. It fails if somebody else has written something of it.
    pub(super) async fn save(&mut self, entries: Entries) -> Result<(), DocumentsError> {
        let Self { documents, incidents, notices } = self;
        save_all(documents, incidents, &entries.incidents, |incident| incident.id).await?;
        save_all(documents, notices, &entries.notices, |notice| notice.id).await?;
        for id in entries.forgotten_notices {
            forget::<Notice>(documents, notices, id).await?;
        }
        for id in entries.forgotten_incidents {
            forget::<Incident>(documents, incidents, id).await?;
        }
        Ok(())
    }
}

async fn read_all<T: Document>(
    documents: &Documents,
    id: impl Fn(&T) -> T::Id,
) -> Result<(Vec<T>, HashMap<T::Id, Revision>), DocumentsError>
where
    T::Id: Eq + Hash,
{
    let (mut all, mut revisions) = (Vec::new(), HashMap::new());
    for found in documents.all_versioned::<T>().await? {
        match found {
            Ok(found) => {
                revisions.insert(id(&found.value), found.revision);
                all.push(found.value);
            }
            Err(unreadable) => tracing::error!(%unreadable, "left as it is"),
        }
    }
    Ok((all, revisions))
}

async fn save_all<T: Document + PartialEq>(
    documents: &Documents,
    revisions: &mut HashMap<T::Id, Revision>,
    values: &[T],
    id: impl Fn(&T) -> T::Id,
) -> Result<(), DocumentsError>
where
    T::Id: Eq + Hash,
{
    for some in values.chunks(AT_ONCE) {
        let writes = some.iter().map(|value| save(documents, revisions.get(&id(value)).copied(), id(value), value));
        for (value, saved) in some.iter().zip(join_all(writes).await) {
            revisions.extend(saved?.map(|revision| (id(value), revision)));
        }
    }
    Ok(())
}

/// Writes something until it is written. One that only a newer release can read is left to that.
async fn save<T: Document + PartialEq>(
    documents: &Documents,
    before: Option<Revision>,
    id: T::Id,
    value: &T,
) -> Result<Option<Revision>, DocumentsError> {
    let mut patience = Patience::new();
    loop {
        match write(documents, before, id, value).await {
            Err(DocumentsError::Unreadable(_)) => return Ok(None),
            Err(error) => patience.outlast(error).await?,
            Ok(revision) => return Ok(Some(revision)),
        }
    }
}

async fn write<T: Document + PartialEq>(
    documents: &Documents,
    before: Option<Revision>,
    id: T::Id,
    value: &T,
) -> Result<Revision, DocumentsError> {
    let written = match before {
        Some(revision) => documents.update(id, value, revision).await,
        None => documents.insert(id, value).await,
    };
    match written {
        // It may be what this node has written itself, without hearing of it.
        Err(conflict @ DocumentsError::Store(StoreError::Conflict { .. })) => {
            let found = documents.get::<T>(id).await?;
            found.filter(|found| found.value == *value).map(|found| found.revision).ok_or(conflict)
        }
        written => written,
    }
}

async fn forget<T: Document>(
    documents: &Documents,
    revisions: &mut HashMap<T::Id, Revision>,
    id: T::Id,
) -> Result<(), DocumentsError>
where
    T::Id: Eq + Hash,
{
    revisions.remove(&id);
    let mut patience = Patience::new();
    while let Err(error) = documents.delete::<T>(id, None).await {
        patience.outlast(error).await?;
    }
    Ok(())
}

/// Waits until the store is there.
struct Patience(Backoff);

impl Patience {
    fn new() -> Self {
        Self(Backoff::new(Duration::from_millis(200), Duration::from_secs(10)))
    }

    /// Waits before the next attempt, if another one makes sense after this error.
    async fn outlast(&mut self, error: DocumentsError) -> Result<(), DocumentsError> {
        let DocumentsError::Store(StoreError::Unavailable(_) | StoreError::Full(_)) = error else { return Err(error) };
        tracing::warn!(%error, "what people are to be told was not saved, and is tried again");
        sleep(self.0.next(fastrand::f64())).await;
        Ok(())
    }
}
