//! A network that fails when it is told to: a TCP proxy on a loopback port, in front of a PostgreSQL server.
//!
//! It knows nothing of PostgreSQL but what a `COMMIT` looks like on the wire, so whatever is spoken goes through it. It
//! counts what it did, so that a test can tell that its fault has happened.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// How many connections may wait to be taken.
const BACKLOG: u32 = 1024;

/// How many bytes go on at once.
const CHUNK: usize = 64 * 1024;

/// The message by which the driver commits a transaction, always the last of what it sends at once
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>, Query).
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What the network does to a connection. What is held goes on later, in order, as after lost packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Everything goes through.
    Pass,
    /// Nobody listens: a new connection is refused. One that is there is not touched.
    Refuse,
    /// Whatever is said arrives so much later.
    Delay(Duration),
    /// Nothing arrives, in either direction. New connections are taken, and hang.
    BlackHole,
    /// What the client says arrives, and what the server answers does not.
    HoldAnswers,
    /// The server's side is closed, and the client not told. Once this ends, the client's side is reset: there is nobody
    /// to go on with. New connections are taken, and hang until then.
    LoseServer,
    /// Instead of bringing a `COMMIT`, both sides are reset.
    CutBeforeCommit,
    /// A `COMMIT` is brought, and the client's side reset; the server finishes, and its answer reaches nobody.
    CutAfterCommit,
}

/// How a connection is ended, on both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    /// In order (FIN).
    Close,
    /// By a reset (RST).
    Reset,
}

/// What the proxy has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Connections that were taken.
    pub(crate) taken: u64,
    /// Connections that were ended by [`Proxy::cut`].
    pub(crate) cut: u64,
    /// How often a connection, or something said on it, had to wait for a mode to end.
    pub(crate) held: u64,
    /// Chunks that came later.
    pub(crate) delayed: u64,
    /// Connections that lost their server.
    pub(crate) lost: u64,
    /// Commits that were not brought.
    pub(crate) cut_before_commit: u64,
    /// Commits that the server has answered, and nobody heard it.
    pub(crate) unheard_commits: u64,
}

/// The proxy; its connections end with it.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Keeps the port while nobody listens there.
    _reservation: TcpSocket,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    mode_of_new: watch::Sender<Mode>,
    connections: Mutex<Vec<Weak<Connection>>>,
    counts: Mutex<Counts>,
}

/// What one connection is told.
#[derive(Debug)]
struct Connection {
    mode: watch::Sender<Mode>,
    cut: watch::Sender<Option<Ending>>,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Puts a proxy before the server that listens on this port.
    pub(crate) fn before(server: u16) -> Self {
        let reservation = bind(0).expect("a free port");
        let port = reservation.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            server: (Ipv4Addr::LOCALHOST, server).into(),
            mode_of_new: watch::Sender::new(Mode::Pass),
            connections: Mutex::default(),
            counts: Mutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&shared).listen(listener(port)));
        Self { port, shared, _reservation: reservation, task }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on, this is what happens to all connections.
    pub(crate) fn set(&self, mode: Mode) {
        self.set_for_new(mode);
        self.set_for_existing(mode);
    }

    /// From now on, this is what happens to connections that are made from now on.
    pub(crate) fn set_for_new(&self, mode: Mode) {
        self.shared.mode_of_new.send_replace(mode);
    }

    /// From now on, this is what happens to connections that are there now.
    pub(crate) fn set_for_existing(&self, mode: Mode) {
        for connection in self.shared.existing() {
            connection.mode.send_replace(mode);
        }
    }

    /// Ends all connections that are there now; returns how many.
    pub(crate) fn cut(&self, ending: Ending) -> usize {
        let existing = self.shared.existing();
        for connection in &existing {
            connection.cut.send_replace(Some(ending));
        }
        existing.len()
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> Counts {
        *locked(&self.shared.counts)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mode {
    fn lets_through(self, way: Way) -> bool {
        match self {
            Self::BlackHole | Self::LoseServer => false,
            Self::HoldAnswers => way == Way::ToServer,
            _ => true,
        }
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, mut listener: TcpListener) {
        let port = listener.local_addr().expect("its address").port();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = when(&self.mode_of_new, |mode| mode == Mode::Refuse) => {
                    drop(listener);
                    when(&self.mode_of_new, |mode| mode != Mode::Refuse).await;
                    listener = self::listener(port);
                }
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    connections.spawn(Connection::new(&self).carry(client));
                },
            }
            while connections.try_join_next().is_some() {}
        }
    }

    fn existing(&self) -> Vec<Arc<Connection>> {
        let mut connections = locked(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut locked(&self.counts));
    }
}

/// A direction.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToServer,
    ToClient,
}

/// How carrying ended, if not by a cut.
enum End {
    /// One side has closed, or the server could not be reached.
    Over(Ending),
    /// The server commits, and the client is not to hear of it.
    Unheard,
}

impl Connection {
    /// A connection that is known to whoever sets modes and cuts.
    fn new(shared: &Arc<Shared>) -> Arc<Self> {
        let mut connections = locked(&shared.connections);
        let mode = watch::Sender::new(*shared.mode_of_new.borrow());
        let connection = Arc::new(Self { mode, cut: watch::Sender::new(None), shared: Arc::clone(shared) });
        connections.push(Arc::downgrade(&connection));
        shared.count(|counts| counts.taken += 1);
        connection
    }

    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let mut server = None;
        let end = tokio::select! {
            biased;
            ending = self.is_cut() => End::Over(ending),
            end = self.carry_on(&mut client, &mut server) => end.unwrap_or(End::Over(Ending::Reset)),
        };
        if !matches!(end, End::Over(Ending::Close)) {
            for socket in [&client].into_iter().chain(&server) {
                // An error means that the other side has closed it.
                let _ = socket.set_zero_linger();
            }
        }
        drop(client);
        if let (End::Unheard, Some(mut server)) = (end, server) {
            let answer = server.read(&mut [0; 1]).await;
            if answer.is_ok_and(|length| length > 0) {
                self.shared.count(|counts| counts.unheard_commits += 1);
            }
        }
    }

    /// Carries what either side says to the other until one of them ends, or the mode makes an end.
    async fn carry_on(&self, client: &mut TcpStream, server: &mut Option<TcpStream>) -> io::Result<End> {
        self.may_pass(Way::ToServer).await;
        let open = server.insert(TcpStream::connect(self.shared.server).await?);
        for socket in [&*client, &*open] {
            socket.set_nodelay(true)?;
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = open.split();
        tokio::select! {
            end = self.pump(Way::ToServer, from_client, to_server) => return end,
            end = self.pump(Way::ToClient, from_server, to_client) => return end,
            _ = when(&self.mode, |mode| mode == Mode::LoseServer) => {}
        }
        *server = None;
        self.shared.count(|counts| counts.lost += 1);
        when(&self.mode, |mode| mode != Mode::LoseServer).await;
        Ok(End::Over(Ending::Reset))
    }

    async fn pump(&self, way: Way, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<End> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from.read(&mut chunk).await;
            // An end, too, is nothing that the other side hears of while nothing passes.
            let mode = self.may_pass(way).await;
            let said = &chunk[..read?];
            if said.is_empty() {
                return Ok(End::Over(Ending::Close));
            }
            if let Mode::Delay(by) = mode {
                self.shared.count(|counts| counts.delayed += 1);
                tokio::time::sleep(by).await;
            }
            match (mode, said.strip_suffix(COMMIT)) {
                (Mode::CutBeforeCommit, Some(before)) if way == Way::ToServer => {
                    to.write_all(before).await?;
                    self.shared.count(|counts| counts.cut_before_commit += 1);
                    return Ok(End::Over(Ending::Reset));
                }
                (Mode::CutAfterCommit, Some(_)) if way == Way::ToServer => {
                    to.write_all(said).await?;
                    return Ok(End::Unheard);
                }
                _ => to.write_all(said).await?,
            }
        }
    }

    /// Waits until the mode lets something through; returns that mode.
    async fn may_pass(&self, way: Way) -> Mode {
        let mode = *self.mode.borrow();
        if mode.lets_through(way) {
            return mode;
        }
        self.shared.count(|counts| counts.held += 1);
        when(&self.mode, |mode| mode.lets_through(way)).await
    }

    async fn is_cut(&self) -> Ending {
        let mut cut = self.cut.subscribe();
        loop {
            if let Some(ending) = *cut.borrow_and_update() {
                self.shared.count(|counts| counts.cut += 1);
                return ending;
            }
            cut.changed().await.expect("its sender is there");
        }
    }
}

/// Waits until the mode is such a one; returns it.
async fn when(mode: &watch::Sender<Mode>, such: impl Fn(Mode) -> bool) -> Mode {
    *mode.subscribe().wait_for(|mode| such(*mode)).await.expect("its sender is there")
}

/// A socket on a loopback port, any if it is 0, which others like it may share as long as none of them listens.
fn bind(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket)
}

fn listener(port: u16) -> TcpListener {
    bind(port).and_then(|socket| socket.listen(BACKLOG)).expect("the port, which is reserved")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
