//! Puts the parts together, from the settings to the listening server, and takes them apart in the opposite order.
//!
//! The only place that names backends.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use sequin_actors::{
    Engine, EngineError, EngineHandle, EngineSettings, Inspector,
    embedded::{DataDirectory, DirectoryError, SqliteError},
    model::{Checkpoint, Consumer, Idx, Secret},
    store::{Documents, DocumentsError, Keyring, KeyringError, SqliteStore, StoreError},
    stream::{RecordStream, SqliteStream, StreamError},
};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::{
    api::{self, Api},
    config::{BACKEND, Backend, Config, ENCRYPTION_KEY, SHORTEST_TOKEN},
};

/// A service that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is something else in the data directory's place.
    #[error("{BACKEND}: {0} is not a directory: name another, or move what is there away")]
    NotADirectory(PathBuf),
    /// The data directory can't be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file in it can't be used.
    #[error(transparent)]
    File(#[from] SqliteError),
    /// The stream can't be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The control store can't be read.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The file of the admin token holds none.
    #[error("{0} holds no token of {SHORTEST_TOKEN} characters or more: remove it, and another one is made")]
    NoToken(PathBuf),
    /// The key that everything was sealed with is not there.
    #[error("{0} is missing, and {ENCRYPTION_KEY} is not set: put the file back, or set the key that was used before")]
    NoKey(PathBuf),
    /// The file of the key holds none.
    #[error("{0} holds no encryption key: {1}; put the one back that was made here, or restore it from a backup")]
    NotAKey(PathBuf, KeyringError),
    /// The key is another than the one that everything was sealed with.
    #[error(
        "{0} is not the encryption key that the secrets in the control store are sealed under: go back to that one (a \
         new one goes before it until `sequin rotate-keys` is done), or start on an empty data directory"
    )]
    WrongKey(String),
    /// The stream is an earlier state than what the store knows of it.
    #[error(
        "the record stream ends at {head}, but consumer {consumer} has read up to {checkpoint}: records were lost, as \
         when only a part of a backup was restored; restore the whole data directory, or start on an empty one with \
         empty tables and publish again"
    )]
    StreamWentBack {
        /// A consumer that was further.
        consumer: String,
        /// Where it was.
        checkpoint: Idx,
        /// The last position that its provider's stream has given.
        head: Idx,
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

impl ServiceError {
    /// Whether another value of a setting is the way out.
    pub fn is_wrong_setting(&self) -> bool {
        match self {
            Self::NotADirectory(_) => true,
            Self::WrongKey(key) => key == ENCRYPTION_KEY,
            _ => false,
        }
    }
}

/// Why a running service can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The stream is lost.
    #[error(transparent)]
    Stream(StreamError),
    /// The control store is lost.
    #[error(transparent)]
    Store(StoreError),
    /// The actors are gone.
    #[error("the engine ended by itself, which is a bug: the log says more; start again, and nothing is lost")]
    Engine,
    /// Nobody answers requests any more.
    #[error("the HTTP server ended by itself: the log says more; start again, and nothing is lost")]
    Http,
}

/// A running service.
pub struct Service {
    address: SocketAddr,
    admin_token: Secret,
    stream: Arc<dyn RecordStream>,
    documents: Documents,
    engine: EngineHandle,
    stop_http: oneshot::Sender<()>,
    http: JoinHandle<()>,
    beside_http: JoinSet<()>,
    /// Locked until the last part is down.
    directory: DataDirectory,
}

const KEY_FILE: &str = "encryption-key";
const TOKEN_FILE: &str = "admin-token";
const STREAM_FILE: &str = "records.db";
const STORE_FILE: &str = "control.db";

/// How often the stream and the store are asked whether they are lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Service {
    /// Starts everything; requests are answered when this returns.
    pub async fn start(config: &Config, engine_settings: EngineSettings) -> Result<Self, ServiceError> {
        let Backend::Embedded(path) = &config.backend;
        let directory = DataDirectory::open(path).map_err(|error| match error {
            DirectoryError::NotADirectory(path) => ServiceError::NotADirectory(path),
            error => error.into(),
        })?;
        let admin_token = admin_token(config, &directory)?;
        let (stream, documents) = open(config, &directory).await?;
        let listen = |source| ServiceError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let settings = EngineSettings { cluster: config.cluster.clone(), node: config.node.clone(), ..engine_settings };
        let inspector = Inspector::new(&settings);
        let engine = Engine::start(settings, Arc::clone(&stream), documents.clone()).await?;
        let node = config.node.clone();
        let api = Api::open(Arc::clone(&stream), documents.clone(), inspector, &admin_token, node).await?;
        let api = Arc::new(api);
        let router = api::router(Arc::clone(&api)).into_make_service_with_connect_info::<SocketAddr>();
        let mut beside_http = JoinSet::new();
        beside_http.spawn(async move { api.keep_up().await });
        let (stop_http, stopped) = oneshot::channel();
        let http = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        tracing::info!(%address, node = config.node, "serving");
        Ok(Self { address, admin_token, stream, documents, engine, stop_http, http, beside_http, directory })
    }

    /// Where requests are answered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token that may do everything.
    pub fn admin_token(&self) -> &Secret {
        &self.admin_token
    }

    /// Waits until a part fails that nothing goes on without, and says which. What may pass is no such failure.
    pub async fn failed(&mut self) -> Failure {
        tokio::select! {
            failure = lost(&*self.stream, &self.documents) => failure,
            () = self.engine.ended() => Failure::Engine,
            () = ended(&mut self.http) => Failure::Http,
        }
    }

    /// Answers the requests under way, lets every consumer finish and save its checkpoint, and ends.
    pub async fn stop(self) {
        let Self { stream, documents, engine, stop_http, mut http, mut beside_http, directory, .. } = self;
        let _ = stop_http.send(());
        // A request that does not end keeps nobody from stopping.
        let _ = tokio::time::timeout(Duration::from_secs(5), ended(&mut http)).await;
        beside_http.shutdown().await;
        engine.stop().await;
        drop((stream, documents));
        drop(directory);
    }
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

/// Opens the stream and the store, and makes them in a new directory. What was there is whole, or it is an error.
async fn open(config: &Config, directory: &DataDirectory) -> Result<(Arc<dyn RecordStream>, Documents), ServiceError> {
    let keyring = keyring(config, directory)?;
    let (stream, store) = (directory.kept_file(STREAM_FILE)?, directory.kept_file(STORE_FILE)?);
    let stream = SqliteStream::open(&stream)?;
    let store = SqliteStore::open(&store).await?;
    let documents = Documents::new(Arc::new(store), Arc::new(keyring));
    documents.check_key().await.map_err(|error| match error {
        DocumentsError::WrongKey if config.encryption_key.is_some() => ServiceError::WrongKey(ENCRYPTION_KEY.into()),
        DocumentsError::WrongKey => ServiceError::WrongKey(directory.file(KEY_FILE).display().to_string()),
        error => error.into(),
    })?;
    check_checkpoints(&stream, &documents).await?;
    directory.complete()?;
    Ok((Arc::new(stream), documents))
}

fn keyring(config: &Config, directory: &DataDirectory) -> Result<Keyring, ServiceError> {
    let file = directory.file(KEY_FILE);
    let key = match &config.encryption_key {
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
            Ok(saved) => saved.map_or(Idx::START, |saved| saved.value.going_on_for(&consumer).idx),
            Err(DocumentsError::Unreadable(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let head = stream.head(&consumer.filter).await?;
        if checkpoint > head {
            return Err(ServiceError::StreamWentBack { consumer: consumer.name, checkpoint, head });
        }
    }
    Ok(())
}

/// Waits until the stream or the store says that it is lost. Somebody has to ask: a node may have nothing to do.
async fn lost(stream: &dyn RecordStream, documents: &Documents) -> Failure {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(error @ StreamError::Lost(_)) = stream.providers().await {
            return Failure::Stream(error);
        }
        if let Err(DocumentsError::Store(error @ StoreError::Lost(_))) = documents.look().await {
            return Failure::Store(error);
        }
    }
}

/// Waits for the end of a task, which can be awaited once, however often it is asked for.
async fn ended(task: &mut JoinHandle<()>) {
    if !task.is_finished() {
        let _ = task.await;
    }
}
