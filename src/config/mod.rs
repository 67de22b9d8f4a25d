//! The settings of `sequin serve`: read from the environment, or from a TOML file with the same names, and checked
//! before anything starts.

mod alerting;
mod egress;
mod nats;
mod settings;

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sequin_actors::{
    Egress,
    jetstream::NatsSettings,
    model::Secret,
    store::{Keyring, KeyringError},
};

pub use alerting::AlertingConfig;
use settings::Settings;

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the HTTP server listens.
    pub listen: SocketAddr,
    /// Where records and state are kept.
    pub backend: Backend,
    /// The name of the cluster: part of the names of its sessions in the databases, and of all that it has in NATS.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    /// The token that may do everything; one is made when it is not set, unless there is NATS.
    pub admin_token: Option<Secret>,
    /// The keys that secrets are sealed with, in base64, separated by commas: the first seals, and all open. One is made
    /// when it is not set, unless there is NATS.
    pub encryption_key: Option<Secret>,
    /// How long the others wait for a node that is not heard of; `None` where there are no others.
    pub session_ttl: Option<Duration>,
    /// How people are told when something is wrong.
    pub alerting: AlertingConfig,
    /// How it gets out to databases.
    pub egress: Egress,
    /// Who gets the metrics at `/metrics`.
    pub metrics: MetricsAccess,
}

/// Who gets the metrics that are scraped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Whoever bears a token that may read.
    Token,
    /// Anybody.
    Public,
    /// Nobody.
    Off,
}

/// Where records and state are kept.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In this directory, on this machine.
    Embedded(PathBuf),
    /// In NATS JetStream, for any number of nodes.
    Nats(NatsSettings),
}

/// What is moved from a directory to a cluster, and how to come in there.
#[derive(Clone, Debug)]
pub struct MigrationConfig {
    /// The data directory.
    pub from: PathBuf,
    /// Where the cluster keeps everything.
    pub to: NatsSettings,
    /// Its name.
    pub cluster: String,
    /// The keys that the secrets in the directory are sealed with, if they are not in its file.
    pub encryption_key: Option<Secret>,
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
    pub(crate) fn new(setting: &str, message: impl Into<String>) -> Self {
        Self { setting: setting.into(), message: message.into() }
    }
}

const LISTEN: &str = "SEQUIN_LISTEN";
pub(crate) const BACKEND: &str = "SEQUIN_BACKEND";
const CLUSTER: &str = "SEQUIN_CLUSTER";
const NODE: &str = "SEQUIN_NODE";
pub(crate) const ADMIN_TOKEN: &str = "SEQUIN_ADMIN_TOKEN";
pub(crate) const ENCRYPTION_KEY: &str = "SEQUIN_ENCRYPTION_KEY";

const METRICS: &str = "SEQUIN_METRICS";
const SESSION_TTL: &str = "SEQUIN_SESSION_TTL_SECONDS";

/// What only a cluster has.
const OF_CLUSTERS: [&str; 9] = [
    nats::USER,
    nats::PASSWORD,
    nats::CREDENTIALS,
    nats::NKEY,
    nats::CA,
    nats::CERT,
    nats::KEY,
    nats::REPLICAS,
    SESSION_TTL,
];

/// What every node has.
const OF_ALL: [&str; 15] = [
    LISTEN,
    BACKEND,
    CLUSTER,
    NODE,
    ADMIN_TOKEN,
    ENCRYPTION_KEY,
    alerting::SMTP_URL,
    alerting::SMTP_CA,
    alerting::FROM,
    alerting::CONSOLE_URL,
    alerting::AFTER,
    egress::DENY,
    egress::ADDRESSES,
    egress::SECRETS,
    METRICS,
];

/// The shortest admin token: what a guesser can't reach.
pub(crate) const SHORTEST_TOKEN: usize = 16;

impl Config {
    /// A node that is alone, keeps everything in this directory, and listens on a free port of this machine. Its metrics are for
    /// nobody to scrape: the process may hold others beside it.
    pub fn embedded(directory: &Path, name: &str) -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            backend: Backend::Embedded(directory.into()),
            cluster: name.into(),
            node: name.into(),
            admin_token: None,
            encryption_key: None,
            session_ttl: None,
            alerting: AlertingConfig::default(),
            egress: Egress::default(),
            metrics: MetricsAccess::Off,
        }
    }

    /// Reads the environment and, if one is named, the file; the environment wins.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::parse(&Settings::load(file)?)
    }

    fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        let listen = settings.get(LISTEN).unwrap_or("127.0.0.1:7376");
        let listen = listen.parse().map_err(|_| {
            ConfigError::new(LISTEN, format!("takes an address and a port, such as 127.0.0.1:7376, not {listen:?}"))
        })?;
        let admin_token = settings.secret(ADMIN_TOKEN);
        if admin_token.as_ref().is_some_and(|token| token.reveal().len() < SHORTEST_TOKEN) {
            return Err(ConfigError::new(ADMIN_TOKEN, format!("takes {SHORTEST_TOKEN} characters or more")));
        }
        let backend = parse_backend(settings)?;
        let session_ttl = Duration::from_secs(settings.number(SESSION_TTL, 2..=60)?.unwrap_or(6));
        let cluster = parse_name(CLUSTER, settings.get(CLUSTER).unwrap_or("sequin"))?;
        let egress = egress::parse(settings)?;
        let config = Self {
            listen,
            session_ttl: matches!(backend, Backend::Nats(_)).then_some(session_ttl),
            backend,
            alerting: AlertingConfig::parse(settings, &cluster, egress.denied.clone())?,
            cluster,
            egress,
            node: settings.get(NODE).map_or_else(host_name, Into::into),
            admin_token,
            encryption_key: parse_key(settings)?,
            metrics: parse_metrics(settings)?,
        };
        config.check_cluster()?;
        Ok(config)
    }

    /// What one node can make for itself, all nodes of a cluster have to be told.
    fn check_cluster(&self) -> Result<(), ConfigError> {
        if matches!(self.backend, Backend::Embedded(_)) {
            return Ok(());
        }
        nats::check_cluster(&self.cluster)?;
        if self.encryption_key.is_none() {
            let message =
                "is needed with NATS, the same for all nodes: make one with `openssl rand -base64 32`, and keep it";
            return Err(ConfigError::new(ENCRYPTION_KEY, message));
        }
        if self.admin_token.is_none() {
            let message =
                "is needed with NATS, the same for all nodes: make one with `openssl rand -hex 24`, and keep it";
            return Err(ConfigError::new(ADMIN_TOKEN, message));
        }
        Ok(())
    }
}

impl MigrationConfig {
    /// Reads how to come in from where [`Config::load`] reads it too. `from` and `to` are as `SEQUIN_BACKEND` takes them.
    pub fn load(from: &str, to: &str, file: Option<&Path>) -> Result<Self, ConfigError> {
        let wrong = |argument: &str, message: &str| Err(ConfigError::new(argument, message));
        let from = match from.strip_prefix("embedded:") {
            Some(directory) if !directory.is_empty() => directory.into(),
            _ => return wrong("--from", "takes embedded:DIRECTORY"),
        };
        let settings = Settings::load(file)?;
        let Some(to) = nats::parse("--to", to, &settings)? else {
            return wrong("--to", "takes nats://HOST:PORT or tls://HOST:PORT, several separated by commas");
        };
        let cluster = parse_name(CLUSTER, settings.get(CLUSTER).unwrap_or("sequin"))?;
        nats::check_cluster(&cluster)?;
        Ok(Self { from, to, cluster, encryption_key: parse_key(&settings)? })
    }
}

fn parse_metrics(settings: &Settings) -> Result<MetricsAccess, ConfigError> {
    match settings.get(METRICS) {
        None | Some("token") => Ok(MetricsAccess::Token),
        Some("public") => Ok(MetricsAccess::Public),
        Some("off") => Ok(MetricsAccess::Off),
        Some(other) => Err(ConfigError::new(METRICS, format!("takes token, public or off, not {other:?}"))),
    }
}

fn parse_key(settings: &Settings) -> Result<Option<Secret>, ConfigError> {
    let encryption_key = settings.secret(ENCRYPTION_KEY);
    if let Some(key) = &encryption_key {
        let not_a_key = |error: KeyringError| ConfigError::new(ENCRYPTION_KEY, error.to_string());
        Keyring::from_base64(key.reveal()).map_err(not_a_key)?;
    }
    Ok(encryption_key)
}

fn parse_backend(settings: &Settings) -> Result<Backend, ConfigError> {
    let value = settings.get(BACKEND).unwrap_or("embedded:./sequin-data");
    if let Some(nats) = nats::parse(BACKEND, value, settings)? {
        return Ok(Backend::Nats(nats));
    }
    // Whoever has set one believes that this is a node of a cluster.
    if let Some(name) = OF_CLUSTERS.into_iter().find(|name| settings.get(name).is_some()) {
        let message = format!("is for clusters: set {BACKEND} to nats://HOST:PORT too, or leave this out");
        return Err(ConfigError::new(name, message));
    }
    match value.strip_prefix("embedded:") {
        Some("") | None => {
            Err(ConfigError::new(BACKEND, "takes embedded:DIRECTORY, or nats://HOST:PORT or tls://HOST:PORT"))
        }
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

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use sequin_actors::{
        model::{AlertingSettings, Destination, Webhook, WebhookFormat},
        notify::Notifier,
    };

    use super::*;

    fn parse(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(&Settings::of(settings))
    }

    #[test]
    fn everything_has_a_default() {
        let config = parse(&[]).expect("good settings");
        assert_eq!(config.listen.to_string(), "127.0.0.1:7376");
        assert!(matches!(config.backend, Backend::Embedded(directory) if directory == Path::new("./sequin-data")));
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
            (METRICS, "private"),
            (SESSION_TTL, "6"),
            (nats::USER, "somebody"),
        ] {
            let error = parse(&[(name, value)]).expect_err("a wrong setting");
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    const OF_A_CLUSTER: [(&str, &str); 3] = [
        (BACKEND, "nats://127.0.0.1:4222"),
        (ADMIN_TOKEN, "0123456789abcdef"),
        (ENCRYPTION_KEY, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ];

    #[test]
    fn a_cluster_needs_a_key_and_a_token_that_all_nodes_know_and_says_how_to_make_them() {
        let config = parse(&OF_A_CLUSTER).expect("good settings");
        assert!(matches!(&config.backend, Backend::Nats(nats) if nats.servers == ["nats://127.0.0.1:4222"]));
        assert_eq!(config.session_ttl, Some(Duration::from_secs(6)));
        for needed in [ADMIN_TOKEN, ENCRYPTION_KEY] {
            let without: Vec<_> = OF_A_CLUSTER.into_iter().filter(|(name, _)| *name != needed).collect();
            let error = parse(&without).expect_err("one is missing").to_string();
            assert!(error.starts_with(needed) && error.contains("openssl rand"), "{error}");
        }
        for (name, value) in [(CLUSTER, "a.b"), (SESSION_TTL, "1"), (SESSION_TTL, "61"), (SESSION_TTL, "soon")] {
            let error = parse(&[&OF_A_CLUSTER[..], &[(name, value)]].concat()).expect_err("a wrong setting");
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[tokio::test]
    async fn webhooks_are_not_called_where_no_database_may_be() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = Secret::new(format!("http://{}/in", listener.local_addr().expect("its address")));
        let webhook = Webhook { name: "ops".into(), url, format: WebhookFormat::Slack, secret: None };
        let alerting = AlertingSettings { webhooks: vec![webhook], ..AlertingSettings::default() };
        let config = parse(&[(egress::DENY, "127.0.0.0/8")]).expect("good settings");
        let (notice, ops) = (Notifier::test_notice(Utc::now()), Destination::Webhook("ops".into()));
        let refused = config.alerting.notifier.deliver(&notice, &ops, &alerting).await.expect_err("a denied network");
        assert!(refused.message.contains(egress::DENY), "{refused}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = parse(&[(ADMIN_TOKEN, "0123456789abcdef")]).expect("good settings");
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }
}
