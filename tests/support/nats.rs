//! NATS servers on this machine: real ones, with JetStream, gone afterwards.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to answer at first.
const START: Duration = Duration::from_secs(30);

/// The program, as `deploy/setup.sh` has installed it, or as the machine has it.
pub(crate) fn program() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let mut places = vec![target.join("tools/bin")];
    places.extend(env::split_paths(&path));
    let found = places.iter().map(|place| place.join("nats-server")).find(|file| file.is_file());
    found.expect("nats-server 2.11 or later: deploy/setup.sh installs it")
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_root = |place: &&Path| place.join("Cargo.lock").is_file();
    package.ancestors().find(is_root).expect("the workspace has a Cargo.lock").into()
}

/// One server, or three that are one cluster. Dropping it ends them, and so does the end of this process.
pub(crate) struct Nats {
    directory: TempDir,
    servers: Vec<Server>,
}

struct Server {
    port: u16,
    /// `None` while it does not run.
    process: Option<Process>,
}

/// A shell that has started the server, and ends it when its own input ends.
struct Process {
    shell: Child,
    server: u32,
}

impl Nats {
    /// One server.
    pub(crate) fn start() -> Self {
        Self::start_with(1, "")
    }

    /// Three servers that are one cluster, each of which keeps what is replicated three times.
    pub(crate) fn start_cluster() -> Self {
        Self::start_with(3, "")
    }

    /// The same, but clients come by the addresses that they were given alone, as where there is something between.
    pub(crate) fn start_cluster_behind_gates() -> Self {
        Self::configured(3, "", "no_advertise: true, ")
    }

    /// So many servers, with more in their configuration.
    pub(crate) fn start_with(servers: usize, more: &str) -> Self {
        Self::configured(servers, more, "")
    }

    fn configured(servers: usize, more: &str, of_cluster: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // Held until all are chosen, so that no two are the same.
        let listeners: Vec<_> = (0..2 * servers).map(|_| free_port()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().expect("its address").port()).collect();
        drop(listeners);
        let (clients, routes) = ports.split_at(servers);
        for number in 0..servers {
            let place = directory.path().join(number.to_string());
            fs::create_dir(&place).expect("a directory for a server");
            let text = configuration(number, clients, routes, &place, [more, of_cluster]);
            fs::write(place.join("nats.conf"), text).expect("its configuration");
        }
        let servers = clients.iter().map(|&port| Server { port, process: None }).collect();
        let mut nats = Self { directory, servers };
        for number in 0..nats.servers.len() {
            nats.launch(number);
        }
        for number in 0..nats.servers.len() {
            nats.await_ready(number);
        }
        nats
    }

    /// Where a client reaches them.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("nats://{}", hosts.join(","))
    }

    /// Where a client reaches one of them.
    pub(crate) fn port(&self, number: usize) -> u16 {
        self.servers[number].port
    }

    /// Ends a server without a word.
    pub(crate) fn kill(&mut self, number: usize) {
        // Its end is waited for when the process is dropped.
        drop(self.servers[number].process.take());
    }

    /// Starts a server again that was killed, with what it had.
    pub(crate) fn restart(&mut self, number: usize) {
        self.launch(number);
        self.await_ready(number);
    }

    /// Sends a signal to a server: `STOP`, `CONT`.
    pub(crate) fn signal(&self, number: usize, signal: &str) {
        let process = self.servers[number].process.as_ref().expect("a server that runs");
        let sent = Command::new("kill").args(["-s", signal, &process.server.to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// What a server keeps.
    pub(crate) fn place(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    fn launch(&mut self, number: usize) {
        const RUN: &str = r#""$0" -c nats.conf >>log 2>&1 & echo $!; cat >/dev/null; kill -s KILL $!; wait"#;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", RUN]).arg(program()).current_dir(self.place(number));
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        let output = shell.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("the server's number");
        let server = line.trim().parse().expect("the server's number");
        self.servers[number].process = Some(Process { shell, server });
    }

    /// Until it takes clients.
    fn await_ready(&self, number: usize) {
        let deadline = Instant::now() + START;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.servers[number].port)).is_err() {
            let log = || fs::read_to_string(self.place(number).join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the NATS server does not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn free_port() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
}

fn configuration(number: usize, clients: &[u16], routes: &[u16], place: &Path, more: [&str; 2]) -> String {
    let [more, of_cluster] = more;
    let mut text = format!(
        "server_name: n{number}\nlisten: 127.0.0.1:{}\nmax_payload: 8MB\njetstream {{ store_dir: \"{}\" }}\n{more}\n",
        clients[number],
        place.display()
    );
    if clients.len() > 1 {
        let urls: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let (port, urls) = (routes[number], urls.join(", "));
        let cluster = format!("cluster {{ name: test, {of_cluster}listen: 127.0.0.1:{port}, routes: [{urls}] }}");
        writeln!(text, "{cluster}").expect("memory");
    }
    text
}
