//! What is asked of a stream without reading it: how much lies ahead, what counts now, what there is of a sync.

use super::{
    super::{StreamError, SyncQuery, Version},
    messages::{self, count},
    names::Names,
    provision,
    read::place,
    registry::{Registry, SyncEntry},
    several::several,
};
use crate::{
    jetstream::{JetStream, JetStreamError},
    model::{Filter, Idx, Lag, Provider, SequinId, StreamId, Sync, SyncId},
};

/// How many syncs are asked about at a time.
const AT_A_TIME: usize = 16;

pub(super) async fn lag(
    connection: &JetStream,
    registry: &Registry,
    filter: &Filter,
    after: Idx,
) -> Result<Lag, JetStreamError> {
    let Some((stream, subject)) = place(connection, registry, filter) else {
        return Ok(Lag::default());
    };
    // Whether there is anything is asked of the leader, so that who is behind is never taken for being at the end. How
    // much that is may be of a moment ago.
    let Some(oldest) = messages::next(connection, &stream, &subject, after.0 + 1).await? else {
        return Ok(Lag::default());
    };
    let records = count(connection, &stream, &subject, after.0 + 1).await?.max(1);
    Ok(Lag { records, oldest_published_at: Some(oldest.time) })
}

pub(super) async fn latest(
    connection: &JetStream,
    registry: &Registry,
    sync: SyncId,
    record: SequinId,
) -> Result<Option<Version>, JetStreamError> {
    let Some(SyncEntry { provider, .. }) = registry.sync(sync).await? else {
        return Ok(None);
    };
    let names = Names::of(connection, &provider);
    let found = messages::last(connection, &names.stream(), &names.record(sync, record)).await?;
    Ok(found.map(|found| Version { idx: Idx(found.sequence), envelope: found.payload }))
}

pub(super) async fn head(connection: &JetStream, registry: &Registry, filter: &Filter) -> Result<Idx, JetStreamError> {
    let Some(provider) = provider_of(registry, filter).await? else {
        return Ok(Idx::START);
    };
    match provision::info(connection, &provider).await {
        Ok(info) => Ok(Idx(info.state.last_sequence)),
        Err(error) if error.is_no_stream() => Ok(Idx::START),
        Err(error) => Err(error),
    }
}

pub(super) async fn identity(
    connection: &JetStream,
    registry: &Registry,
    filter: &Filter,
) -> Result<Option<StreamId>, JetStreamError> {
    let Some(provider) = provider_of(registry, filter).await? else {
        return Ok(None);
    };
    match provision::info(connection, &provider).await {
        Ok(info) => Ok(provision::identity_of(&info)),
        Err(error) if error.is_no_stream() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn provider_of(registry: &Registry, filter: &Filter) -> Result<Option<Provider>, JetStreamError> {
    match filter {
        Filter::Provider(provider) => Ok(registry.find_provider(provider).await?.map(|_| provider.clone())),
        Filter::Sync(sync) => Ok(registry.sync(*sync).await?.map(|entry| entry.provider)),
    }
}

pub(super) async fn syncs(
    connection: &JetStream,
    registry: &Registry,
    query: SyncQuery,
) -> Result<Vec<Sync>, StreamError> {
    let (mut found, mut after) = (Vec::new(), query.after);
    while found.len() < query.limit {
        let wanted = query.limit - found.len();
        let some = registry.syncs_after(after, query.provider.as_ref(), wanted);
        let Some((last, _)) = some.last() else { break };
        after = Some(*last);
        let questions = some.into_iter().map(|(id, entry)| describe(connection, id, entry));
        let described = several(questions, AT_A_TIME).await?;
        found.extend(described.into_iter().flatten());
    }
    Ok(found)
}

pub(super) async fn sync(
    connection: &JetStream,
    registry: &Registry,
    id: SyncId,
) -> Result<Option<Sync>, JetStreamError> {
    match registry.sync(id).await? {
        Some(entry) => describe(connection, id, entry).await,
        None => Ok(None),
    }
}

/// What the stream holds of a sync, if it holds anything.
///
/// Its records are those that have a version, less those in the index of tombstones. A record that came back is in it
/// until the index is next gone through, and until then is not counted.
async fn describe(connection: &JetStream, id: SyncId, entry: SyncEntry) -> Result<Option<Sync>, JetStreamError> {
    let names = Names::of(connection, &entry.provider);
    let stream = names.stream();
    let Some(last) = messages::last(connection, &stream, &names.records_of(id)).await? else {
        return Ok(None);
    };
    let (records, tombstones) = (names.records_of(id), names.tombstones_of(id));
    let (versions, deleted) =
        tokio::try_join!(count(connection, &stream, &records, 1), count(connection, &stream, &tombstones, 1))?;
    Ok(Some(Sync {
        id,
        provider: entry.provider,
        external_id: entry.external_id,
        metadata: entry.metadata,
        records: versions.saturating_sub(deleted),
        last_updated_idx: Idx(last.sequence),
        last_published_at: Some(last.time),
    }))
}
