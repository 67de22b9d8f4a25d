//! The settings of `sequin serve`: read from the environment, or from a TOML file with the same names, and checked
//! before anything starts.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use sequin_actors::{
    model::Secret,
    store::{Keyring, KeyringError},
};

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the HTTP server listens.
    pub listen: SocketAddr,
    /// Where records and state are kept.
    pub backend: Backend,
    /// The name of the cluster: part of the names of its sessions in the databases.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    /// The token that may do everything; one is made when it is not set.
    pub admin_token: Option<Secret>,
    /// The keys that secrets are sealed with, in base64, separated by commas: the first seals, and all open. One is made
    /// when it is not set.
    pub encryption_key: Option<Secret>,
}

/// Where records and state are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In this directory, on this machine.
    Embedded(PathBuf),
}

/// A setting that can't be used: one line that names it.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: String,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    fn new(setting: &str, message: impl Into<String>) -> Self {
        Self { setting: setting.into(), message: message.into() }
    }
}

const LISTEN: &str = "SEQUIN_LISTEN";
pub(crate) const BACKEND: &str = "SEQUIN_BACKEND";
const CLUSTER: &str = "SEQUIN_CLUSTER";
const NODE: &str = "SEQUIN_NODE";
const ADMIN_TOKEN: &str = "SEQUIN_ADMIN_TOKEN";
pub(crate) const ENCRYPTION_KEY: &str = "SEQUIN_ENCRYPTION_KEY";

const KNOWN: [&str; 6] = [LISTEN, BACKEND, CLUSTER, NODE, ADMIN_TOKEN, ENCRYPTION_KEY];

/// The shortest admin token: what a guesser can't reach.
pub(crate) const SHORTEST_TOKEN: usize = 16;

impl Config {
    /// Reads the environment and, if one is named, the file; the environment wins.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut settings = file.map(read_file).transpose()?.unwrap_or_default();
        for name in KNOWN {
            if let Ok(value) = env::var(name) {
                settings.insert(name.into(), value);
            }
        }
        Self::parse(&settings)
    }

    fn parse(settings: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let get = |name: &str| settings.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let listen = get(LISTEN).unwrap_or("127.0.0.1:7376");
        let listen = listen.parse().map_err(|_| {
            ConfigError::new(LISTEN, format!("takes an address and a port, such as 127.0.0.1:7376, not {listen:?}"))
        })?;
        let admin_token = get(ADMIN_TOKEN).map(Secret::new);
        if admin_token.as_ref().is_some_and(|token| token.reveal().len() < SHORTEST_TOKEN) {
            return Err(ConfigError::new(ADMIN_TOKEN, format!("takes {SHORTEST_TOKEN} characters or more")));
        }
        let encryption_key = get(ENCRYPTION_KEY).map(Secret::new);
        if let Some(key) = &encryption_key {
            let not_a_key = |error: KeyringError| ConfigError::new(ENCRYPTION_KEY, error.to_string());
            Keyring::from_base64(key.reveal()).map_err(not_a_key)?;
        }
        Ok(Self {
            listen,
            backend: parse_backend(get(BACKEND).unwrap_or("embedded:./sequin-data"))?,
            cluster: parse_name(CLUSTER, get(CLUSTER).unwrap_or("sequin"))?,
            node: get(NODE).map_or_else(host_name, Into::into),
            admin_token,
            encryption_key,
        })
    }
}

fn parse_backend(value: &str) -> Result<Backend, ConfigError> {
    match value.strip_prefix("embedded:") {
        Some("") | None => Err(ConfigError::new(BACKEND, format!("takes embedded:DIRECTORY, not {value:?}"))),
        Some(directory) => Ok(Backend::Embedded(directory.into())),
    }
}

/// A name that goes into `application_name`, of which PostgreSQL keeps 63 bytes.
fn parse_name(setting: &str, value: &str) -> Result<String, ConfigError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.len() <= 16 && value.chars().all(is_plain) {
        Ok(value.into())
    } else {
        Err(ConfigError::new(setting, "takes 1 to 16 letters, digits, '-', '_' or '.'"))
    }
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.into() }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let setting = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| ConfigError::new(&setting, error.to_string()))?;
    let settings: BTreeMap<String, String> =
        toml::from_str(&text).map_err(|error| ConfigError::new(&setting, error.message().to_owned()))?;
    match settings.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        Some(unknown) => {
            Err(ConfigError::new(&setting, format!("{unknown} is no setting; there are {}", KNOWN.join(", "))))
        }
        None => Ok(settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let owned = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Config::parse(&owned.collect())
    }

    #[test]
    fn everything_has_a_default() {
        let config = parse(&[]).expect("good settings");
        assert_eq!(config.listen.to_string(), "127.0.0.1:7376");
        assert_eq!(config.backend, Backend::Embedded("./sequin-data".into()));
        assert_eq!(config.cluster, "sequin");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (name, value) in [
            (LISTEN, "7376"),
            (BACKEND, "redis://localhost"),
            (CLUSTER, "a/b"),
            (ADMIN_TOKEN, "short"),
            (ENCRYPTION_KEY, "not a key"),
        ] {
            let error = parse(&[(name, value)]).expect_err("a wrong setting");
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn a_name_in_the_file_that_is_no_setting_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "SEQUIN_LISTN = \"127.0.0.1:1\"").expect("written");
        let error = Config::load(Some(file.path())).expect_err("a wrong name");
        assert!(error.to_string().contains("SEQUIN_LISTN is no setting"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = parse(&[(ADMIN_TOKEN, "0123456789abcdef")]).expect("good settings");
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }
}
