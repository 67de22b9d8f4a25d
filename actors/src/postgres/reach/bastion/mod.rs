//! Bastions: SSH hosts through which a database is reached. The streams to the database are channels of one SSH connection, so
//! no port of this machine is open for anybody.
//!
//! A pool has one [`Tunnel`]. It is connected for the first session, shared by all, and made anew once it is dead: that ends the
//! sessions in it, as when a network fails. Nothing is told to a host that shows no key that is pinned; what is told it then
//! is what takes a login, and whereto.

mod cost;
mod gate;
mod keys;
mod link;
mod login;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use russh::keys::PublicKey;
use tokio::{net::TcpStream, sync::Mutex, sync::watch, time::timeout};

use self::gate::Gate;
pub(super) use self::link::{Link, Stream};
use super::{
    Egress,
    addresses::{Server, resolve},
    host_keys::{self, HostKeys},
    turn::Turn,
};
use crate::{
    model::{Bastion, DeniedNetworks, FieldError},
    postgres::error::Fault,
};

/// How long a host may take for each step: to take the connection, to show its key, to let us in.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// How many of a host's addresses are tried.
const MOST_ADDRESSES: usize = 4;

/// How long making a tunnel may take in all, and looking at what keys there are.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The way through an SSH host, which all sessions of a pool share.
pub(super) struct Tunnel {
    bastion: Bastion,
    host_keys: Option<HostKeys>,
    denied: DeniedNetworks,
    /// How long each step may take.
    step: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    /// When the last attempt failed, and why: whoever waited for that attempt makes none of its own.
    failed: Option<(Instant, Fault)>,
}

/// Whether the settings of a bastion can be used. Nothing is connected.
pub(super) fn check(bastion: &Bastion) -> Result<(), FieldError> {
    pinned(bastion)?;
    keys::private_key(bastion).map(drop)
}

/// The keys that a bastion shows, one for each line of `host_key`, and one for each of its addresses if they differ. We do
/// not log in to it.
pub async fn see_host_keys(bastion: &Bastion, egress: &Egress) -> Result<Vec<String>, Fault> {
    let turn = Turn::of(PATIENCE);
    let addresses = addresses(bastion, &egress.denied).await?;
    // At once: one that is dead keeps nobody from seeing the others.
    let looks = join_all(addresses.into_iter().map(|address| see(bastion, address, turn))).await;
    let (mut seen, mut faults) = (Vec::new(), Vec::new());
    for look in looks {
        match look {
            Ok(key) if seen.contains(&key) => {}
            Ok(key) => seen.push(key),
            Err(fault) => faults.push(fault),
        }
    }
    if seen.is_empty() { Err(Fault::of_all(faults)) } else { Ok(seen) }
}

impl Tunnel {
    /// Nothing is connected yet.
    pub(super) fn new(bastion: &Bastion, egress: &Egress) -> Result<Self, FieldError> {
        let host_keys = pinned(bastion)?;
        let (bastion, denied) = (bastion.clone(), egress.denied.clone());
        Ok(Self { bastion, host_keys, denied, step: STEP_TIMEOUT, state: Mutex::default() })
    }

    /// The connection to the host, made anew if there is none that lives.
    pub(super) async fn link(&self) -> Result<Arc<Link>, Fault> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_dead()) {
            return Ok(Arc::clone(link));
        }
        state.link = None;
        if let Some((at, fault)) = &state.failed
            && *at >= asked
        {
            return Err(fault.clone());
        }
        // It is large, and rare.
        match Box::pin(self.connect()).await {
            Ok(link) => Ok(Arc::clone(state.link.insert(Arc::new(link)))),
            Err(fault) => {
                state.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> Result<Link, Fault> {
        let turn = Turn::of(PATIENCE);
        let addresses = addresses(&self.bastion, &self.denied).await?;
        let mut faults = Vec::new();
        for (address, turn) in turn.shared(addresses.into_iter()) {
            match self.connect_to(address, turn).await {
                Ok(link) => return Ok(link),
                // Another address is another host, perhaps; who lets nobody in has said so.
                Err(fault) if fault.code == "bastion_auth_failed" => return Err(fault),
                Err(fault) => faults.push(fault),
            }
        }
        Err(Fault::of_all(faults))
    }

    async fn connect_to(&self, address: SocketAddr, turn: Turn) -> Result<Link, Fault> {
        let place = place(&self.bastion, address);
        let step = || self.step.min(turn.left());
        let socket = dial(&place, address, step()).await?;
        let hangs = |_| Fault::bastion_unreachable(&place, "it takes the connection, and says nothing");
        let (gate, seen) = Gate::new(self.host_keys.clone());
        let link = Link::greet(socket, self.host_keys.as_ref(), gate, &place);
        let mut link = match timeout(step(), link).await.map_err(hangs)? {
            Ok(link) => link,
            Err(error) => return Err(self.turned_back(&place, error, &seen)),
        };
        let hangs = |_| Fault::bastion_unreachable(&place, "it does not answer our login");
        timeout(step(), link.log_in(&self.bastion)).await.map_err(hangs)??;
        Ok(link)
    }

    /// Why there is no way past the host's key, or none to it.
    fn turned_back(&self, place: &str, error: russh::Error, seen: &watch::Receiver<Option<PublicKey>>) -> Fault {
        let seen = seen.borrow().clone();
        match (error, seen, &self.host_keys) {
            (russh::Error::UnknownKey, Some(key), Some(pinned)) => Fault::bastion_host_key(
                place,
                &format!(
                    "it shows the key {} ({}), which is not its host_key ({})",
                    host_keys::line(&key),
                    host_keys::fingerprint(&key),
                    pinned.fingerprints()
                ),
            ),
            (russh::Error::UnknownKey, Some(key), None) => {
                Fault::host_key_unconfirmed(place, &host_keys::line(&key), &host_keys::fingerprint(&key))
            }
            (error, _, pinned) => broken_off(place, error, pinned.is_some()),
        }
    }
}

fn pinned(bastion: &Bastion) -> Result<Option<HostKeys>, FieldError> {
    let keys = bastion.host_key.as_deref().map(HostKeys::parse).transpose();
    keys.map_err(|message| FieldError::new("connection.bastion.host_key", message))
}

async fn addresses(bastion: &Bastion, denied: &DeniedNetworks) -> Result<Vec<SocketAddr>, Fault> {
    let mut addresses = resolve(&bastion.host, bastion.port, denied).await.map_err(Fault::of_the_bastion)?;
    addresses.truncate(MOST_ADDRESSES);
    Ok(addresses)
}

/// The host as messages name it.
fn place(bastion: &Bastion, address: SocketAddr) -> String {
    let server = Server::Network { host: bastion.host.clone(), port: bastion.port };
    if server.is_at(address.ip()) { server.to_string() } else { format!("{server} ({})", address.ip()) }
}

async fn dial(place: &str, address: SocketAddr, limit: Duration) -> Result<TcpStream, Fault> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(Fault::bastion_unreachable(place, &error.to_string())),
        Err(_) => Err(Fault::bastion_unreachable(place, "it does not answer")),
    }
}

/// Exchanges keys as far as it takes to see the host's.
async fn see(bastion: &Bastion, address: SocketAddr, turn: Turn) -> Result<String, Fault> {
    let place = place(bastion, address);
    let step = || STEP_TIMEOUT.min(turn.left());
    let socket = dial(&place, address, step()).await?;
    let (gate, seen) = Gate::new(None);
    let greeted = timeout(step(), Link::greet(socket, None, gate, &place)).await;
    if let Some(key) = seen.borrow().as_ref() {
        return Ok(host_keys::line(key));
    }
    Err(match greeted {
        Err(_) => Fault::bastion_unreachable(&place, "it takes the connection, and says nothing"),
        Ok(Err(error)) => broken_off(&place, error, false),
        Ok(Ok(_)) => Fault::internal("an SSH host was let through without a key"),
    })
}

/// Why there was no key to be looked at.
fn broken_off(place: &str, error: russh::Error, is_pinned: bool) -> Fault {
    match error {
        russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, theirs, .. } if is_pinned => {
            Fault::bastion_host_key(
                place,
                &format!("it has no key of the kind of its host_key, only {}", theirs.join(", ")),
            )
        }
        russh::Error::NoCommonAlgo { theirs, .. } => {
            Fault::bastion_algorithms(place, &format!("it speaks no algorithm of today, only {}", theirs.join(", ")))
        }
        russh::Error::Version => Fault::bastion_unreachable(place, "what answers there is no SSH server"),
        russh::Error::WrongServerSig => {
            Fault::bastion_host_key(place, "it does not prove to have the key that it shows")
        }
        error => Fault::bastion_unreachable(place, &format!("the connection broke off before it was secured: {error}")),
    }
}

#[cfg(test)]
mod tests;
