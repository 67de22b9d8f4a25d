//! The route to a database: the servers that a target names, one after the other, at addresses that we may connect to.
//!
//! Names are resolved anew for each session, so that one which moves is followed, and what was resolved and allowed is what
//! is connected to. Of several servers, and of several addresses of one, the first that takes writes is the one, as libpq's
//! `target_session_attrs=read-write` has it. The one that gave the last session is asked first: those before it that are
//! dead are waited for once, and not for each session.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, config::SslMode, tls::MakeTlsConnect};

use super::{
    Egress, StepName, Walk,
    addresses::{Server, check_socket, resolve},
    bastion::{self, Link, Stream, Tunnel},
    tls::Connector,
    turn::Turn,
};
use crate::{
    model::{Connection, DeniedNetworks, FieldError},
    postgres::error::Fault,
};

/// How long all servers together may take to give a session.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to find out that a session can be used, and to prepare it.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a database is reached.
pub(in crate::postgres) struct Route {
    servers: Vec<Server>,
    connector: Connector,
    denied: DeniedNetworks,
    /// Through which everything goes, if there is one.
    tunnel: Option<Tunnel>,
    last: Mutex<Last>,
}

/// Where the last session came from.
#[derive(Clone, Copy, Default)]
struct Last {
    /// Which of the servers it was.
    server: usize,
    address: Option<SocketAddr>,
}

/// Whether these settings can be used. Nothing is connected.
pub fn check_settings(connection: &Connection) -> Result<(), FieldError> {
    connection.bastion.as_ref().map_or(Ok(()), bastion::check)?;
    Route::new(connection, &Egress::default()).map(drop)
}

/// Whether a session takes writes: that of a replica, as after a failover, does not.
pub(in crate::postgres) async fn takes_writes(client: &Client) -> Result<(), Fault> {
    const ONLY_READS: &str = "select pg_catalog.pg_is_in_recovery()
        or pg_catalog.current_setting('transaction_read_only')::bool";
    let only_reads = client.query_typed_one(ONLY_READS, &[]).await?.try_get(0)?;
    if only_reads { Err(Fault::read_only()) } else { Ok(()) }
}

impl Route {
    /// Nothing is connected before the first session is needed.
    pub(in crate::postgres) fn new(connection: &Connection, egress: &Egress) -> Result<Self, FieldError> {
        let servers = Server::parse_all(&connection.host, connection.port);
        let servers = servers.map_err(|message| FieldError::new("connection.host", message))?;
        let connector = Connector::new(&connection.tls);
        let connector = connector.map_err(|error| FieldError::new(error.field(), error.to_string()))?;
        let tunnel = connection.bastion.as_ref().map(|bastion| Tunnel::new(bastion, egress)).transpose()?;
        let is_socket = |server: &Server| matches!(server, Server::Socket { .. });
        if tunnel.is_some() && servers.iter().any(is_socket) {
            return Err(FieldError::new("connection.host", "takes no Unix socket where there is a bastion"));
        }
        Ok(Self { servers, connector, denied: egress.denied.clone(), tunnel, last: Mutex::default() })
    }

    /// How long opening a session may take in all.
    pub(in crate::postgres) fn patience(&self) -> Duration {
        ROUTE_TIMEOUT + SETTLE_TIMEOUT + self.tunnel.as_ref().map_or(Duration::ZERO, |_| bastion::PATIENCE)
    }

    /// Opens a session as `config` has it, which names no server.
    pub(in crate::postgres) async fn connect(&self, config: &Config, walk: &mut Walk) -> Result<Client, Fault> {
        let link = match &self.tunnel {
            Some(tunnel) => Some(walk.step(StepName::Bastion, tunnel.link()).await?),
            None => None,
        };
        let mut faults = Vec::new();
        let mut servers: Vec<_> = self.servers.iter().enumerate().collect();
        let last = self.last().server;
        servers.sort_by_key(|(number, _)| *number != last);
        for ((number, server), turn) in Turn::of(ROUTE_TIMEOUT).shared(servers.into_iter()) {
            // It is large, and rare.
            match Box::pin(self.connect_to(server, link.as_ref(), turn, config, walk)).await {
                Ok((client, address)) => {
                    tracing::debug!(%server, tls = self.secured_by(), "a session was opened");
                    *self.last() = Last { server: number, address };
                    return Ok(client);
                }
                // It would be the same anywhere, and some servers count those that fail.
                Err(fault) if fault.is_of_credentials() => return Err(fault),
                Err(fault) => faults.push(fault),
            }
        }
        Err(Fault::of_all(faults))
    }

    /// How the connection that was made last is secured, in words; `None` where it is not.
    pub(in crate::postgres) fn secured_by(&self) -> Option<String> {
        self.connector.seen().map(|seen| seen.describe())
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Also says which of the server's addresses it was, where we know that.
    async fn connect_to(
        &self,
        server: &Server,
        link: Option<&Arc<Link>>,
        turn: Turn,
        config: &Config,
        walk: &mut Walk,
    ) -> Result<(Client, Option<SocketAddr>), Fault> {
        let is_one_of_many = self.servers.len() > 1;
        match (server, link) {
            (Server::Socket { directory, port }, _) => {
                check_socket(server, &self.denied)?;
                let mut config = config.clone();
                // No TLS is spoken there, whatever the mode, as libpq has it.
                config.host_path(directory).port(*port).ssl_mode(SslMode::Disable);
                let client = self.session(turn, is_one_of_many, self.dial(config)).await;
                client.map(|client| (client, None)).map_err(|fault| self.said_by(server, None, fault))
            }
            (Server::Network { host, port }, Some(link)) => {
                let stream = walk.step(StepName::Tcp, link.open(host, *port, turn.left())).await?;
                let client = self.session(turn, is_one_of_many, self.by_stream(host, stream, config)).await;
                client.map(|client| (client, None)).map_err(|fault| self.said_by(server, None, fault))
            }
            (Server::Network { host, port }, None) => {
                let resolved = resolve(host, *port, &self.denied);
                let resolved = async { timeout(turn.left(), resolved).await.unwrap_or_else(|_| Err(too_slow(host))) };
                let addresses = walk.step(StepName::Dns, resolved).await?;
                walk.found(|| found(host, &addresses));
                self.by_network(server, host, addresses, turn, config).await
            }
        }
    }

    /// Connects to the first of a server's addresses that takes writes.
    async fn by_network(
        &self,
        server: &Server,
        host: &str,
        mut addresses: Vec<SocketAddr>,
        turn: Turn,
        config: &Config,
    ) -> Result<(Client, Option<SocketAddr>), Fault> {
        let mut faults = Vec::new();
        let is_one_of_many = self.servers.len() > 1 || addresses.len() > 1;
        let last = self.last().address;
        addresses.sort_by_key(|address| Some(*address) != last);
        for (address, turn) in turn.shared(addresses.into_iter()) {
            let mut config = config.clone();
            // The name is for TLS; the address is where it goes.
            config.host(host).hostaddr(address.ip()).port(address.port());
            match self.session(turn, is_one_of_many, self.dial(config)).await {
                Ok(client) => return Ok((client, Some(address))),
                Err(fault) => {
                    let has_answered = fault.sqlstate.is_some();
                    faults.push(self.said_by(server, Some(address.ip()), fault));
                    if has_answered {
                        break;
                    }
                }
            }
        }
        Err(Fault::of_all(faults))
    }

    /// What a connection comes to within its turn. Where there are others to go on to, it has to be one that takes writes.
    async fn session(
        &self,
        turn: Turn,
        is_one_of_many: bool,
        connected: impl Future<Output = Result<Client, Fault>>,
    ) -> Result<Client, Fault> {
        let session = async {
            let client = connected.await?;
            if is_one_of_many {
                takes_writes(&client).await?;
            }
            Ok(client)
        };
        timeout(turn.left(), session).await.unwrap_or_else(|_| Err(Fault::timed_out("connecting")))
    }

    /// Through a bastion. TLS is spoken with the server all the same, and by its own name.
    async fn by_stream(&self, host: &str, stream: Stream, config: &Config) -> Result<Client, Fault> {
        let tls = MakeTlsConnect::<Stream>::make_tls_connect(&mut self.connector.clone(), host);
        let tls = tls.map_err(|error| Fault::of_settings(format!("connection.host {host:?}: {error}")))?;
        let connected = config.connect_raw(stream, tls).await;
        let (client, connection) = connected.map_err(|error| self.connector.explain(error))?;
        // It ends with the client, and tells it before if anything is wrong.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    async fn dial(&self, config: Config) -> Result<Client, Fault> {
        let manager = PostgresConnectionManager::new(config, self.connector.clone());
        manager.connect().await.map_err(|error| self.connector.explain(error))
    }

    /// Names the server where that is not known, and the address where the name has one of many.
    fn said_by(&self, server: &Server, address: Option<IpAddr>, fault: Fault) -> Fault {
        let address = address.filter(|address| !server.is_at(*address));
        match address {
            _ if self.servers.len() == 1 && fault.sqlstate.is_some() => fault,
            Some(address) => fault.of(&format_args!("{server} ({address})")),
            None => fault.of(server),
        }
    }
}

fn too_slow(host: &str) -> Fault {
    Fault::timed_out(&format!("looking up the address of {host}"))
}

fn found(host: &str, addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    format!("{host}: {}", addresses.join(", "))
}
