//! A `PgBouncer` before a database of a test: a real one, gone afterwards.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpStream},
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    PATIENCE,
    database::{Database, PASSWORD},
    node::free_port,
};

/// It refuses to run as root; root runs it as this user, as PostgreSQL.
const ACCOUNT: &str = "postgres";

/// It runs as long as a shell's input is open, which ends with this process.
const RUN: &str = r#""$0" -q pgbouncer.ini & echo $!; cat >/dev/null; kill -s KILL $!; wait"#;

/// Dropping it ends it, and so does the end of this process.
pub(crate) struct PgBouncer {
    directory: TempDir,
    port: u16,
    process: Option<Process>,
}

struct Process {
    shell: Child,
    server: u32,
}

impl PgBouncer {
    /// One in front of the database's server that knows the user whom we connect as. `mode` is its `pool_mode`.
    pub(crate) fn before(database: &Database, mode: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path();
        let port = free_port();
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let users = format!("{} {}\n", quoted(&database.user), quoted(PASSWORD));
        fs::write(place.join("users.txt"), users).expect("its users");
        fs::write(place.join("pgbouncer.ini"), configuration(database.server.port(), port, mode))
            .expect("its settings");
        if let Some((user, group)) = account(place) {
            for path in [place.to_owned(), place.join("users.txt"), place.join("pgbouncer.ini")] {
                chown(path, Some(user), Some(group)).expect("the files to be its own");
            }
        }
        let mut pgbouncer = Self { directory, port, process: None };
        pgbouncer.start();
        pgbouncer
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Gives it another `pool_mode`, without ending it. Whoever is connected stays so.
    pub(crate) fn change_mode(&self, database: &Database, mode: &str) {
        let text = configuration(database.server.port(), self.port, mode);
        fs::write(self.directory.path().join("pgbouncer.ini"), text).expect("its settings");
        let process = self.process.as_ref().expect("it runs");
        let told = Command::new("kill").args(["-s", "HUP", &process.server.to_string()]).status();
        assert!(told.expect("kill").success());
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Starts it, and waits until it takes clients.
    pub(crate) fn start(&mut self) {
        let place = self.directory.path();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", RUN, "pgbouncer"]).current_dir(place).env("PATH", path());
        if let Some((user, group)) = account(place) {
            shell.uid(user).gid(group);
        }
        let log = fs::File::options().create(true).append(true).open(place.join("log")).expect("a log");
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().expect("a shell");
        let mut line = String::new();
        let output = shell.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its number");
        let server = line.trim().parse().expect("its number");
        self.process = Some(Process { shell, server });
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let log = || fs::read_to_string(place.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PgBouncer, which deploy/setup.sh installs, does not start:\n{}", log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Debian keeps it where not everybody looks.
fn path() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Whom it has to run as, if not as ourselves.
fn account(ours: &Path) -> Option<(u32, u32)> {
    // A directory that we have just made belongs to whom we are, and then to whom it was given.
    let own = fs::metadata(ours).expect("the directory");
    if own.uid() != 0 && fs::metadata("/proc/self").is_ok_and(|process| process.uid() != 0) {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("the machine's users");
    let line = users.lines().find(|line| line.split(':').next() == Some(ACCOUNT)).expect("the user postgres");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().expect("a number"));
    Some((numbers.next().expect("its id"), numbers.next().expect("its group")))
}

fn configuration(server: u16, port: u16, mode: &str) -> String {
    format!(
        "[databases]\n* = host=127.0.0.1 port={server}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = users.txt\npool_mode = {mode}\n\
         server_login_retry = 1\n"
    )
}
