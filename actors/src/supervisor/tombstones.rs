//! Tombstones: dropped once nobody needs them any more.

use chrono::Utc;

use crate::{
    context::Context,
    model::{Checkpoint, Consumer, Desired, Filter, Idx, Quarantined},
    store::DocumentsError,
    stream::StreamError,
};

/// Nothing is dropped unless every consumer can be asked. One that was started and has no checkpoint has passed nothing.
pub(super) async fn drop_tombstones(context: &Context) -> Result<u64, String> {
    let unread = |error: DocumentsError| error.to_string();
    let mut passed: Vec<(Filter, Idx)> = Vec::new();
    for consumer in context.documents.all::<Consumer>().await.map_err(unread)? {
        let consumer = consumer.map_err(|unreadable| unreadable.to_string())?;
        if consumer.desired != Desired::Draft {
            let saved = context.documents.get::<Checkpoint>(consumer.id).await.map_err(unread)?;
            let mut reached = saved.map_or(Idx::START, |saved| saved.value.going_on_for(&consumer).idx);
            // What is in quarantine has not arrived, and a delete can be.
            let quarantined = context.documents.all_of::<Quarantined>(consumer.id).await.map_err(unread)?;
            for entry in quarantined {
                let set_aside = entry.map_err(|unreadable| unreadable.to_string())?.value.idx;
                reached = reached.min(Idx(set_aside.0 - 1));
            }
            passed.push((consumer.filter, reached));
        }
    }
    let before = Utc::now() - context.settings.tombstone_retention;
    let dropped = context.stream.drop_tombstones(before, &passed).await;
    dropped.map_err(|error: StreamError| error.to_string())
}
