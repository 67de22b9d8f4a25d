//! The route to a database: the servers that a target names, one after the other, at addresses that we may connect to.
//!
//! Names are resolved anew for each session, so that one which moves is followed, and what was resolved and allowed is what
//! is connected to. Of several servers the first that takes writes is the one, as libpq's `target_session_attrs=read-write`
//! has it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DeniedNetworks, Egress, StepName, Walk,
    addresses::{Server, check_socket, resolve},
    tls,
};
use crate::{
    model::{Connection, FieldError},
    postgres::error::Fault,
};

/// How long one address may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long all servers together may take to give a session.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(18);

/// How a database is reached.
pub(in crate::postgres) struct Route {
    servers: Vec<Server>,
    connector: MakeRustlsConnect,
    denied: DeniedNetworks,
}

/// Whether these settings can be used. Nothing is connected.
pub fn check_settings(connection: &Connection) -> Result<(), FieldError> {
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
        let connector = tls::connector(&connection.tls);
        Ok(Self {
            servers: servers.map_err(|message| FieldError::new("connection.host", message))?,
            connector: connector.map_err(|error| FieldError::new(error.field(), error.to_string()))?,
            denied: egress.denied.clone(),
        })
    }

    /// How long opening a session may take in all.
    pub(in crate::postgres) fn patience(&self) -> Duration {
        2 * CONNECT_TIMEOUT
    }

    /// Opens a session as `config` has it, which names no server.
    pub(in crate::postgres) async fn connect(&self, config: &Config, walk: &mut Walk) -> Result<Client, Fault> {
        let mut faults = Vec::new();
        for server in &self.servers {
            match self.connect_to(server, config, walk).await {
                Ok(client) => return Ok(client),
                // It would be the same anywhere, and some servers count those that fail.
                Err(fault) if fault.is_of_credentials() => return Err(fault),
                Err(fault) => faults.push(fault),
            }
        }
        Err(Fault::of_all(faults))
    }

    async fn connect_to(&self, server: &Server, config: &Config, walk: &mut Walk) -> Result<Client, Fault> {
        let client = match server {
            Server::Socket { directory, port } => self.by_socket(server, directory, *port, config).await?,
            Server::Network { host, port } => {
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
        Ok(connected.map_err(|_| Fault::timed_out("connecting"))??)
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
