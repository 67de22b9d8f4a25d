//! A gate before a server, that keeps out one process and lets the others through: a partition of one node among several.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// How many bytes go on at once.
const CHUNK: usize = 64 * 1024;

/// The gate; its connections end with it.
pub(crate) struct Gate {
    port: u16,
    kept_out: Arc<watch::Sender<HashSet<u32>>>,
    task: JoinHandle<()>,
}

impl Gate {
    /// Puts a gate before the server that listens on this port.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let kept_out = Arc::new(watch::Sender::new(HashSet::new()));
        let task = tokio::spawn(listen(listener, server, Arc::clone(&kept_out)));
        Self { port, kept_out, task }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Nothing that this process says or is told goes through any more; what is held goes on when it may.
    pub(crate) fn keep_out(&self, process: u32) {
        self.kept_out.send_if_modified(|kept_out| kept_out.insert(process));
    }

    pub(crate) fn let_in(&self, process: u32) {
        self.kept_out.send_if_modified(|kept_out| kept_out.remove(&process));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, server: u16, kept_out: Arc<watch::Sender<HashSet<u32>>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, address)) = listener.accept().await else { continue };
        let mut kept_out = kept_out.subscribe();
        connections.spawn(async move {
            let process = owner(address, listener_port(&client)).await;
            wait(&mut kept_out, process).await;
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::select! {
                () = carry(from_client, to_server, kept_out.clone(), process) => {}
                () = carry(from_server, to_client, kept_out, process) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn listener_port(client: &TcpStream) -> u16 {
    client.local_addr().expect("its address").port()
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut kept_out: watch::Receiver<HashSet<u32>>,
    process: Option<u32>,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
        wait(&mut kept_out, process).await;
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

async fn wait(kept_out: &mut watch::Receiver<HashSet<u32>>, process: Option<u32>) {
    let Some(process) = process else { return };
    let _ = kept_out.wait_for(|kept_out| !kept_out.contains(&process)).await;
}

/// The process at the other end of a connection, as the kernel tells: by the connection's entry in its table the number
/// of the socket, and by that who has it open.
async fn owner(client: SocketAddr, gate: u16) -> Option<u32> {
    tokio::task::spawn_blocking(move || {
        let ends = format!("0100007F:{:04X} 0100007F:{gate:04X}", client.port());
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let line = table.lines().find(|line| line.contains(&ends))?;
        let socket = format!("socket:[{}]", line.split_whitespace().nth(9)?);
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut processes = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
        processes.find(|process| {
            let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.as_os_str() == socket.as_str())
        })
    })
    .await
    .ok()?
}
