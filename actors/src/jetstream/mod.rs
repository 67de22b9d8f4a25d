//! NATS JetStream, as both ports use it: the connection, and what is asked of the server.
//!
//! A connection that was made once is made again for ever (`connection.rs`). A request ends within two seconds, whether
//! there is a connection or not: what may pass is tried again by whoever asked, within a time of his own.

mod connection;
mod consumer;
mod cursor;
mod error;
#[cfg(test)]
mod security;
mod tls;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap, Message, RequestErrorKind, ServerInfo, Subject, Subscriber,
    jetstream::{Context, message::PublishMessage, response::Response},
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout};

use self::connection::Connection;
use crate::model::Secret;

pub(crate) use consumer::Arrived;
pub(crate) use cursor::{Cursor, IDENTITY};
pub use error::JetStreamError;

/// How long a request may take, the one that finds out whether a server still lives included.
const REQUEST: Duration = Duration::from_secs(2);

/// How long the first connection may take. Whoever starts us tries again afterwards.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

/// The oldest server that can be used: an older one takes what it does not know without a word.
const OLDEST_SERVER: (i64, i64, i64) = (2, 11, 0);

/// How long a cluster may take to find a new leader of a stream.
const NEW_LEADER: Duration = Duration::from_secs(15);

/// How long to wait before the same again.
const AGAIN: Duration = Duration::from_millis(200);

/// How many may read a stream at once, on all nodes. Servers have a lower limit of their own, unless they are told.
pub(crate) const MOST_CONSUMERS: i32 = 100_000;

/// How many replicas a cluster of servers keeps of each message, unless the settings say.
const REPLICAS: usize = 3;

/// Where the NATS servers are, and how to come in.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// `nats://host:4222` or `tls://host:4222`, at least one. They hold no password: see `login`.
    pub servers: Vec<String>,
    /// Who we are.
    pub login: NatsLogin,
    /// Certificate authorities in PEM, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our certificate in PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key in PEM.
    pub key_file: Option<PathBuf>,
    /// How many servers keep each message; `None`: three in a cluster of servers, and one on a single server.
    pub replicas: Option<usize>,
}

/// Who we are to the NATS servers.
#[derive(Clone, Debug)]
pub enum NatsLogin {
    /// They ask nobody.
    Nobody,
    /// A user of their configuration.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A file as `nsc` writes it, with a JWT and a key.
    CredentialsFile(PathBuf),
    /// The seed of a key that they know.
    NkeySeed(Secret),
}

/// A connection to the JetStream of a NATS cluster. Its clones share it.
#[derive(Clone)]
pub struct JetStream {
    connection: Arc<Connection>,
    cluster: Arc<str>,
    replicas: usize,
}

impl JetStream {
    /// Connects, and finds out whether the servers can do what is needed. Everything there is begins with `cluster`.
    pub async fn connect(settings: &NatsSettings, cluster: &str) -> Result<Self, JetStreamError> {
        check(settings, cluster)?;
        let deadline = Instant::now() + FIRST_CONNECTION;
        let connection = Connection::open(settings, deadline).await?;
        let client = connection.last().client.clone();
        let server = client.server_info();
        if !client.is_server_compatible(OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2) {
            return Err(JetStreamError::OldServer { found: server.version });
        }
        let replicas = settings.replicas.unwrap_or_else(|| default_replicas(&server));
        let connection = Self { connection: Arc::new(connection), cluster: cluster.into(), replicas };
        connection.await_jetstream(deadline).await?;
        tracing::info!(version = server.version, server = server.server_name, replicas, "connected to NATS JetStream");
        Ok(connection)
    }

    /// Servers that have just begun elect a leader first.
    async fn await_jetstream(&self, deadline: Instant) -> Result<(), JetStreamError> {
        loop {
            match self.ask::<serde::de::IgnoredAny>("INFO", &()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_enabled() => return Err(JetStreamError::NotEnabled(Box::new(error))),
                Err(error) if Instant::now() >= deadline => return Err(JetStreamError::NotEnabled(Box::new(error))),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Asks one thing of JetStream's API.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        with: &impl Serialize,
    ) -> Result<T, JetStreamError> {
        let answer = self.request(what, with).await?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(JetStreamError::Refused { what: what.into(), error }),
            Err(error) => Err(JetStreamError::unanswered(what, error)),
        }
    }

    async fn request(&self, what: &str, with: &impl Serialize) -> Result<Message, JetStreamError> {
        let body = serde_json::to_vec(with).expect("writing to memory can't fail");
        // What takes no details takes not even that there are none.
        let body = if body == b"null" { Bytes::new() } else { body.into() };
        let live = self.connection.live(what)?;
        // The client's own limit begins when the request has been taken.
        let asking = timeout(REQUEST, live.client.request(format!("$JS.API.{what}"), body)).await;
        asking.map_err(|_| JetStreamError::took_too_long(what))?.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => JetStreamError::nobody(what, error),
            _ => JetStreamError::unanswered(what, error),
        })
    }

    /// Asks until there is an answer, for as long as a cluster takes to find a new leader.
    pub(crate) async fn ask_patiently<T: DeserializeOwned>(
        &self,
        what: &str,
        with: &impl Serialize,
    ) -> Result<T, JetStreamError> {
        let deadline = Instant::now() + NEW_LEADER;
        loop {
            match self.ask(what, with).await {
                Err(error) if error.may_pass() && Instant::now() < deadline => sleep(AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    /// Asks any server that has the stream for one of its messages.
    pub(crate) async fn ask_directly(&self, stream: &str, with: &impl Serialize) -> Result<Message, JetStreamError> {
        self.request(&format!("DIRECT.GET.{stream}"), with).await
    }

    /// Has a stream kept by as many servers as the settings say, should it be kept by fewer, as one that was made on a
    /// single server. Never by fewer than it is: another node may see more of the servers. It is used as it is meanwhile,
    /// and where that can't be, as when a server is down.
    pub(crate) async fn raise_replicas(&self, stream: &str) {
        let raised = async {
            let mut info: serde_json::Value = self.ask(&format!("STREAM.INFO.{stream}"), &()).await?;
            let config = &mut info["config"];
            let replicas = config["num_replicas"].as_u64().and_then(|replicas| usize::try_from(replicas).ok());
            if replicas.is_none_or(|replicas| replicas >= self.replicas) {
                return Ok(());
            }
            config["num_replicas"] = self.replicas.into();
            self.ask::<serde::de::IgnoredAny>(&format!("STREAM.UPDATE.{stream}"), config).await?;
            tracing::info!(stream, replicas = self.replicas, "kept by more NATS servers from now on");
            Ok::<_, JetStreamError>(())
        };
        match raised.await {
            Ok(()) => {}
            // It may have just been lost, which is noticed elsewhere.
            Err(error) if error.is_no_stream() => {}
            Err(error) => {
                tracing::warn!(%error, stream, "a stream is not kept by as many NATS servers as it should be");
            }
        }
    }

    /// Publishes one message, and says which position it was given.
    pub(crate) async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, JetStreamError> {
        self.send(&subject, headers, payload).await?.await
    }

    /// Sends one message. Its position is what the returned future waits for.
    pub(crate) async fn send(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<impl Future<Output = Result<u64, JetStreamError>> + use<>, JetStreamError> {
        send(&self.connection.live(subject)?.records, subject, headers, payload).await
    }

    /// Publishes one message of the control store, which waits for no records.
    pub(crate) async fn write(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<u64, JetStreamError> {
        send(&self.connection.live(subject)?.store, subject, headers, payload).await?.await
    }

    /// Asks for what comes to another subject.
    pub(crate) async fn ask_for_reply(&self, what: &str, reply: String, with: Bytes) -> Result<(), JetStreamError> {
        let client = &self.connection.live(what)?.client;
        let asking = timeout(REQUEST, client.publish_with_reply(format!("$JS.API.{what}"), reply, with)).await;
        asking
            .map_err(|_| JetStreamError::took_too_long(what))?
            .map_err(|error| JetStreamError::unanswered(what, error))
    }

    /// Subscribes to a subject. It ends with the connection.
    pub(crate) async fn subscribe(&self, subject: String) -> Result<Subscriber, JetStreamError> {
        const WHAT: &str = "a subscription";
        let client = &self.connection.live(WHAT)?.client;
        let subscribing = timeout(REQUEST, client.subscribe(subject)).await;
        subscribing
            .map_err(|_| JetStreamError::took_too_long(WHAT))?
            .map_err(|error| JetStreamError::unanswered(WHAT, error))
    }

    /// A subject that nobody else has.
    pub(crate) fn new_inbox(&self) -> Subject {
        self.connection.last().client.new_inbox().into()
    }

    /// For what a message tells of itself.
    pub(crate) fn context(&self) -> Context {
        self.connection.last().store.clone()
    }

    /// What the names of all streams, buckets and subjects begin with.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The largest message that the server takes, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.connection.last().client.server_info().max_payload
    }

    /// How many servers keep each message.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas
    }
}

fn check(settings: &NatsSettings, cluster: &str) -> Result<(), JetStreamError> {
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if cluster.is_empty() || !cluster.chars().all(of_a_name) {
        let message = "with NATS, the name of the cluster takes letters, digits, '-' and '_'";
        return Err(JetStreamError::Settings(message.into()));
    }
    if settings.servers.is_empty() {
        return Err(JetStreamError::Settings("no NATS server is named: give nats://host:4222".into()));
    }
    if settings.servers.iter().any(|server| server.contains('@')) {
        let message = "the address of a NATS server takes no user and password: they have settings of their own";
        return Err(JetStreamError::Settings(message.into()));
    }
    Ok(())
}

/// Sends one message. Its position is what the returned future waits for.
async fn send(
    context: &Context,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<impl Future<Output = Result<u64, JetStreamError>> + use<>, JetStreamError> {
    let message = PublishMessage::build().headers(headers).payload(payload);
    let sent = context.send_publish(subject.to_owned(), message).await;
    let acknowledged = sent.map_err(|error| JetStreamError::unpublished(subject, error))?;
    let subject = subject.to_owned();
    Ok(async move {
        let outcome = acknowledged.await;
        outcome.map(|accepted| accepted.sequence).map_err(|error| JetStreamError::unpublished(&subject, error))
    })
}

/// Servers that form a cluster keep three replicas: with fewer, the loss of one server would stop everything. How many
/// there are is not asked, because some may just not have come up.
fn default_replicas(server: &ServerInfo) -> usize {
    if server.cluster.is_some() { REPLICAS } else { 1 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    pub(crate) use crate::{gate::Gate, nats::Nats};

    pub(crate) fn settings(nats: &Nats) -> NatsSettings {
        NatsSettings {
            servers: nats.url().trim_start_matches("nats://").split(',').map(|host| format!("nats://{host}")).collect(),
            login: NatsLogin::Nobody,
            ca_file: None,
            cert_file: None,
            key_file: None,
            replicas: None,
        }
    }

    pub(crate) async fn connect(nats: &Nats, cluster: &str) -> JetStream {
        JetStream::connect(&settings(nats), cluster).await.expect("a connection")
    }

    #[tokio::test]
    async fn a_node_that_knows_one_server_goes_on_with_the_others_when_that_one_is_gone() {
        let mut nats = Nats::start_cluster();
        let one = NatsSettings { servers: vec![format!("nats://127.0.0.1:{}", nats.port(1))], ..settings(&nats) };
        let connection = JetStream::connect(&one, "sequin").await.expect("a connection");
        nats.kill(1);
        let answer = connection.ask_patiently::<serde::de::IgnoredAny>("INFO", &()).await;
        assert!(answer.is_ok(), "{answer:?}");
    }

    async fn refusal(settings: &NatsSettings) -> JetStreamError {
        JetStream::connect(settings, "sequin").await.err().expect("no connection")
    }

    #[tokio::test]
    async fn a_single_server_keeps_one_replica_and_a_cluster_three() {
        let (one, three) = (Nats::start(), Nats::start_cluster());
        assert_eq!(connect(&one, "sequin").await.replicas(), 1);
        assert_eq!(connect(&three, "sequin").await.replicas(), 3);
    }

    #[tokio::test]
    async fn who_is_not_let_in_is_told_at_once_and_no_password_is_printed() {
        let nats = Nats::start_with(1, "authorization { user: sequin, password: right }", "");
        let login = |password: &str| NatsLogin::Password { user: "sequin".into(), password: Secret::new(password) };
        let wrong = NatsSettings { login: login("wrong-password"), ..settings(&nats) };
        let error = refusal(&wrong).await;
        assert!(matches!(error, JetStreamError::Connect { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong-password"), "{error:?}");
        let right = NatsSettings { login: login("right"), ..settings(&nats) };
        assert!(JetStream::connect(&right, "sequin").await.is_ok());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_and_so_are_settings_that_nobody_could_mean() {
        let mut nats = Nats::start();
        let settings = settings(&nats);
        nats.kill(0);
        assert!(matches!(refusal(&settings).await, JetStreamError::Connect { .. }));
        let with_password =
            NatsSettings { servers: vec!["nats://sequin:secret@127.0.0.1:4222".into()], ..settings.clone() };
        let error = refusal(&with_password).await.to_string();
        assert!(!error.contains("secret"), "{error}");
        let half = NatsSettings { cert_file: Some("/nowhere".into()), ..settings };
        assert!(matches!(refusal(&half).await, JetStreamError::Settings(_)));
    }
}
