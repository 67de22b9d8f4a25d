//! What a throwaway server needs of the machine: its programs, an account to run as, and somebody to clear up.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, OpenOptionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{SUPERUSER, StartError};

/// The programs of a Postgres server, of one version.
pub(super) struct Programs {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
}

impl Programs {
    /// Where `pg_config` says, else the newest of Debian's versions, else on `PATH`.
    pub(super) fn find() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        configured_directory()
            .into_iter()
            .chain(debian_directories())
            .chain(env::split_paths(&path))
            .find_map(|directory| Self::in_directory(&directory))
    }

    fn in_directory(directory: &Path) -> Option<Self> {
        let programs = Self { initdb: directory.join("initdb"), postgres: directory.join("postgres") };
        (programs.initdb.is_file() && programs.postgres.is_file()).then_some(programs)
    }
}

/// Where the installed Postgres was configured to be; there may be just its client.
fn configured_directory() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    let directory = OsString::from_vec(output.stdout.trim_ascii().to_vec());
    output.status.success().then(|| directory.into())
}

/// The directories of the versions that Debian's packages install side by side, newest first.
fn debian_directories() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|version| version.path());
    let mut versions: Vec<_> = versions.collect();
    let number = |version: &PathBuf| version.file_name()?.to_str()?.parse::<f32>().ok();
    versions.sort_by(|a, b| number(b).partial_cmp(&number(a)).unwrap_or(std::cmp::Ordering::Equal));
    versions.into_iter().map(|version| version.join("bin")).collect()
}

/// A user of this machine, and its group.
#[derive(Clone, Copy)]
pub(super) struct Account {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Account {
    /// Whom the server has to run as, if not as ourselves: Postgres refuses to run as root, so that root runs it as
    /// the user `postgres`, who is then given `directory`.
    pub(super) fn to_run_as(directory: &Path) -> Result<Option<Self>, StartError> {
        // A directory that we have just made belongs to whom we are.
        if fs::metadata(directory).map_err(StartError::Files)?.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(StartError::Files)?;
        let account = users.lines().find_map(|line| Self::parse(line, SUPERUSER)).ok_or(StartError::NoAccount)?;
        chown(directory, Some(account.user), Some(account.group)).map_err(StartError::Files)?;
        Ok(Some(account))
    }

    /// Reads a line of `/etc/passwd`: `name:password:user:group:…`.
    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        Some(Self { user: fields.nth(1)?.parse().ok()?, group: fields.next()?.parse().ok()? })
    }
}

/// Writes a file that only `account`, or else we, may read.
pub(super) fn write_private(path: &Path, text: &str, account: Option<Account>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    match account {
        Some(account) => chown(path, Some(account.user), Some(account.group)),
        None => Ok(()),
    }
}

/// Sends a signal to a process, and wakes it if it is stopped.
pub(super) fn signal(pid: u32, name: &str) -> io::Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"kill -s "$1" "$2" && kill -s CONT "$2""#, "kill", name, &pid.to_string()]);
    let status = shell.stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill: {status}"))) }
}

/// The processes whose working directory is `directory`, as far as the machine tells (Linux does, in `/proc`).
pub(super) fn processes_in(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let inside =
        processes.filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == directory));
    inside.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// A process that waits for our end or this value's, whichever is first, and then stops the server in a directory and
/// removes that.
///
/// It reads from a pipe whose other end only we hold, so the kernel tells it, however we ended. The signals by which a
/// terminal ends a whole group of processes don't reach it.
pub(super) struct Caretaker {
    directory: PathBuf,
    process: Child,
}

impl Caretaker {
    /// Ends the server like a crash, and waits up to 10 s for its lock file to go before it removes its files.
    const DUTY: &str = r#"
        trap '' HUP INT TERM
        read -r never
        lock=$1/data/postmaster.pid
        read -r server < "$lock" && kill -s QUIT "$server" && kill -s CONT "$server"
        looks=0
        while [ -e "$lock" ] && [ $looks -lt 200 ]; do sleep 0.05; looks=$((looks + 1)); done
        rm -rf -- "$1"
    "#;

    /// Hands a directory over to a new caretaker.
    pub(super) fn of(directory: PathBuf) -> Result<Self, StartError> {
        let shell = Path::new("/bin/sh");
        let started = Command::new(shell)
            .args(["-c", Self::DUTY, "caretaker"])
            .arg(&directory)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(process) => Ok(Self { directory, process }),
            Err(source) => {
                // Nobody else will; what can't be removed is an empty directory.
                let _ = fs::remove_dir_all(directory);
                Err(StartError::Run { program: shell.into(), source })
            }
        }
    }

    /// What the caretaker will remove.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes sure that no process is signalled: the server has ended, and a killed one leaves a lock file with a
    /// process id that may be another's by now.
    pub(super) fn forget_server(&self) {
        // An orderly end has removed it.
        let _ = fs::remove_file(self.directory.join("data/postmaster.pid"));
    }
}

impl Drop for Caretaker {
    /// Closes our end of the pipe, and waits until the duty is done.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Nothing more can be done about a caretaker that is gone.
        let _ = self.process.wait();
    }
}
