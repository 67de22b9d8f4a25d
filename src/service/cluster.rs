//! Any number of machines: the stream and the store lie in NATS JetStream, and all nodes are told the same key and token.

use std::sync::Arc;

use sequin_actors::{
    jetstream::{JetStream, NatsSettings},
    model::Secret,
    store::{Documents, DocumentsError, JetStreamStore, Keyring, Store},
    stream::JetStreamStream,
};

use super::{Opened, ServiceError, migration::MARKER};
use crate::config::{ADMIN_TOKEN, Config, ENCRYPTION_KEY};

/// The stream and the store of a cluster.
pub(super) struct Cluster {
    pub(super) stream: Arc<JetStreamStream>,
    pub(super) store: Arc<JetStreamStore>,
}

impl Cluster {
    /// Connects, and makes what is not there yet.
    pub(super) async fn open(nats: &NatsSettings, name: &str) -> Result<Self, ServiceError> {
        let connection = JetStream::connect(nats, name).await?;
        let store = Arc::new(JetStreamStore::open(connection.clone()).await?);
        let stream = Arc::new(JetStreamStream::open(connection).await?);
        Ok(Self { stream, store })
    }
}

/// Opens what the cluster has in NATS.
pub(super) async fn open(config: &Config, nats: &NatsSettings) -> Result<Opened, ServiceError> {
    let admin_token = config.admin_token.clone().ok_or(ServiceError::NotTold(ADMIN_TOKEN))?;
    let keyring = keyring(config.encryption_key.as_ref())?;
    let Cluster { stream, store } = Cluster::open(nats, &config.cluster).await?;
    refuse_migrating(&*store, config).await?;
    let documents = Documents::new(Arc::clone(&store) as Arc<dyn Store>, Arc::new(keyring));
    documents.check_key().await.map_err(|error| match error {
        DocumentsError::WrongKey => ServiceError::WrongKey(ENCRYPTION_KEY.into()),
        error => error.into(),
    })?;
    // A migration that began meanwhile may have found nothing yet; one that begins from now on finds the key check.
    refuse_migrating(&*store, config).await?;
    Ok(Opened { stream, documents, admin_token, directory: None })
}

async fn refuse_migrating(store: &dyn Store, config: &Config) -> Result<(), ServiceError> {
    match store.get(MARKER).await.map_err(DocumentsError::from)? {
        Some(_) => Err(ServiceError::Migrating(config.cluster.clone())),
        None => Ok(()),
    }
}

fn keyring(key: Option<&Secret>) -> Result<Keyring, ServiceError> {
    let key = key.ok_or(ServiceError::NotTold(ENCRYPTION_KEY))?;
    Keyring::from_base64(key.reveal()).map_err(|error| ServiceError::NotAKey(ENCRYPTION_KEY.into(), error))
}
