//! One machine: the stream and the store are files in a data directory, and so are the key and the token, unless they are set.

use std::{path::Path, sync::Arc};

use sequin_actors::{
    embedded::{DataDirectory, DirectoryError},
    model::{Astray, Checkpoint, Consumer, Secret},
    store::{Documents, DocumentsError, Keyring, SqliteStore},
    stream::{RecordStream, SqliteStream},
};

use super::{Opened, ServiceError};
use crate::{
    api,
    config::{Config, ENCRYPTION_KEY, SHORTEST_TOKEN},
};

pub(super) const KEY_FILE: &str = "encryption-key";
const TOKEN_FILE: &str = "admin-token";
const STREAM_FILE: &str = "records.db";
const STORE_FILE: &str = "control.db";

/// What lies in a data directory.
pub(super) struct Files {
    pub(super) stream: SqliteStream,
    pub(super) store: Arc<SqliteStore>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) documents: Documents,
}

/// Opens the data directory, and makes it if it is not there.
pub(super) async fn open(config: &Config, path: &Path) -> Result<Opened, ServiceError> {
    let directory = lock(path)?;
    let admin_token = admin_token(config, &directory)?;
    let Files { stream, documents, .. } = Files::open(config.encryption_key.as_ref(), &directory).await?;
    Ok(Opened { stream: Arc::new(stream), documents, admin_token, directory: Some(directory) })
}

pub(super) fn lock(path: &Path) -> Result<DataDirectory, ServiceError> {
    DataDirectory::open(path).map_err(|error| match error {
        DirectoryError::NotADirectory(path) => ServiceError::NotADirectory(path),
        error => error.into(),
    })
}

fn admin_token(config: &Config, directory: &DataDirectory) -> Result<Secret, ServiceError> {
    if let Some(token) = &config.admin_token {
        return Ok(token.clone());
    }
    let token = directory.private_file(TOKEN_FILE, || api::generate_token().reveal().to_owned())?;
    if token.len() < SHORTEST_TOKEN {
        return Err(ServiceError::NoToken(directory.file(TOKEN_FILE)));
    }
    Ok(Secret::new(token))
}

impl Files {
    /// Opens the stream and the store, and makes them in a new directory. What was there is whole, or it is an error.
    pub(super) async fn open(key: Option<&Secret>, directory: &DataDirectory) -> Result<Self, ServiceError> {
        let keyring = Arc::new(keyring(key, directory)?);
        let (stream, store) = (directory.kept_file(STREAM_FILE)?, directory.kept_file(STORE_FILE)?);
        let stream = SqliteStream::open(&stream)?;
        let store = Arc::new(SqliteStore::open(&store).await?);
        let documents = Documents::new(store.clone(), Arc::clone(&keyring));
        documents.check_key().await.map_err(|error| match error {
            DocumentsError::WrongKey if key.is_some() => ServiceError::WrongKey(ENCRYPTION_KEY.into()),
            DocumentsError::WrongKey => ServiceError::WrongKey(directory.file(KEY_FILE).display().to_string()),
            error => error.into(),
        })?;
        check_checkpoints(&stream, &documents).await?;
        directory.complete()?;
        Ok(Self { stream, store, keyring, documents })
    }
}

fn keyring(key: Option<&Secret>, directory: &DataDirectory) -> Result<Keyring, ServiceError> {
    let file = directory.file(KEY_FILE);
    let key = match key {
        Some(key) => key.clone(),
        None if directory.is_complete() && !file.exists() => return Err(ServiceError::NoKey(file)),
        None => Secret::new(directory.private_file(KEY_FILE, Keyring::generate_base64)?),
    };
    Keyring::from_base64(key.reveal()).map_err(|error| ServiceError::NotAKey(file, error))
}

/// What was lost of a stream would be missed by nobody: positions that were read already would be given again, and
/// what is published at them would never be forwarded.
async fn check_checkpoints(stream: &dyn RecordStream, documents: &Documents) -> Result<(), ServiceError> {
    // Those that can't be read are not run either.
    for consumer in documents.all::<Consumer>().await?.into_iter().flatten() {
        let checkpoint = match documents.get::<Checkpoint>(consumer.id).await {
            Ok(saved) => saved.map_or_else(Checkpoint::default, |saved| saved.value.going_on_for(&consumer)),
            Err(DocumentsError::Unreadable(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        // The positions of another stream say nothing of this one: its consumer sees to that.
        let present = stream.identity(&consumer.filter).await?;
        if matches!(checkpoint.astray_in(present), Some(Astray::Replaced { .. })) {
            continue;
        }
        let checkpoint = checkpoint.idx;
        let head = stream.head(&consumer.filter).await?;
        if checkpoint > head {
            return Err(ServiceError::StreamWentBack { consumer: consumer.name, checkpoint, head });
        }
    }
    Ok(())
}
