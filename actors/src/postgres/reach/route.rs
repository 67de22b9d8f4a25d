//! The route to a database: the servers that a target names, one after the other, at addresses that we may connect to.
//!
//! Names are resolved anew for each session, so that one which moves is followed, and what was resolved and allowed is what
//! is connected to. Of several servers the first that takes writes is the one, as libpq's `target_session_attrs=read-write`
//! has it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
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
};
use crate::{
    model::{Connection, DeniedNetworks, FieldError},
    postgres::error::Fault,
};

/// How long one address may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long all servers together may take to give a session.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(18);

/// How a database is reached.
pub(in crate::postgres) struct Route {
    servers: Vec<Server>,
    connector: Connector,
    denied: DeniedNetworks,
    /// Through which everything goes, if there is one.
    tunnel: Option<Tunnel>,
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
        Ok(Self { servers, connector, denied: egress.denied.clone(), tunnel })
    }

    /// How long opening a session may take in all.
    pub(in crate::postgres) fn patience(&self) -> Duration {
        2 * CONNECT_TIMEOUT + self.tunnel.as_ref().map_or(Duration::ZERO, |_| bastion::PATIENCE)
    }

    /// Opens a session as `config` has it, which names no server.
    pub(in crate::postgres) async fn connect(&self, config: &Config, walk: &mut Walk) -> Result<Client, Fault> {
        let link = match &self.tunnel {
            Some(tunnel) => Some(walk.step(StepName::Bastion, tunnel.link()).await?),
            None => None,
        };
        let mut faults = Vec::new();
        for server in &self.servers {
            // It is large, and rare.
            match Box::pin(self.connect_to(server, link.as_ref(), config, walk)).await {
                Ok(client) => {
                    tracing::debug!(%server, tls = self.secured_by(), "a session was opened");
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

    async fn connect_to(
        &self,
        server: &Server,
        link: Option<&Arc<Link>>,
        config: &Config,
        walk: &mut Walk,
    ) -> Result<Client, Fault> {
        let client = match (server, link) {
            (Server::Socket { directory, port }, _) => self.by_socket(server, directory, *port, config).await?,
            (Server::Network { host, port }, Some(link)) => {
                let stream = walk.step(StepName::Tcp, link.open(host, *port)).await?;
                self.by_stream(server, host, stream, config).await?
            }
            (Server::Network { host, port }, None) => {
                let addresses = walk.step(StepName::Dns, resolve(host, *port, &self.denied)).await?;
                walk.found(|| found(host, &addresses));
                self.by_network(server, host, &addresses, config).await?
            }
        };
        if self.servers.len() > 1 {
            takes_writes(&client).await.map_err(|fault| fault.of(server))?;
        }
        Ok(client)
    }

    /// Through a bastion. TLS is spoken with the server all the same, and by its own name.
    async fn by_stream(&self, server: &Server, host: &str, stream: Stream, config: &Config) -> Result<Client, Fault> {
        let tls = MakeTlsConnect::<Stream>::make_tls_connect(&mut self.connector.clone(), host);
        let tls = tls.map_err(|error| Fault::of_settings(format!("connection.host {host:?}: {error}")))?;
        let connected = timeout(self.share(1), config.connect_raw(stream, tls)).await;
        let connected = connected.map_err(|_| Fault::timed_out("connecting"));
        let connected = connected.and_then(|connected| connected.map_err(|error| self.connector.explain(error)));
        let (client, connection) = connected.map_err(|fault| self.said_by(server, None, fault))?;
        // It ends with the client, and tells it before if anything is wrong.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    async fn by_socket(&self, server: &Server, directory: &Path, port: u16, config: &Config) -> Result<Client, Fault> {
        check_socket(server, &self.denied)?;
        let mut config = config.clone();
        // No TLS is spoken there, whatever the mode, as libpq has it.
        config.host_path(directory).port(port).ssl_mode(SslMode::Disable);
        self.dial(config, self.share(1)).await.map_err(|fault| self.said_by(server, None, fault))
    }

    /// Connects to the first of a server's addresses that answers.
    async fn by_network(
        &self,
        server: &Server,
        host: &str,
        addresses: &[SocketAddr],
        config: &Config,
    ) -> Result<Client, Fault> {
        let mut faults = Vec::new();
        for address in addresses {
            let mut config = config.clone();
            // The name is for TLS; the address is where it goes.
            config.host(host).hostaddr(address.ip()).port(address.port());
            match self.dial(config, self.share(addresses.len())).await {
                Ok(client) => return Ok(client),
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

    /// How long one of a server's addresses may take, so that the last one has its turn too.
    fn share(&self, addresses: usize) -> Duration {
        let places = self.servers.len() * addresses.max(1);
        ROUTE_TIMEOUT / u32::try_from(places).unwrap_or(u32::MAX)
    }

    async fn dial(&self, mut config: Config, limit: Duration) -> Result<Client, Fault> {
        config.connect_timeout(limit.min(CONNECT_TIMEOUT));
        let manager = PostgresConnectionManager::new(config, self.connector.clone());
        let connected = timeout(limit, manager.connect()).await;
        let connected = connected.map_err(|_| Fault::timed_out("connecting"))?;
        connected.map_err(|error| self.connector.explain(error))
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

fn found(host: &str, addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    format!("{host}: {}", addresses.join(", "))
}
