//! Puts the parts together, from the settings to the listening server, and takes them apart in the opposite order.
//!
//! The only place that names backends.

use std::{net::SocketAddr, sync::Arc};

use sequin_actors::{
    Engine, EngineError, EngineHandle, EngineSettings, Inspector,
    embedded::{DataDirectory, DirectoryError, SqliteError},
    model::Secret,
    store::{Documents, Keyring, KeyringError, SqliteStore, Store},
    stream::{RecordStream, SqliteStream},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    api::{self, AdminToken, Api},
    config::{Backend, Config},
};

/// A service that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The data directory can't be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file in it can't be used.
    #[error(transparent)]
    File(#[from] SqliteError),
    /// The key in the data directory is none.
    #[error("{file}: {source}")]
    Keyring {
        /// Where it lies.
        file: &'static str,
        /// What is wrong with it.
        source: KeyringError,
    },
    /// The actors did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address can't be listened on.
    #[error("SEQUIN_LISTEN: can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// A running service.
pub struct Service {
    address: SocketAddr,
    admin_token: Secret,
    engine: EngineHandle,
    stop_http: oneshot::Sender<()>,
    http: JoinHandle<()>,
    /// Locked until the last part is down.
    directory: DataDirectory,
}

const KEY_FILE: &str = "encryption-key";
const TOKEN_FILE: &str = "admin-token";

impl Service {
    /// Starts everything; requests are answered when this returns.
    pub async fn start(config: &Config, engine_settings: EngineSettings) -> Result<Self, ServiceError> {
        let Backend::Embedded(path) = &config.backend;
        let directory = DataDirectory::open(path)?;
        let key = match &config.encryption_key {
            Some(key) => key.clone(),
            None => Secret::new(directory.private_file(KEY_FILE, Keyring::generate_base64)?),
        };
        let keyring =
            Keyring::from_base64(key.reveal()).map_err(|source| ServiceError::Keyring { file: KEY_FILE, source })?;
        let admin_token = match &config.admin_token {
            Some(token) => token.clone(),
            None => Secret::new(directory.private_file(TOKEN_FILE, AdminToken::generate)?),
        };
        let stream: Arc<dyn RecordStream> = Arc::new(SqliteStream::open(&directory.file("records.db"))?);
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&directory.file("control.db")).await?);
        let documents = Documents::new(store, Arc::new(keyring));
        let listen = |source| ServiceError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let settings = EngineSettings { cluster: config.cluster.clone(), node: config.node.clone(), ..engine_settings };
        let inspector = Inspector::new(&settings);
        let engine = Engine::start(settings, Arc::clone(&stream), documents.clone()).await?;
        let router = api::router(Api::new(stream, documents, inspector, AdminToken::new(&admin_token)));
        let (stop_http, stopped) = oneshot::channel();
        let http = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        tracing::info!(%address, node = config.node, "serving");
        Ok(Self { address, admin_token, engine, stop_http, http, directory })
    }

    /// Where requests are answered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token that may do everything.
    pub fn admin_token(&self) -> &Secret {
        &self.admin_token
    }

    /// Answers the requests under way, lets every consumer finish and save its checkpoint, and ends.
    pub async fn stop(self) {
        let _ = self.stop_http.send(());
        // A request that does not end keeps nobody from stopping.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.http).await;
        self.engine.stop().await;
        drop(self.directory);
    }
}
