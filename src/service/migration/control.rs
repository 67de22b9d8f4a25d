//! The documents of the control store: as they are, but for the positions in some and for what says how a run is going.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use sequin_actors::{
    model::{
        Checkpoint, CollectionVersion, Consumer, ConsumerId, ConsumerStatus, Filter, Idx, Ownership, Provider,
        QuarantineKey, Quarantined, Session, SyncId, TargetStatus,
    },
    store::{Document, DocumentEvent, Documents, Entry, Keyring, Store, StoreError},
    stream::RecordStream,
};

use super::{
    Cluster, MARKER, MigrationError,
    positions::{Positioned, Positions},
};

/// How many documents are read at once.
const PAGE: usize = 1000;

/// How many are written at once.
const AT_ONCE: usize = 64;

/// What says how a run is going, or went.
const OF_A_RUN: [&str; 4] = [ConsumerStatus::KIND, TargetStatus::KIND, Session::KIND, Ownership::KIND];

/// What holds positions.
const POSITIONED: [&str; 4] = [Checkpoint::KIND, Consumer::KIND, Quarantined::KIND, CollectionVersion::KIND];

/// The documents that hold positions.
pub(super) struct Control {
    consumers: Vec<Placed<Consumer>>,
    checkpoints: Vec<Placed<Checkpoint>>,
    quarantined: Vec<Placed<Quarantined>>,
    /// Those in quarantine that are the last versions of their records.
    refused_last: HashSet<QuarantineKey>,
    versions: Vec<Placed<CollectionVersion>>,
}

/// A document, and the provider whose stream its positions are in; without one they stay as they are.
struct Placed<T: Document> {
    id: T::Id,
    document: T,
    provider: Option<Provider>,
}

impl Control {
    /// Reads them, and notes which positions matter.
    pub(super) async fn read(
        documents: &Documents,
        stream: &dyn RecordStream,
        positions: &mut Positions,
    ) -> Result<Self, MigrationError> {
        let (mut consumers, mut checkpoints, mut quarantined, mut versions) = (vec![], vec![], vec![], vec![]);
        for (id, document) in all::<Consumer>(documents).await? {
            consumers.push(Placed { id, provider: provider_of(&document.filter, stream).await?, document });
        }
        for (id, document) in all::<Checkpoint>(documents).await? {
            let consumer = consumers.iter().find(|consumer| consumer.id == id);
            let filter = document.filter.as_ref().or(consumer.map(|consumer| &consumer.document.filter));
            if let Some(filter) = filter.cloned() {
                checkpoints.push(place(id, document, &filter, stream).await?);
            }
        }
        let of_sync = async |sync: SyncId| provider_of(&Filter::Sync(sync), stream).await;
        let mut refused_last = HashSet::new();
        for (id, document) in all::<Quarantined>(documents).await? {
            let last = stream.latest(document.sync_id, id.record).await?;
            if last.is_some_and(|last| last.idx == document.idx) {
                refused_last.insert(id);
            }
            quarantined.push(Placed { id, provider: of_sync(document.sync_id).await?, document });
        }
        for (id, document) in all::<CollectionVersion>(documents).await? {
            versions.push(Placed { id, provider: of_sync(id.sync).await?, document });
        }
        note(&mut consumers, positions);
        note(&mut checkpoints, positions);
        note(&mut quarantined, positions);
        note(&mut versions, positions);
        Ok(Self { consumers, checkpoints, quarantined, refused_last, versions })
    }

    /// Writes all documents of `from` to the cluster, these with the positions that there are now. Returns how many.
    pub(super) async fn write(
        mut self,
        from: &dyn Store,
        cluster: &Cluster,
        keyring: &Arc<Keyring>,
        positions: &Positions,
    ) -> Result<u64, MigrationError> {
        // What an earlier attempt has left.
        for_each_entry(
            &*cluster.store,
            |entry| entry.key != MARKER,
            async |entry| cluster.store.delete(&entry.key, None).await,
        )
        .await?;
        let kind = |entry: &Entry| entry.key.split('/').next().unwrap_or_default().to_owned();
        let is_as_it_is = |entry: &Entry| ![OF_A_RUN.as_slice(), &POSITIONED].concat().contains(&kind(entry).as_str());
        let as_they_are = for_each_entry(from, is_as_it_is, async |Entry { key, value, .. }| {
            cluster.store.put(&key, value).await.map(drop)
        })
        .await?;
        for checkpoint in &mut self.checkpoints {
            if let Some(provider) = &checkpoint.provider {
                checkpoint.document.stream = cluster.stream.identity(&Filter::Provider(provider.clone())).await?;
            }
        }
        for Placed { id, document, provider } in &mut self.quarantined {
            // Exactly, or it would not be known for the version that was refused.
            if self.refused_last.contains(id)
                && let Some(last) = cluster.stream.latest(document.sync_id, id.record).await?
            {
                (document.idx, *provider) = (last.idx, None);
            }
        }
        let documents = Documents::new(cluster.store.clone(), Arc::clone(keyring));
        Ok(as_they_are
            + put(self.consumers, &documents, positions).await?
            + put(self.checkpoints, &documents, positions).await?
            + put(self.quarantined, &documents, positions).await?
            + put(self.versions, &documents, positions).await?)
    }
}

/// All documents of a kind, with their ids. One that can't be read may hold positions.
async fn all<T: Document>(documents: &Documents) -> Result<Vec<(T::Id, T)>, MigrationError> {
    let (mut watch, mut found) = (documents.watch::<T>().await?, Vec::new());
    loop {
        match watch.next().await? {
            DocumentEvent::Put(id, document) => found.push((id, document.value)),
            DocumentEvent::Unreadable(_, unreadable) => return Err(unreadable.into()),
            DocumentEvent::Deleted(_) => {}
            DocumentEvent::Current => return Ok(found),
        }
    }
}

async fn provider_of(filter: &Filter, stream: &dyn RecordStream) -> Result<Option<Provider>, MigrationError> {
    Ok(match filter {
        Filter::Provider(provider) => stream.identity(filter).await?.map(|_| provider.clone()),
        Filter::Sync(sync) => stream.sync(*sync).await?.map(|sync| sync.provider),
    })
}

async fn place(
    id: ConsumerId,
    checkpoint: Checkpoint,
    filter: &Filter,
    stream: &dyn RecordStream,
) -> Result<Placed<Checkpoint>, MigrationError> {
    if checkpoint.astray_in(stream.identity(filter).await?).is_some() {
        // It halts there as it does here.
        return Ok(Placed { id, document: checkpoint, provider: None });
    }
    let provider = provider_of(filter, stream).await?;
    let document = match provider {
        Some(_) => checkpoint,
        // The stream holds nothing of the sync any more, and nothing says where it lay: whatever comes is new.
        None => Checkpoint { idx: Idx::START, backfill: None, stream: None, ..checkpoint },
    };
    Ok(Placed { id, document, provider })
}

fn note<T: Document + Positioned>(placed: &mut [Placed<T>], positions: &mut Positions) {
    for Placed { document, provider, .. } in placed {
        if let Some(provider) = provider {
            document.each(&mut |position| positions.note(provider, *position));
        }
    }
}

async fn put<T: Document + Positioned>(
    placed: Vec<Placed<T>>,
    documents: &Documents,
    positions: &Positions,
) -> Result<u64, MigrationError> {
    let number = placed.len() as u64;
    let put = async |Placed { id, mut document, provider }: Placed<T>| {
        if let Some(provider) = &provider {
            document.each(&mut |position| *position = positions.now(provider, *position));
        }
        documents.put(id, &document).await.map(drop)
    };
    stream::iter(placed).map(put).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(number)
}

/// Does `work` with the entries of a store that are `wanted`, some at a time, and says how many those were.
async fn for_each_entry(
    store: &dyn Store,
    wanted: impl Fn(&Entry) -> bool,
    work: impl AsyncFn(Entry) -> Result<(), StoreError>,
) -> Result<u64, MigrationError> {
    let (mut after, mut number) = (None, 0);
    loop {
        let page = store.list("", after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|entry| entry.key.clone());
        let some: Vec<Entry> = page.into_iter().filter(&wanted).collect();
        number += some.len() as u64;
        stream::iter(some).map(|entry| work(entry)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        if is_last {
            return Ok(number);
        }
    }
}
