//! The signals that ask for an end: SIGINT, as Ctrl-C sends it, and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals. One that comes while nobody waits is kept.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }

    /// What the future gives, or `None` if a signal comes first.
    pub(super) async fn unless_asked_to_end<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            given = future => Some(given),
            () = self.next() => None,
        }
    }
}
