//! The records of one provider: page by page, in order.

use sequin_actors::{
    model::{Filter, Idx, Provider, Publication, decode},
    stream::{JetStreamStream, PageLimit, RecordStream, StreamError},
};

use super::{MigrationError, positions::Positions};

/// What is read, and published, at once: the memory that a migration takes is a few of these.
const PAGE: PageLimit = PageLimit { records: 5000, bytes: 8 * 1024 * 1024 };

/// A provider's stream on its way.
struct Copying<'a> {
    to: &'a JetStreamStream,
    publication: Publication,
    /// Where the last record has come to lie.
    landed: Idx,
    moved: &'a mut (dyn FnMut(u64) + Send),
}

/// Publishes the last version of each record, tombstones included, and learns where those that matter come to lie.
pub(super) async fn copy(
    provider: &Provider,
    from: &dyn RecordStream,
    to: &JetStreamStream,
    positions: &mut Positions,
    moved: &mut (dyn FnMut(u64) + Send),
) -> Result<(), MigrationError> {
    let filter = Filter::Provider(provider.clone());
    let end = from.head(&filter).await?;
    if !to.create_from(provider, Idx(end.0 + 1)).await.map_err(StreamError::from)? {
        return Err(MigrationError::Overtaken(provider.clone()));
    }
    let mut copying = Copying { to, publication: Publication::default(), landed: end, moved };
    let mut landmarks = positions.of(provider).into_iter().peekable();
    let mut reader = from.reader(&filter, Idx::START);
    let mut read_to = Idx::START;
    while read_to < end {
        reader.ready().await?;
        let page = reader.read(PAGE).await?;
        for entry in page.entries() {
            if landmarks.peek().is_some_and(|landmark| *landmark < entry.idx) {
                copying.publish().await?;
            }
            while let Some(landmark) = landmarks.next_if(|landmark| *landmark < entry.idx) {
                positions.moved(provider, landmark, copying.landed);
            }
            let unreadable = |message| MigrationError::Record { provider: provider.clone(), idx: entry.idx, message };
            let record = decode(page.envelope(entry)).map_err(|error| unreadable(error.to_string()))?;
            let pushed = copying.publication.push(provider, &record);
            pushed.map_err(|other| unreadable(format!("its sync belongs to provider {other}")))?;
        }
        copying.publish().await?;
        read_to = page.read_to();
    }
    for landmark in landmarks {
        positions.moved(provider, landmark, copying.landed);
    }
    Ok(())
}

impl Copying<'_> {
    /// Publishes what has gathered.
    async fn publish(&mut self) -> Result<(), MigrationError> {
        let records = self.publication.records().len() as u64;
        if records > 0 {
            self.landed = self.to.publish(std::mem::take(&mut self.publication)).await?.last;
            (self.moved)(records);
        }
        Ok(())
    }
}
