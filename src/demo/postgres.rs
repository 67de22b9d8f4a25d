//! A Postgres server of one's own, to try things on: in a temporary directory, on a free loopback port, behind a
//! password, and gone, processes and files, when its value is dropped.
//!
//! Nothing of it outlives its starter either when that is killed outright, or when the value is a static that is never
//! dropped: the `Caretaker` sees to that. (The kernel's parent-death signal would not do: it comes when the *thread*
//! that started the server ends, which a thread of a pool may do at any time.)
//!
//! Everything here blocks the calling thread: in async code, call it by way of `spawn_blocking`.

use std::{
    fmt,
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;

pub use self::error::StartError;
use self::host::{Account, Caretaker, Programs};

mod error;
mod host;

/// The only role that a new server has.
const SUPERUSER: &str = "postgres";

/// How long a server may take to be ready: ample, since the machine may be busy and a crash to recover from.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// How long a server may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// How often a condition is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How many ports are tried, each of which another process may take before the server does.
const PORTS_TRIED: u32 = 5;

/// What the log says when another process has the port.
const PORT_TAKEN: &str = "Address already in use";

/// What the log says when sessions of a killed postmaster are still there.
const SESSIONS_LEFT: &str = "pre-existing shared memory block";

/// How many lines of the server's log an error shows.
const LOG_LINES_SHOWN: usize = 20;

/// How to end a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are cut, transactions rolled back, everything is written.
    Fast,
    /// As in a crash: nothing is written, the next start recovers.
    Immediate,
}

/// What a server is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Whether a commit waits for the disk, as in production. Without, the server is faster, and as safe as long as
    /// the machine itself does not crash.
    pub durable: bool,
    /// Further settings, name and value; they win over those of this module.
    pub settings: &'a [(&'a str, &'a str)],
}

/// A Postgres server that lives as long as this value.
pub struct ThrowawayPostgres {
    cluster: Cluster,
    port: u16,
    server: Mutex<Child>,
    caretaker: Caretaker,
}

impl ThrowawayPostgres {
    /// Starts a server with the default options; takes about a second.
    pub fn start() -> Result<Self, StartError> {
        Self::with_options(&Options::default())
    }

    /// Starts a server with further settings, name and value.
    pub fn with_settings(settings: &[(&str, &str)]) -> Result<Self, StartError> {
        Self::with_options(&Options { settings, ..Options::default() })
    }

    /// Starts a server.
    pub fn with_options(options: &Options<'_>) -> Result<Self, StartError> {
        let programs = Programs::find().ok_or(StartError::NotInstalled)?;
        let directory = tempfile::Builder::new().prefix("sequin-postgres-").tempdir().map_err(StartError::Files)?;
        let account = Account::to_run_as(directory.path())?;
        let caretaker = Caretaker::of(directory.keep())?;
        let settings = options.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let password = Uuid::new_v4().simple().to_string();
        let directory = caretaker.directory().to_owned();
        let cluster = Cluster { programs, account, directory, password, durable: options.durable, settings };
        cluster.initialise()?;
        let mut tried = 1;
        loop {
            let port = free_port().map_err(StartError::Port)?;
            match cluster.launch(port) {
                Ok(server) => return Ok(Self { cluster, port, server: Mutex::new(server), caretaker }),
                Err(error) if tried < PORTS_TRIED && error.log_says(PORT_TAKEN) => tried += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The loopback port that the server listens on; the same after [`Self::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database, password and all; the name must need no percent-encoding. A new server has `postgres`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.cluster.password, self.port)
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.cluster.password
    }

    /// The superuser's name.
    pub fn superuser(&self) -> &str {
        SUPERUSER
    }

    /// The process id of the postmaster, or of the last one if the server is stopped.
    pub fn pid(&self) -> u32 {
        self.server().id()
    }

    /// Stops the server if it runs, and returns when it has ended. One that does not end in time is killed.
    pub fn stop(&self, how: Stop) {
        self.cluster.end(&mut self.server(), how);
    }

    /// Starts the server again, on the same port and data; one that still runs is stopped as in a crash.
    pub fn start_again(&self) -> Result<(), StartError> {
        let mut server = self.server();
        self.cluster.end(&mut server, Stop::Immediate);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.cluster.launch(self.port) {
                Ok(started) => break *server = started,
                // After a kill of the postmaster alone, its sessions take a moment to be gone.
                Err(error) if error.log_says(SESSIONS_LEFT) && Instant::now() < deadline => {
                    thread::sleep(LOOK_EVERY);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Child> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
        self.caretaker.forget_server();
    }
}

impl fmt::Debug for ThrowawayPostgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ThrowawayPostgres").field("port", &self.port).finish_non_exhaustive()
    }
}

/// All of a server but its process.
struct Cluster {
    programs: Programs,
    account: Option<Account>,
    directory: PathBuf,
    password: String,
    durable: bool,
    settings: Vec<String>,
}

impl Cluster {
    /// Makes the data directory.
    fn initialise(&self) -> Result<(), StartError> {
        let password_file = self.directory.join("password");
        host::write_private(&password_file, &self.password, self.account).map_err(StartError::Files)?;
        let mut initdb = self.command(&self.programs.initdb);
        initdb.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER]);
        initdb.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(self.data());
        let output =
            initdb.output().map_err(|source| StartError::Run { program: self.programs.initdb.clone(), source })?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(StartError::Initdb { status: output.status, stderr });
        }
        fs::remove_file(password_file).map_err(StartError::Files)
    }

    /// Starts the server and waits until it takes connections.
    fn launch(&self, port: u16) -> Result<Child, StartError> {
        let mut postgres = self.command(&self.programs.postgres);
        postgres.arg("-D").arg(self.data()).arg("-p").arg(port.to_string());
        let sockets = format!("unix_socket_directories={}", self.directory.display());
        let fsync = format!("fsync={}", if self.durable { "on" } else { "off" });
        let own = ["listen_addresses=127.0.0.1", "max_connections=100", &sockets, &fsync];
        for setting in own.into_iter().chain(self.settings.iter().map(String::as_str)) {
            postgres.args(["-c", setting]);
        }
        let log = File::create(self.log()).map_err(StartError::Files)?;
        // In a process group of its own: a Ctrl-C in the terminal is for the starter, who then ends it in order.
        let mut server = postgres
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| StartError::Run { program: self.programs.postgres.clone(), source })?;
        let outcome = wait_for(READY_WITHIN, || match server.try_wait() {
            Ok(None) => self.is_ready(server.id()).then_some(Ok(())),
            Ok(Some(status)) => Some(Err(StartError::Ended { status, log: self.log_tail() })),
            Err(source) => Some(Err(StartError::Run { program: self.programs.postgres.clone(), source })),
        });
        let outcome = outcome.unwrap_or_else(|| {
            self.end(&mut server, Stop::Immediate);
            Err(StartError::NotReady { log: self.log_tail() })
        });
        outcome.map(|()| server)
    }

    /// Ends the server if it runs, and returns when it has ended.
    fn end(&self, server: &mut Child, how: Stop) {
        // Once its end was seen, the process id may be another's.
        if !matches!(server.try_wait(), Ok(Some(_))) {
            let signal = match how {
                Stop::Fast => "INT",
                Stop::Immediate => "QUIT",
            };
            let told = host::signal(server.id(), signal).is_ok();
            if !told || wait_for(STOPPED_WITHIN, || server.try_wait().transpose()).is_none() {
                // An error means that it is gone already.
                let _ = server.kill();
                let _ = server.wait();
            }
        }
        // Sessions notice that their postmaster was killed when they are next idle, which may be long.
        for session in host::processes_in(&self.data()) {
            // An error means that it has noticed.
            let _ = host::signal(session, "KILL");
        }
    }

    /// Whether the server says so in its lock file, whose first line is its process id and whose eighth its status
    /// (`src/include/utils/pidfile.h` of Postgres). The file of an earlier, killed server may still be there.
    fn is_ready(&self, pid: u32) -> bool {
        let lock = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let line = |number: usize| lock.lines().nth(number - 1).map(str::trim);
        line(1) == Some(&pid.to_string()) && line(8) == Some("ready")
    }

    /// A command that runs as the server's account, and whose messages are not translated.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C");
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

/// Looks at a condition until it gives an answer or the time is up.
fn wait_for<T>(within: Duration, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        let found = answer();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests;
