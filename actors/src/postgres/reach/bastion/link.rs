//! One SSH connection, and the streams in it.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use russh::{
    ChannelOpenFailure, ChannelStream,
    client::{self, Handle, Msg},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{
    gate::{self, Gate},
    login::log_in,
};
use crate::{
    model::Bastion,
    postgres::{error::Fault, reach::host_keys::HostKeys},
};

/// The part of its time in which a host that is slow to open a stream has to say that it is there at all.
const PONG_PART: u32 = 4;

/// A connection to an SSH host. It ends when nobody has it any more, neither the pool nor a stream in it.
pub(in crate::postgres::reach) struct Link {
    handle: Handle<Gate>,
    cut: Cut,
    place: String,
}

/// Ends a connection at once, whatever its other side does: the client behind [`Handle`] would wait for that.
struct Cut(std::net::TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        self.now();
    }
}

impl Cut {
    fn now(&self) {
        // An error means that it has ended.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Link {
    /// Exchanges keys with the host: an error, unless its key is one that it should have.
    pub(super) async fn greet(
        socket: TcpStream,
        pinned: Option<&HostKeys>,
        gate: Gate,
        place: &str,
    ) -> Result<Self, russh::Error> {
        socket.set_nodelay(true)?;
        let socket = socket.into_std()?;
        // From here on, also when this is given up half way.
        let cut = Cut(socket.try_clone()?);
        let handle = client::connect_stream(gate::config(pinned), TcpStream::from_std(socket)?, gate).await?;
        Ok(Self { handle, cut, place: place.to_owned() })
    }

    pub(super) async fn log_in(&mut self, bastion: &Bastion) -> Result<(), Fault> {
        log_in(&mut self.handle, bastion, &self.place).await
    }

    /// Whether it is known to have ended.
    pub(super) fn is_dead(&self) -> bool {
        self.handle.is_closed()
    }

    /// A stream to a server, as the host sees it, within `limit`.
    pub(in crate::postgres::reach) async fn open(
        self: &Arc<Self>,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Stream, Fault> {
        let pong_limit = limit / PONG_PART;
        let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        // Where the stream comes from is for the host's log, and not to be known of us.
        let opening = self.handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0);
        match timeout(limit.saturating_sub(pong_limit), opening).await {
            Ok(Ok(channel)) => Ok(Stream { channel: channel.into_stream(), link: Arc::clone(self) }),
            Ok(Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed))) => {
                Err(Fault::unreachable_from_bastion(&self.place, &server))
            }
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
                Err(Fault::bastion_refused(&self.place, &server, &said(reason)))
            }
            Ok(Err(error)) => {
                self.cut.now();
                Err(Fault::bastion_closed(&self.place, &error.to_string()))
            }
            Err(_) if self.answers(pong_limit).await => Err(Fault::unanswered_behind_bastion(&self.place, &server)),
            Err(_) => {
                self.cut.now();
                Err(Fault::bastion_closed(&self.place, "it does not answer any more"))
            }
        }
    }

    async fn answers(&self, limit: Duration) -> bool {
        matches!(timeout(limit, self.handle.send_ping()).await, Ok(Ok(())))
    }
}

fn said(reason: ChannelOpenFailure) -> String {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => "it permits no forwarding there".to_owned(),
        ChannelOpenFailure::ResourceShortage => "it has no room for one more stream".to_owned(),
        ChannelOpenFailure::Other { reason, .. } => reason,
        other => format!("{other:?}"),
    }
}

/// A stream through an SSH host to a server.
pub(in crate::postgres::reach) struct Stream {
    channel: ChannelStream<Msg>,
    /// Which lasts as long.
    #[expect(dead_code, reason = "it is there to be dropped, and that after the channel")]
    link: Arc<Link>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(context)
    }
}
