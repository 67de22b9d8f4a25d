//! The settings of a cluster on NATS: where its servers are, and how to come in.

use std::{fs::File, path::PathBuf};

use sequin_actors::jetstream::{NatsLogin, NatsSettings};

use super::{CLUSTER, ConfigError, settings::Settings};

pub(super) const USER: &str = "SEQUIN_NATS_USER";
pub(super) const PASSWORD: &str = "SEQUIN_NATS_PASSWORD";
pub(super) const CREDENTIALS: &str = "SEQUIN_NATS_CREDENTIALS";
pub(super) const NKEY: &str = "SEQUIN_NATS_NKEY";
pub(super) const CA: &str = "SEQUIN_NATS_CA";
pub(super) const CERT: &str = "SEQUIN_NATS_CERT";
pub(super) const KEY: &str = "SEQUIN_NATS_KEY";
pub(super) const REPLICAS: &str = "SEQUIN_NATS_REPLICAS";

/// Where NATS servers listen unless they are told to elsewhere.
const PORT: u16 = 4222;

/// Reads what belongs to NATS, if `value` names servers of it; `setting` is where it comes from.
pub(super) fn parse(setting: &str, value: &str, settings: &Settings) -> Result<Option<NatsSettings>, ConfigError> {
    let Some(scheme) = ["nats://", "tls://"].into_iter().find(|scheme| value.starts_with(scheme)) else {
        return Ok(None);
    };
    let servers: Result<_, _> = value.split(',').map(|server| parse_server(setting, scheme, server)).collect();
    let (cert_file, key_file) = (file(CERT, settings)?, file(KEY, settings)?);
    for (missing, given, is_half) in
        [(KEY, CERT, cert_file.is_some() && key_file.is_none()), (CERT, KEY, cert_file.is_none() && key_file.is_some())]
    {
        if is_half {
            return Err(ConfigError::new(
                missing,
                format!("is needed with {given}: a certificate and its key go together"),
            ));
        }
    }
    let replicas = match settings.get(REPLICAS) {
        None => None,
        Some("1") => Some(1),
        Some("3") => Some(3),
        Some("5") => Some(5),
        Some(other) => return Err(ConfigError::new(REPLICAS, format!("takes 1, 3 or 5, not {other:?}"))),
    };
    let (login, ca_file) = (parse_login(settings)?, file(CA, settings)?);
    Ok(Some(NatsSettings { servers: servers?, login, ca_file, cert_file, key_file, replicas }))
}

/// What NATS can have in the names of streams, too.
pub(super) fn check_cluster(name: &str) -> Result<(), ConfigError> {
    if name.contains('.') || name.is_empty() {
        return Err(ConfigError::new(CLUSTER, "takes letters, digits, '-' and '_' with NATS, and no '.'"));
    }
    Ok(())
}

/// One server, of which the first alone has to name the scheme.
fn parse_server(setting: &str, scheme: &str, server: &str) -> Result<String, ConfigError> {
    let wrong = |message: &str| Err(ConfigError::new(setting, message));
    let host = server.trim();
    let host = host.strip_prefix(scheme).unwrap_or(host).trim_end_matches('/');
    // Nothing of it is repeated: it may hold a password.
    if host.contains('@') {
        return wrong(&format!("takes no user and password: set {USER} and {PASSWORD}"));
    }
    if host.contains("://") {
        return wrong("takes servers that are all reached by nats:// or all by tls://");
    }
    match reqwest::Url::parse(&format!("{scheme}{host}")) {
        Ok(url) if url.has_host() && url.path().is_empty() && url.query().is_none() && url.fragment().is_none() => {
            let address = url.host_str().unwrap_or_default();
            Ok(format!("{scheme}{address}:{}", url.port().unwrap_or(PORT)))
        }
        _ => wrong("takes nats://HOST:PORT or tls://HOST:PORT, several separated by commas"),
    }
}

fn parse_login(settings: &Settings) -> Result<NatsLogin, ConfigError> {
    let given: Vec<&str> =
        [USER, PASSWORD, CREDENTIALS, NKEY].into_iter().filter(|name| settings.get(name).is_some()).collect();
    let secret = |name: &str| settings.secret(name).expect("it was seen to be given");
    match given[..] {
        [] => Ok(NatsLogin::Nobody),
        [USER, PASSWORD] => {
            let user = settings.get(USER).unwrap_or_default().into();
            Ok(NatsLogin::Password { user, password: secret(PASSWORD) })
        }
        [CREDENTIALS] => Ok(file(CREDENTIALS, settings)?.map_or(NatsLogin::Nobody, NatsLogin::CredentialsFile)),
        [NKEY] if secret(NKEY).reveal().starts_with("SU") => Ok(NatsLogin::NkeySeed(secret(NKEY))),
        [NKEY] => Err(ConfigError::new(NKEY, "takes the seed of a user's key, which begins with SU")),
        [USER] => Err(ConfigError::new(PASSWORD, format!("is needed with {USER}"))),
        [PASSWORD] => Err(ConfigError::new(USER, format!("is needed with {PASSWORD}"))),
        [.., last] => {
            let message = format!("can't be used with {}: there is one way to log in", given[0]);
            Err(ConfigError::new(last, message))
        }
    }
}

/// A file that can be read.
fn file(setting: &str, settings: &Settings) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = settings.get(setting) else { return Ok(None) };
    match File::open(path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => Ok(Some(path.into())),
        Ok(_) => Err(ConfigError::new(setting, format!("{path} is not a file"))),
        Err(error) => Err(ConfigError::new(setting, format!("{path} can't be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::BACKEND, *};

    fn parse(value: &str, settings: &[(&str, &str)]) -> Result<NatsSettings, ConfigError> {
        super::parse(BACKEND, value, &Settings::of(settings)).map(|nats| nats.expect("NATS"))
    }

    #[test]
    fn servers_are_separated_by_commas_and_need_no_port_and_no_second_scheme() {
        for (value, servers) in [
            ("nats://127.0.0.1:4333", &["nats://127.0.0.1:4333"][..]),
            ("nats://a,b:4333, nats://c/", &["nats://a:4222", "nats://b:4333", "nats://c:4222"]),
            ("tls://a.example.com,tls://[::1]:1", &["tls://a.example.com:4222", "tls://[::1]:1"]),
        ] {
            assert_eq!(parse(value, &[]).expect("servers").servers, servers);
        }
        for wrong in
            ["nats://", "nats://a,", "nats://a:port", "nats://a,tls://b", "nats://a/b", "nats://a?b", "nats://a b"]
        {
            let error = parse(wrong, &[]).expect_err(wrong);
            assert!(error.to_string().starts_with(BACKEND), "{error}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        for value in ["nats://sequin:hunter2@a:4222", "nats://a,sequin:hunter2@b"] {
            let error = parse(value, &[]).expect_err("refused").to_string();
            assert!(error.contains(PASSWORD) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn there_is_one_way_to_log_in_and_it_is_given_whole() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let file = file.path().to_str().expect("a path");
        let login = |settings: &[(&str, &str)]| parse("nats://a", settings).map(|nats| nats.login);
        assert!(matches!(login(&[]), Ok(NatsLogin::Nobody)));
        let of_user = login(&[(USER, "u"), (PASSWORD, "hunter2")]);
        assert!(matches!(&of_user, Ok(NatsLogin::Password { user, .. }) if user == "u"));
        assert!(!format!("{of_user:?}").contains("hunter2"));
        assert!(matches!(login(&[(CREDENTIALS, file)]), Ok(NatsLogin::CredentialsFile(_))));
        assert!(matches!(login(&[(NKEY, "SUAB")]), Ok(NatsLogin::NkeySeed(_))));
        for (settings, named) in [
            (&[(USER, "u")][..], PASSWORD),
            (&[(PASSWORD, "hunter2")], USER),
            (&[(USER, "u"), (PASSWORD, "hunter2"), (CREDENTIALS, file)], CREDENTIALS),
            (&[(CREDENTIALS, file), (NKEY, "SUAB")], NKEY),
            (&[(CREDENTIALS, "/nowhere/at-all")], CREDENTIALS),
            (&[(NKEY, "hunter2")], NKEY),
            (&[(CA, "/")], CA),
            (&[(CERT, file)], KEY),
            (&[(KEY, file)], CERT),
            (&[(REPLICAS, "2")], REPLICAS),
        ] {
            let error = login(settings).expect_err("a wrong setting").to_string();
            assert!(error.starts_with(named) && !error.contains("hunter2"), "{error}");
        }
    }
}
