//! Puts the parts together, from the settings to the listening server, and takes them apart in the opposite order.
//!
//! This and what is in its folder are the only place that names backends.

mod cluster;
mod embedded;
mod failure;
pub mod migration;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sequin_actors::{
    Engine, EngineHandle, EngineSettings, Inspector, Publishing,
    embedded::DataDirectory,
    model::Secret,
    store::{Documents, DocumentsError, StoreError},
    stream::{RecordStream, StreamError},
};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

pub use failure::{Failure, ServiceError};

use crate::{
    api::{self, Api},
    config::{Backend, Config},
};

/// What everything else works with, whichever backend there is.
struct Opened {
    stream: Arc<dyn RecordStream>,
    documents: Documents,
    admin_token: Secret,
    /// Where it lies, if that is on this machine.
    directory: Option<DataDirectory>,
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
    directory: Option<DataDirectory>,
}

/// How often the stream and the store are asked whether they are lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Service {
    /// Starts everything; requests are answered when this returns.
    pub async fn start(config: &Config, engine_settings: EngineSettings) -> Result<Self, ServiceError> {
        let opened = match &config.backend {
            Backend::Embedded(path) => embedded::open(config, path).await,
            Backend::Nats(nats) => cluster::open(config, nats).await,
        };
        let Opened { stream, documents, admin_token, directory } = opened?;
        let listen = |source| ServiceError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let settings = EngineSettings {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            session_ttl: config.session_ttl,
            alert_after: config.alerting.after,
            notifier: config.alerting.notifier.clone(),
            egress: config.egress.clone(),
            ..engine_settings
        };
        let meter = settings.meter.clone();
        let (inspector, published) = (Inspector::new(&settings), Publishing::new(meter.as_ref()));
        let engine = Engine::start(settings, Arc::clone(&stream), documents.clone()).await?;
        let meter = meter.as_ref();
        let (stream_of_api, documents_of_api) = (Arc::clone(&stream), documents.clone());
        let api = Api::open(stream_of_api, documents_of_api, inspector, published, meter, config, &admin_token).await?;
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
