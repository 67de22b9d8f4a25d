//! Moving what a data directory holds to an empty cluster, while nobody runs on either.
//!
//! First the stream of each provider, in order, to one whose first position lies beyond the last that the former has given:
//! so `updated_idx` goes on increasing. On the way it is learned where the positions that documents hold have come to lie.
//! Then the documents, with those in place of theirs: consumers go on where they were.
//!
//! A marker in the store says that this is going on, and keeps nodes from starting; it goes last. A migration that broke
//! off is run again, from the beginning, with nothing of what it has moved: the directory may have got further since, and
//! what was moved lies short of that.

mod control;
mod positions;
mod records;

use std::{path::PathBuf, time::Duration};

use sequin_actors::{
    embedded::DataDirectory,
    model::{Filter, Idx, Provider, StreamId},
    store::{DocumentsError, Store, StoreError, Unreadable},
    stream::{RecordStream, StreamError},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use self::{control::Control, positions::Positions};
use super::{
    ServiceError,
    cluster::Cluster,
    embedded::{self, Files},
};
use crate::config::MigrationConfig;

/// The key of the marker. Its value says which directory is being moved, and whether the cluster was seen to be empty: what
/// is there after that was moved there.
pub(super) const MARKER: &str = "migration";

/// For how long the counts may differ: they are of any replica, which may not have everything yet.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);

/// A migration that can't be done.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// There is nothing to move.
    #[error("--from: {0} is no data directory of a node")]
    NothingThere(PathBuf),
    /// The directory or the cluster can't be opened.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Somebody uses the cluster already.
    #[error(
        "cluster {cluster} in NATS is not empty, it has {what}: migrate to one that no node was started on, as under \
         another SEQUIN_CLUSTER"
    )]
    NotEmpty {
        /// The cluster.
        cluster: String,
        /// What it has.
        what: String,
    },
    /// Another migration to the cluster broke off.
    #[error(
        "a migration of another data directory to cluster {0} in NATS broke off: run that one again, or migrate to another \
         cluster, under another SEQUIN_CLUSTER"
    )]
    OfAnother(String),
    /// Somebody uses the cluster meanwhile.
    #[error(
        "somebody else has made a record stream of provider {0} in NATS: stop the nodes of the cluster, and migrate again"
    )]
    Overtaken(Provider),
    /// A document can't be read, and it may hold positions.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A stream can't be read or written.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A control store can't be read or written.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// A record can't be read.
    #[error("the record of provider {provider} at {idx} can't be read: {message}")]
    Record {
        /// The provider.
        provider: Provider,
        /// Where it is.
        idx: Idx,
        /// Why.
        message: String,
    },
    /// What has arrived is not what was sent.
    #[error(
        "of provider {provider}, {sent} records were moved, and {arrived} are there: nothing runs on the cluster yet; \
         delete what it has in NATS, or name another by SEQUIN_CLUSTER, and migrate again"
    )]
    Differs {
        /// The provider.
        provider: Provider,
        /// How many versions the directory holds.
        sent: u64,
        /// How many the cluster does.
        arrived: u64,
    },
}

impl From<StoreError> for MigrationError {
    fn from(error: StoreError) -> Self {
        Self::Documents(error.into())
    }
}

/// A directory and the cluster that it is moved to, both opened.
pub struct Migration {
    files: Files,
    cluster: Cluster,
    cluster_name: String,
    /// Locked until this is dropped.
    directory: DataDirectory,
}

/// What was moved.
pub struct Moved {
    /// How many versions of each provider.
    pub records: Vec<(Provider, u64)>,
    /// How many documents of the control store.
    pub documents: u64,
}

impl Migration {
    /// Opens both. Nothing is written to the cluster yet.
    pub async fn open(config: &MigrationConfig) -> Result<Self, MigrationError> {
        let nothing_there = || MigrationError::NothingThere(config.from.clone());
        if !config.from.is_dir() {
            return Err(nothing_there());
        }
        let directory = embedded::lock(&config.from)?;
        if !directory.is_complete() {
            return Err(nothing_there());
        }
        let files = Files::open(config.encryption_key.as_ref(), &directory).await?;
        let cluster = Cluster::open(&config.to, &config.cluster).await?;
        Ok(Self { files, cluster, cluster_name: config.cluster.clone(), directory })
    }

    /// The file with the key that the nodes of the cluster need, unless it was given by its setting.
    pub fn key_file(&self) -> Option<PathBuf> {
        Some(self.directory.file(embedded::KEY_FILE)).filter(|file| file.exists())
    }

    /// How many records there are to move.
    pub async fn records(&self) -> Result<u64, MigrationError> {
        let mut records = 0;
        for provider in self.files.stream.providers().await? {
            records += self.files.stream.lag(&Filter::Provider(provider), Idx::START).await?.records;
        }
        Ok(records)
    }

    /// Moves everything; `moved` hears of how many records, as they arrive.
    pub async fn run(&self, moved: &mut (dyn FnMut(u64) + Send)) -> Result<Moved, MigrationError> {
        let Self { files: Files { stream, store, keyring, documents }, cluster, .. } = self;
        let mut positions = Positions::default();
        // Whatever can't be read is told before anything is written.
        let control = Control::read(documents, stream, &mut positions).await?;
        let providers = stream.providers().await?;
        self.mark(&providers).await?;
        for provider in &providers {
            records::copy(provider, stream, &cluster.stream, &mut positions, moved).await?;
        }
        let records = self.compare(providers).await?;
        let documents = control.write(&**store, cluster, keyring, &positions).await?;
        cluster.store.delete(MARKER, None).await?;
        Ok(Moved { records, documents })
    }

    /// Takes hold of a cluster that is empty, or that an earlier attempt has left with a part of the same directory, which is
    /// removed.
    async fn mark(&self, providers: &[Provider]) -> Result<(), MigrationError> {
        let Self { files, cluster: Cluster { stream, store }, cluster_name, .. } = self;
        let of = match providers.first() {
            Some(provider) => files.stream.identity(&Filter::Provider(provider.clone())).await?,
            None => None,
        };
        let of = of.unwrap_or(StreamId(Uuid::nil()));
        let (looking, moving) = (format!("looking {of}").into_bytes(), format!("moving {of}").into_bytes());
        let marked = match store.create(MARKER, looking.clone()).await {
            Ok(revision) => revision,
            Err(StoreError::Conflict { .. }) => match store.get(MARKER).await? {
                Some(found) if found.value == moving => return Ok(stream.clear().await.map_err(StreamError::from)?),
                Some(found) if found.value == looking => found.revision,
                _ => return Err(MigrationError::OfAnother(cluster_name.clone())),
            },
            Err(error) => return Err(error.into()),
        };
        // A node that starts from now on sees the marker.
        let mut what: Vec<String> = stream.providers().await?.iter().map(|name| format!("provider {name}")).collect();
        what.extend(store.list("", None, 2).await?.into_iter().map(|entry| entry.key).find(|key| key != MARKER));
        if what.is_empty() {
            store.update(MARKER, moving, marked).await?;
            return Ok(());
        }
        store.delete(MARKER, Some(marked)).await?;
        Err(MigrationError::NotEmpty { cluster: cluster_name.clone(), what: what.join(" and ") })
    }

    /// Counts on both sides.
    async fn compare(&self, providers: Vec<Provider>) -> Result<Vec<(Provider, u64)>, MigrationError> {
        let mut records = Vec::new();
        for provider in providers {
            let filter = Filter::Provider(provider.clone());
            let sent = self.files.stream.lag(&filter, Idx::START).await?.records;
            let began = Instant::now();
            loop {
                let arrived = self.cluster.stream.lag(&filter, Idx::START).await?.records;
                if sent == arrived {
                    break;
                }
                if began.elapsed() >= COUNTED_WITHIN {
                    return Err(MigrationError::Differs { provider, sent, arrived });
                }
                sleep(Duration::from_millis(500)).await;
            }
            records.push((provider, sent));
        }
        Ok(records)
    }
}
