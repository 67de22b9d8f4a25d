//! A dial: is anybody there? Nothing is said, so a server has nothing to log.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
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
    // At once: a name that is slow to look up takes none of the others' time.
    let looks = join_all(servers.iter().map(|server| async move {
        let Server::Network { host, port } = server else { return Ok((server, Vec::new())) };
        resolve(host, *port, &egress.denied).await.map(|addresses| (server, addresses))
    }));
    for look in looks.await {
        match look {
            Ok(server) => found.push(server),
            Err(fault) => drop(first_fault.get_or_insert(fault)),
        }
    }
    match first_fault {
        Some(fault) if found.is_empty() => Err(fault),
        _ => Ok(found),
    }
}

/// Asks all of them at once. If none answers, the first of them says why.
async fn first_that_answers(found: &[(&Server, Vec<SocketAddr>)]) -> Result<SocketAddr, Fault> {
    let addresses = found.iter().flat_map(|(_, addresses)| addresses).enumerate();
    let dials = addresses.map(|(number, address)| async move {
        match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(*address),
            Ok(Err(error)) => Err((number, Fault::unreachable(*address, &error))),
            Err(_) => Err((number, Fault::timed_out(&format!("connecting to {address}")))),
        }
    });
    let mut dials: FuturesUnordered<_> = dials.collect();
    let mut faults = Vec::new();
    while let Some(dialled) = dials.next().await {
        match dialled {
            Ok(address) => return Ok(address),
            Err(fault) => faults.push(fault),
        }
    }
    let first = faults.into_iter().min_by_key(|(number, _)| *number);
    Err(first.map_or_else(|| Fault::of_settings("connection.host names no server".into()), |(_, fault)| fault))
}

fn ips(addresses: &[SocketAddr]) -> String {
    words(addresses, |address| address.ip().to_string())
}

fn words<T>(things: &[T], word: impl Fn(&T) -> String) -> String {
    things.iter().map(word).collect::<Vec<_>>().join(", ")
}
