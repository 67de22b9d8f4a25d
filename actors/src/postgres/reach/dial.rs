//! A dial: is anybody there? Nothing is said, so a server has nothing to log.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Egress, StepName, Walk,
    addresses::{Server, resolve},
};
use crate::{model::Connection, postgres::error::Fault};

/// How long an address may take to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks for the servers that a target names, and for somebody who listens there. Of several, one is enough.
pub(in crate::postgres) async fn dial(connection: &Connection, egress: &Egress, walk: &mut Walk) -> Result<(), Fault> {
    let servers = Server::parse_all(&connection.host, connection.port);
    let servers = servers.map_err(|message| Fault::of_settings(format!("connection.host {message}")))?;
    if servers.iter().any(|server| matches!(server, Server::Socket { .. })) {
        walk.skip(StepName::Dns, "a socket of this machine has no address");
        walk.skip(StepName::Tcp, "a socket of this machine is not reached by TCP");
        return Ok(());
    }
    let found = walk.step(StepName::Dns, look_up(&servers, egress)).await?;
    walk.found(|| words(&found, |(server, addresses)| format!("{server} is {}", ips(addresses))));
    let answered = walk.step(StepName::Tcp, first_that_answers(&found)).await?;
    walk.found(|| format!("{answered} answers"));
    Ok(())
}

/// The addresses of all servers that have some; the fault of the first if none has.
async fn look_up<'s>(servers: &'s [Server], egress: &Egress) -> Result<Vec<(&'s Server, Vec<SocketAddr>)>, Fault> {
    let (mut found, mut first_fault) = (Vec::new(), None);
    for server in servers {
        let Server::Network { host, port } = server else { continue };
        match resolve(host, *port, &egress.denied).await {
            Ok(addresses) => found.push((server, addresses)),
            Err(fault) => drop(first_fault.get_or_insert(fault)),
        }
    }
    match first_fault {
        Some(fault) if found.is_empty() => Err(fault),
        _ => Ok(found),
    }
}

async fn first_that_answers(found: &[(&Server, Vec<SocketAddr>)]) -> Result<SocketAddr, Fault> {
    let mut first_fault = None;
    for address in found.iter().flat_map(|(_, addresses)| addresses) {
        let fault = match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(*address),
            Ok(Err(error)) => Fault::unreachable(*address, &error),
            Err(_) => Fault::timed_out(&format!("connecting to {address}")),
        };
        first_fault.get_or_insert(fault);
    }
    Err(first_fault.unwrap_or_else(|| Fault::of_settings("connection.host names no server".into())))
}

fn ips(addresses: &[SocketAddr]) -> String {
    words(addresses, |address| address.ip().to_string())
}

fn words<T>(things: &[T], word: impl Fn(&T) -> String) -> String {
    things.iter().map(word).collect::<Vec<_>>().join(", ")
}
