//! How people write where a database is: a `postgres://` URL, as libpq has it
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>).

use std::str::FromStr;

use sequin_actors::model::{ChannelBinding, Secret, TlsMode};

/// A database by URL: `postgres://user:password@host:port,host:port/database?sslmode=…`. What it does not say is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostgresUrl {
    /// A host or several, those with a port of their own as far as they differ in it.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) database: Option<String>,
    pub(crate) username: String,
    pub(crate) password: Option<Secret>,
    pub(crate) tls_mode: Option<TlsMode>,
    pub(crate) channel_binding: Option<ChannelBinding>,
    /// Files on the machine of whoever wrote it.
    pub(crate) files: Files,
    /// The names of parameters that mean nothing here.
    pub(crate) ignored: Vec<String>,
}

/// What a URL gives as the path of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// `sslrootcert`
    pub(crate) authorities: Option<String>,
    /// `sslcert`
    pub(crate) certificate: Option<String>,
    /// `sslkey`
    pub(crate) key: Option<String>,
}

impl Files {
    /// The parameter of one of them.
    pub(crate) fn any(&self) -> Option<&'static str> {
        let named = [("sslrootcert", &self.authorities), ("sslcert", &self.certificate), ("sslkey", &self.key)];
        named.into_iter().find_map(|(name, file)| file.is_some().then_some(name))
    }
}

const FORM: &str = "takes postgres://USER:PASSWORD@HOST:PORT/DATABASE, with what is no letter or digit in the password \
                    percent-encoded";

/// What stands for the authorities of the system.
const SYSTEM: &str = "system";

/// Parameters of libpq that say which server is meant, what it is to do or how safe it has to be: who gives one relies on it.
const DEMANDING: [&str; 23] = [
    "hostaddr",
    "service",
    "servicefile",
    "passfile",
    "options",
    "replication",
    "ssl",
    "sslcrl",
    "sslcrldir",
    "sslpassword",
    "sslcertmode",
    "sslnegotiation",
    "sslsni",
    "sslkeylogfile",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "min_protocol_version",
    "max_protocol_version",
    "require_auth",
    "requiressl",
    "requirepeer",
    "gssencmode",
    "krbsrvname",
];

impl PostgresUrl {
    /// As libpq has it: without a database, the one that is called like the user.
    pub(crate) fn database(&self) -> &str {
        self.database.as_deref().unwrap_or(&self.username)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "user" => self.username = value,
            "password" => self.password = Some(Secret::new(value)),
            "dbname" => self.database = Some(value).filter(|database| !database.is_empty()),
            // As those who write for JDBC have it.
            "ssl" if value == "true" => self.tls_mode = Some(TlsMode::Require),
            "sslmode" => {
                let mode =
                    value.parse().map_err(|_| "sslmode is disable, prefer, require, verify-ca or verify-full")?;
                self.tls_mode = Some(mode);
            }
            "channel_binding" => {
                let binding = value.parse().map_err(|_| "channel_binding is disable, prefer or require")?;
                self.channel_binding = Some(binding);
            }
            // Whichever of several hosts is taken takes writes.
            "target_session_attrs" if matches!(value.as_str(), "read-write" | "primary" | "any") => {}
            "target_session_attrs" => {
                return Err(
                    "target_session_attrs is read-write, primary or any: to others nothing can be written".into()
                );
            }
            "sslrootcert" => self.files.authorities = Some(value),
            "sslcert" => self.files.certificate = Some(value),
            "sslkey" => self.files.key = Some(value),
            "gssencmode" if value != "require" => self.ignored.push(name.into()),
            _ if DEMANDING.contains(&name) => {
                return Err(format!("has {name}, which can't be done here, and is more than a detail: leave it out"));
            }
            _ if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => self.ignored.push(name.into()),
            // It may be a part of a password.
            _ => return Err(FORM.into()),
        }
        Ok(())
    }

    /// The system's authorities are those that are trusted where none are given. Anybody can have a certificate of theirs, so
    /// that it is worth something for the host alone: as in libpq, that is what is demanded then.
    fn trust_system(&mut self) -> Result<(), String> {
        if self.files.authorities.as_deref() != Some(SYSTEM) {
            return Ok(());
        }
        self.files.authorities = None;
        match self.tls_mode.replace(TlsMode::VerifyFull) {
            None | Some(TlsMode::VerifyFull) => Ok(()),
            Some(_) => Err("has sslrootcert=system, which takes sslmode=verify-full and no weaker one".into()),
        }
    }
}

impl FromStr for PostgresUrl {
    type Err = String;

    // What is wrong is told without the text: there may be a password in it.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).ok_or(FORM)?;
        if rest.contains(|c: char| c.is_control() || c == ' ') {
            return Err(FORM.into());
        }
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (username, password) = user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)));
        let mut hosts = hosts.split(',').map(parse_host).collect::<Result<Vec<_>, _>>()?;
        let mut url = Self {
            host: String::new(),
            port: None,
            database: Some(decoded(database)?).filter(|database| !database.is_empty()),
            username: decoded(username)?,
            password: password.map(decoded).transpose()?.map(Secret::new),
            tls_mode: None,
            channel_binding: None,
            files: Files::default(),
            ignored: Vec::new(),
        };
        let mut given_ports = None;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            match name.as_str() {
                "host" => hosts = with_names(&hosts, &value)?,
                "port" => given_ports = Some(value),
                _ => url.set(&name, value)?,
            }
        }
        if let Some(ports) = given_ports {
            set_ports(&mut hosts, &ports)?;
        }
        (url.host, url.port) = joined(&hosts)?;
        url.trust_system()?;
        for (part, text) in [("host", &url.host), ("user", &url.username)] {
            if text.is_empty() {
                return Err(format!("names no {part}: {FORM}"));
            }
        }
        Ok(url)
    }
}

/// A host, and its port if it has one of its own.
type Host = (String, Option<u16>);

/// The hosts of a parameter in the place of those before the path, whose ports they take over.
fn with_names(hosts: &[Host], names: &str) -> Result<Vec<Host>, String> {
    let names: Vec<_> = names.split(',').map(ToOwned::to_owned).collect();
    let ports: Vec<_> = hosts.iter().map(|(_, port)| *port).collect();
    match ports.as_slice() {
        [port] => Ok(names.into_iter().map(|name| (name, *port)).collect()),
        ports if ports.len() == names.len() => Ok(names.into_iter().zip(ports.iter().copied()).collect()),
        _ => Err("names other numbers of hosts before its path and as its parameter".into()),
    }
}

/// One port for all, or one for each.
fn set_ports(hosts: &mut [Host], ports: &str) -> Result<(), String> {
    let ports = ports.split(',').map(parse_port).collect::<Result<Vec<_>, _>>()?;
    if ports.len() != 1 && ports.len() != hosts.len() {
        return Err("names another number of ports than of hosts".into());
    }
    for ((_, own), port) in hosts.iter_mut().zip(ports.iter().cycle()) {
        *own = *port;
    }
    Ok(())
}

/// The hosts as a connection has them, and the port that they have in common.
fn joined(hosts: &[Host]) -> Result<Host, String> {
    let is_common = |port: &Option<u16>| hosts.iter().all(|(_, other)| other == port);
    if let Some((_, port)) = hosts.first().filter(|(_, port)| is_common(port)) {
        let names: Vec<_> = hosts.iter().map(|(host, _)| host.as_str()).collect();
        return Ok((names.join(","), *port));
    }
    let with_port = |(host, port): &Host| match port {
        None => Ok(host.clone()),
        Some(_) if host.starts_with('/') => Err("gives a socket another port than the other hosts"),
        Some(port) if host.contains(':') => Ok(format!("[{host}]:{port}")),
        Some(port) => Ok(format!("{host}:{port}")),
    };
    let hosts = hosts.iter().map(with_port).collect::<Result<Vec<_>, _>>()?;
    Ok((hosts.join(","), None))
}

/// An IPv6 address stands in brackets, in URLs only.
fn parse_host(text: &str) -> Result<Host, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, ""),
        Some((address, rest)) => (address, rest.strip_prefix(':').ok_or(FORM)?),
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    Ok((decoded(host)?, parse_port(port)?))
}

fn parse_port(text: &str) -> Result<Option<u16>, String> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err(format!("names no port from 1 to 65535: {FORM}")),
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 where it is percent-encoded".into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PostgresUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_url_says_where_a_database_is() {
        let found = parse("postgres://sequin:p%40ss%2Fword@db.example.com:6543/app?sslmode=verify-full");
        assert_eq!((found.host.as_str(), found.port), ("db.example.com", Some(6543)));
        assert_eq!((found.database(), found.username.as_str()), ("app", "sequin"));
        assert_eq!(found.password, Some(Secret::new("p@ss/word")));
        assert_eq!(found.tls_mode, Some(TlsMode::VerifyFull));
    }

    #[test]
    fn what_a_url_leaves_out_is_as_in_libpq() {
        let found = parse("postgresql://sequin@localhost");
        assert_eq!((found.port, found.database(), found.password.as_ref()), (None, "sequin", None));
        assert_eq!((found.database, found.tls_mode, found.channel_binding), (None, None, None));
    }

    #[test]
    fn a_host_may_be_an_address_or_the_directory_of_a_socket() {
        let found = parse("postgres://u@[::1]:5433/d");
        assert_eq!((found.host.as_str(), found.port), ("::1", Some(5433)));
        assert_eq!(parse("postgres://u@%2Fvar%2Frun/d").host, "/var/run");
    }

    #[test]
    fn several_hosts_share_a_port_or_have_their_own() {
        for (hosts, expected) in [
            ("a,b", ("a,b", None)),
            ("a:1,b:1", ("a,b", Some(1))),
            ("a:1,b", ("a:1,b", None)),
            ("a:1,[::1]:2,[::2]", ("a:1,[::1]:2,::2", None)),
        ] {
            let found = parse(&format!("postgres://u@{hosts}/d?target_session_attrs=read-write"));
            assert_eq!((found.host.as_str(), found.port), expected, "{hosts}");
        }
    }

    #[test]
    fn a_percent_sign_that_escapes_nothing_stands_for_itself() {
        assert_eq!(parse("postgres://u:100%@h/d").password, Some(Secret::new("100%")));
    }

    #[test]
    fn parameters_are_taken_or_told() {
        let found =
            parse("postgres://u@h/d?sslmode=require&channel_binding=require&sslrootcert=ca.pem&application_name=x");
        assert_eq!((found.channel_binding, found.files.any()), (Some(ChannelBinding::Require), Some("sslrootcert")));
        assert_eq!(found.ignored, ["application_name"]);
    }

    #[test]
    fn the_authorities_of_the_system_are_asked_for_the_host_and_for_nothing_less() {
        for url in ["postgres://u@h/d?sslrootcert=system", "postgres://u@h/d?sslmode=verify-full&sslrootcert=system"] {
            let found = parse(url);
            assert_eq!((found.files.any(), found.tls_mode), (None, Some(TlsMode::VerifyFull)), "{url}");
        }
        for weaker in ["disable", "prefer", "require", "verify-ca"] {
            let url = format!("postgres://u@h/d?sslrootcert=system&sslmode={weaker}");
            assert!(url.parse::<PostgresUrl>().expect_err(weaker).contains("sslmode=verify-full"), "{weaker}");
        }
        assert_eq!(parse("postgres://u@h/d?ssl=true").tls_mode, Some(TlsMode::Require));
    }

    #[test]
    fn parameters_say_where_a_database_is_in_the_place_of_what_stands_before_them() {
        let found = parse("postgres:///d?host=/run/postgresql&user=u&password=p%40&port=6543");
        let expected = ("/run/postgresql", Some(6543), "d", "u");
        assert_eq!((found.host.as_str(), found.port, found.database(), found.username.as_str()), expected);
        assert_eq!(found.password, Some(Secret::new("p@")));
        for (url, host, port, database) in [
            ("postgres://u@h:1/d?host=g&dbname=e", "g", Some(1), "e"),
            ("postgres://u@h:1/d?host=a,b", "a,b", Some(1), "d"),
            ("postgres://u@a:1,b:2/d?host=c,d", "c:1,d:2", None, "d"),
            ("postgres://u@a,b/d?port=1,2", "a:1,b:2", None, "d"),
            ("postgres://u@a:1,b:2/d?port=3", "a,b", Some(3), "d"),
            ("postgres://u@/d?port=3&host=::1", "::1", Some(3), "d"),
        ] {
            let found = parse(url);
            assert_eq!((found.host.as_str(), found.port, found.database()), (host, port, database), "{url}");
        }
    }

    #[test]
    fn what_the_writer_of_a_url_relies_on_is_not_passed_over() {
        for name in DEMANDING {
            let error = format!("postgres://u:secret@h/d?{name}=require").parse::<PostgresUrl>().expect_err(name);
            assert!(error.contains(name) && !error.contains("secret"), "{error}");
        }
        assert_eq!(parse("postgres://u@h/d?gssencmode=disable").ignored, ["gssencmode"]);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for wrong in [
            "mysql://u:secret@h/d",
            "postgres://u:secret@h:port/d",
            "postgres://u:secret@h:0/d",
            "postgres://u:secret@h/d?sslmode=maybe",
            "postgres://u:secret@h/d?target_session_attrs=standby",
            "postgres://u:secret@a:1,%2Frun:2/d",
            "postgres://u:secret@a,b/d?port=1,2,3",
            "postgres://u:secret@a,b/d?host=c,d,e",
            "postgres://u:secret@h/d?port=x",
            "postgres://h/d?password=secret",
            "postgres://u:secret@[::1]5432/d",
            "postgres://:secret@h/d",
            "postgres://u:secret@/d",
            "postgres://u:secret@h/%ff",
            "u:secret@h/d",
            "postgres://u:secret @h/d",
        ] {
            let error = wrong.parse::<PostgresUrl>().expect_err(wrong);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
