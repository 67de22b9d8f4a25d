//! The connection itself: one client after the other, each for as long as its connection lasts.
//!
//! A client that connects again by itself sends what lies in its queue, however long ago whoever wanted it was told that it
//! failed: a record would come on top of what was published by way of other nodes meanwhile. So a client is left with all
//! that it holds when its connection breaks, and while there is none, nothing is taken.
//!
//! What the operating system was given before the break was noticed, in [`PING`] times three at most, is out of reach. If
//! the network heals while the system still tries to bring it, a minute or two on Linux, it may yet arrive.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ReconnectToServer,
    connection::State,
    jetstream::{Context, context::ContextBuilder},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{JetStreamError, NatsLogin, NatsSettings, REQUEST, tls};

/// How often the server is asked whether it is there; it is left after three questions without an answer.
const PING: Duration = Duration::from_secs(2);

/// How many publications may be without an acknowledgement, on all of a node.
const UNACKNOWLEDGED: usize = 4000;

/// How many messages may wait to be written to the connection. Who has more waits outside, where he can give up.
const WAITING: usize = 32;

/// How often somebody looks whether the connection is there, should nothing have been heard of its end.
const LOOK: Duration = Duration::from_secs(1);

/// Where no server can be: all that a client knows of once it has connected.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// A client, and what publishes by way of it.
pub(super) struct Live {
    pub(super) client: Client,
    /// For records, as many as the server takes.
    pub(super) records: Context,
    /// For the control store, so that a sign of life does not wait behind records.
    pub(super) store: Context,
}

/// The client that is used at present. Dropping it ends the connection.
pub(super) struct Connection {
    current: Arc<RwLock<Arc<Live>>>,
    _keeping: AbortOnDropHandle<()>,
}

impl Live {
    fn of(client: Client) -> Arc<Self> {
        let build = |client| ContextBuilder::new().timeout(REQUEST).max_ack_inflight(UNACKNOWLEDGED).build(client);
        Arc::new(Self { records: build(client.clone()), store: build(client.clone()), client })
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

impl Connection {
    /// Connects, and connects again for ever after. The first time has to succeed until the deadline.
    pub(super) async fn open(settings: &NatsSettings, deadline: Instant) -> Result<Self, JetStreamError> {
        let broken = Arc::new(Notify::new());
        let client = first_client(settings, &broken, deadline).await?;
        let current = Arc::new(RwLock::new(Live::of(client)));
        let keeping = tokio::spawn(keep(settings.clone(), Arc::clone(&current), broken));
        Ok(Self { current, _keeping: AbortOnDropHandle::new(keeping) })
    }

    /// The client that was connected last, connected or not.
    pub(super) fn last(&self) -> Arc<Live> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A client that is connected, as far as is known.
    pub(super) fn live(&self, what: &str) -> Result<Arc<Live>, JetStreamError> {
        let last = self.last();
        if last.is_connected() { Ok(last) } else { Err(JetStreamError::unanswered(what, "there is no connection")) }
    }
}

/// Puts another client in the place of each whose connection broke.
async fn keep(settings: NatsSettings, current: Arc<RwLock<Arc<Live>>>, broken: Arc<Notify>) {
    loop {
        let last = Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner));
        while last.is_connected() {
            // Whether it was told or not, what counts is the look.
            let _ = timeout(LOOK, broken.notified()).await;
        }
        // Those of the settings may be gone, and others there instead.
        let servers = [settings.servers.clone(), last.client.server_info().connect_urls].concat();
        let mut attempts = 0;
        let client = loop {
            match client(&settings, &servers, &broken).await {
                Ok(client) => break client,
                Err(error) => tracing::debug!(%error, "no NATS server could be connected to"),
            }
            // All nodes lose a server at once, and should not come back at once.
            attempts = (attempts + 1).min(10);
            sleep(Duration::from_millis(fastrand::u64(attempts * 50..=attempts * 100))).await;
        };
        *current.write().unwrap_or_else(PoisonError::into_inner) = Live::of(client);
    }
}

/// Tries until the deadline, unless trying again is of no use.
async fn first_client(
    settings: &NatsSettings,
    broken: &Arc<Notify>,
    deadline: Instant,
) -> Result<Client, JetStreamError> {
    let servers = || settings.servers.join(",");
    let mut last = None;
    loop {
        let error = match timeout_at(deadline, client(settings, &settings.servers, broken)).await {
            Ok(Err(JetStreamError::Connect { error, .. })) => error,
            Ok(outcome) => return outcome,
            // What went wrong before tells more.
            Err(_) => last.unwrap_or_else(|| ConnectErrorKind::TimedOut.into()),
        };
        let is_of_no_use = matches!(
            error.kind(),
            ConnectErrorKind::ServerParse | ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
        );
        if is_of_no_use || Instant::now() >= deadline {
            return Err(JetStreamError::Connect { servers: servers(), error });
        }
        last = Some(error);
        sleep(Duration::from_millis(200)).await;
    }
}

/// A client that ends with its connection.
async fn client(settings: &NatsSettings, servers: &[String], broken: &Arc<Notify>) -> Result<Client, JetStreamError> {
    let failed = |error: ConnectError| JetStreamError::Connect { servers: servers.join(","), error };
    let options = options(settings, Arc::clone(broken)).await?;
    // Each of them once now, and as often that one which is none.
    let client = options.max_reconnects(servers.len()).connect(servers).await.map_err(failed)?;
    let forgotten = timeout(REQUEST, client.set_server_pool(NOWHERE)).await;
    if matches!(forgotten, Ok(Ok(()))) { Ok(client) } else { Err(failed(ConnectErrorKind::Io.into())) }
}

async fn options(settings: &NatsSettings, broken: Arc<Notify>) -> Result<ConnectOptions, JetStreamError> {
    let options = ConnectOptions::new()
        .name("sequin")
        .connection_timeout(Duration::from_secs(3))
        .request_timeout(Some(REQUEST))
        .ping_interval(PING)
        .client_capacity(WAITING)
        .reconnect_delay_callback(|_| Duration::ZERO)
        .reconnect_to_server_callback(|known, server| async move {
            // Nothing of a server was heard yet when it connects for the first time.
            let nowhere = known.into_iter().next().filter(|_| !server.server_id.is_empty())?;
            Some(ReconnectToServer { addr: nowhere.addr, delay: Some(Duration::ZERO) })
        })
        .event_callback(move |event| {
            report(&event);
            if event == Event::Disconnected {
                broken.notify_one();
            }
            async {}
        });
    let options = match &settings.login {
        NatsLogin::Nobody => options,
        NatsLogin::Password { user, password } => options.user_and_password(user.clone(), password.reveal().into()),
        NatsLogin::CredentialsFile(path) => options.credentials_file(path).await.map_err(|error| {
            JetStreamError::Settings(format!("the NATS credentials {} can't be used: {error}", path.display()))
        })?,
        NatsLogin::NkeySeed(seed) => options.nkey(seed.reveal().into()),
    };
    let asks_for_tls = settings.servers.iter().any(|server| server.starts_with("tls://"));
    let has_files = settings.ca_file.is_some() || settings.cert_file.is_some();
    // A server may ask for TLS without our having asked, so the authorities are needed in any case.
    Ok(options.require_tls(asks_for_tls || has_files).tls_client_config(tls::client(settings)?))
}

fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to a NATS server"),
        Event::Disconnected => tracing::warn!("the connection to the NATS server broke, and is made again"),
        Event::LameDuckMode => tracing::info!("the NATS server is being stopped: another one is connected to"),
        Event::SlowConsumer(_) => {
            tracing::warn!("messages of NATS came faster than they were read, and are read again");
        }
        Event::ServerError(error) => tracing::warn!(%error, "the NATS server complains"),
        Event::ClientError(error) => tracing::debug!(%error, "a NATS server could not be connected to"),
        Event::Draining | Event::Closed => {}
    }
}
