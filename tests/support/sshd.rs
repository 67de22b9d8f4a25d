//! Bastions on this machine: OpenSSH's server with keys and users of its own, on a loopback port, gone afterwards.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sequin_actors::model::{Bastion, Secret};
use tempfile::TempDir;

use super::node::free_port;

/// How long a server may take to answer at first.
const START: Duration = Duration::from_secs(30);

/// What the user's password is, where there are passwords, and what `/etc/shadow` has of it.
pub(crate) const PASSWORD: &str = "a bastion password";
const HASHED: &str = "$6$sequin$5jcmPZzPqVC4MbIMQ/bAI0yRSAhgM.135Pa7d2r9lZzB7DiGEPks3xLjbRW841rNtT95jjjdehoBGLCfg19mU/";

/// The shell that is between lets the server's input be nothing, and its end that of the server.
const RUN: &str = r#""$@" >>log 2>&1 </dev/null & echo $!; cat >/dev/null; kill -s KILL $! 2>/dev/null; wait"#;

/// The same, where this server alone sees a password.
const WITH_PASSWORDS: &str =
    r#"mount --bind "$1" /etc/shadow; mount -t tmpfs tmpfs /run; mkdir /run/sshd; shift; exec "$@""#;

/// A bastion. Dropping it ends it, and so does the end of this process.
pub(crate) struct Sshd {
    directory: TempDir,
    port: u16,
    user: User,
    has_passwords: bool,
    process: Option<Process>,
}

/// A shell that has started the server, and ends it when its own input ends.
struct Process {
    shell: Child,
    server: u32,
}

/// Who logs in. A server that does not run as root lets in only whom it runs as.
#[derive(Clone)]
struct User {
    name: String,
    /// User and group, where the server is not to run as whoever runs the tests.
    ids: Option<(u32, u32)>,
}

impl Sshd {
    /// One that takes the key `user`, and lets it through to wherever.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With settings of `sshd_config` that come before the others, and so count.
    pub(crate) fn with(settings: &str) -> Self {
        Self::prepared(settings, User::to_run_as(), false)
    }

    /// One that takes a password, by the setting that is given; `None` where that can't be had, which takes root: the account is
    /// given a password where only this server sees it.
    pub(crate) fn with_passwords(settings: &str) -> Option<Self> {
        let is_root = unprivileged().is_some();
        let may_mount =
            || Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|ended| ended.success());
        (is_root && may_mount()).then(|| Self::prepared(settings, User::to_run_as(), true))
    }

    fn prepared(settings: &str, user: User, has_passwords: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("sequin-sshd-").tempdir().expect("a directory");
        if let Some((id, group)) = user.ids {
            chown(directory.path(), Some(id), Some(group)).expect("the directory given away");
        }
        let mut sshd = Self { directory, port: free_port(), user, has_passwords, process: None };
        sshd.make_key("host", &["-t", "ed25519"]);
        sshd.make_key("user", &["-t", "ed25519"]);
        sshd.authorise(&[("user", "")]);
        sshd.write("revoked_keys", "");
        let at = |name| sshd.path(name).display().to_string();
        let config = format!(
            "{settings}\nPort {}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nRevokedKeys {}\nPidFile none\n\
             UsePAM no\nStrictModes no\nUseDNS no\nMaxStartups 100\nPasswordAuthentication no\nLogLevel VERBOSE\n",
            sshd.port,
            at("host"),
            at("authorized_keys"),
            at("revoked_keys"),
        );
        sshd.write("sshd_config", &config);
        sshd.restart();
        sshd
    }

    /// The way through it, as it should be told to us.
    pub(crate) fn bastion(&self) -> Bastion {
        Bastion {
            host: "127.0.0.1".into(),
            port: self.port,
            username: self.user.name.clone(),
            private_key: Some(self.private_key("user")),
            passphrase: None,
            password: None,
            host_key: Some(self.host_key()),
            trust_on_first_use: false,
        }
    }

    /// The port that it listens on; the same after [`Self::restart`].
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The key that it shows.
    pub(crate) fn host_key(&self) -> String {
        self.public_key("host")
    }

    /// A key that was made.
    pub(crate) fn private_key(&self, name: &str) -> Secret {
        Secret::new(fs::read_to_string(self.path(name)).expect("a private key"))
    }

    /// Its public half, without a comment.
    pub(crate) fn public_key(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{name}.pub"))).expect("a public key");
        text.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Makes a key as `ssh-keygen` is told, in place of one of the name.
    pub(crate) fn make_key(&self, name: &str, how: &[&str]) {
        for file in [self.path(name), self.path(&format!("{name}.pub"))] {
            drop(fs::remove_file(file));
        }
        let passphrase = if how.contains(&"-N") { [].as_slice() } else { &["-N", ""] };
        let mut keygen = self.command(Path::new("ssh-keygen"));
        keygen.args(["-q", "-C", ""]).args(passphrase).args(how).arg("-f").arg(self.path(name));
        assert!(keygen.status().expect("ssh-keygen: deploy/setup.sh installs it").success());
    }

    /// Lets these keys in and no other, each with options such as `no-port-forwarding`.
    pub(crate) fn authorise(&self, keys: &[(&str, &str)]) {
        let line =
            |(name, options): &(&str, &str)| format!("{options} {}\n", self.public_key(name)).trim_start().to_owned();
        self.write("authorized_keys", &keys.iter().map(line).collect::<String>());
    }

    /// Takes back a key, though it is authorised.
    pub(crate) fn revoke(&self, name: &str) {
        self.write("revoked_keys", &format!("{}\n", self.public_key(name)));
    }

    /// Ends it and every connection through it, without a word.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            let mut all = vec![process.server];
            all.extend(descendants(process.server));
            let ids: Vec<_> = all.iter().map(ToString::to_string).collect();
            // Some end by themselves meanwhile.
            drop(Command::new("kill").args(["-s", "KILL"]).args(ids).stderr(Stdio::null()).status());
        }
    }

    /// Starts it, on the same port, with the keys that it has now.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let mut shell = if self.has_passwords { Command::new("/bin/sh") } else { self.command(Path::new("/bin/sh")) };
        shell.args(["-c", RUN, "sh"]);
        if self.has_passwords {
            let shadow = self.shadow();
            shell.args(["unshare", "--mount", "sh", "-ec", WITH_PASSWORDS, "sh"]).arg(shadow);
        }
        shell.arg(program()).args(["-D", "-e", "-f"]).arg(self.path("sshd_config")).current_dir(self.directory.path());
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        let output = shell.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("the server's number");
        self.process = Some(Process { shell, server: line.trim().parse().expect("the server's number") });
        let deadline = Instant::now() + START;
        while TcpStream::connect((IpAddr::from(Ipv4Addr::LOCALHOST), self.port)).is_err() {
            assert!(Instant::now() < deadline, "sshd does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How often somebody logged in.
    pub(crate) fn logins(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("Accepted ") && line.contains(" for ")).count()
    }

    /// What it has to say.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Written by whoever runs the tests, to be read by the server.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file for sshd");
    }

    /// A copy of `/etc/shadow` in which the user has the password.
    fn shadow(&self) -> PathBuf {
        let shadow = fs::read_to_string("/etc/shadow").expect("the passwords of this machine");
        let mut lines: BTreeMap<&str, String> = BTreeMap::new();
        for line in shadow.lines() {
            lines.insert(line.split(':').next().unwrap_or_default(), line.to_owned());
        }
        lines.insert(&self.user.name, format!("{}:{HASHED}:19000:0:99999:7:::", self.user.name));
        let lines: Vec<_> = lines.into_values().collect();
        self.write("shadow", &(lines.join("\n") + "\n"));
        self.path("shadow")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path());
        if let Some((user, group)) = self.user.ids {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl User {
    /// PostgreSQL's account, where the tests run as root, and otherwise whoever runs them.
    fn to_run_as() -> Self {
        match unprivileged() {
            Some(ids) => Self { name: "postgres".into(), ids: Some(ids) },
            None => Self { name: said(Command::new("id").arg("-un")), ids: None },
        }
    }
}

/// PostgreSQL's account; `None` unless the tests run as root.
fn unprivileged() -> Option<(u32, u32)> {
    if said(Command::new("id").arg("-u")) != "0" {
        return None;
    }
    let id = |what| said(Command::new("id").args([what, "postgres"])).parse().expect("the account postgres");
    Some((id("-u"), id("-g")))
}

fn said(command: &mut Command) -> String {
    let output = command.output().expect("a program of this machine");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// sshd starts itself again for each connection, and so has to be told where it is.
fn program() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    let found = places.map(|place| place.join("sshd")).find(|file| file.is_file());
    found.expect("OpenSSH's server: deploy/setup.sh installs it")
}

/// The processes that a process started, and those that they did.
fn descendants(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = processes.filter_map(|process| parent(&process.path())).collect();
    let mut found = vec![of];
    let mut looked = 0;
    while looked < found.len() {
        let parent = found[looked];
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(process, _)| *process));
        looked += 1;
    }
    found.split_off(1)
}

/// A process, and its parent (`/proc/PID/stat`: `PID (NAME) STATE PARENT …`).
fn parent(process: &Path) -> Option<(u32, u32)> {
    let id = process.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((id, parent))
}
