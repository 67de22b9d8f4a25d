//! How people are told when something is wrong: the mail server, who writes, and where the console is.

use std::{fs, time::Duration};

use reqwest::Url;
use sequin_actors::{
    model::DeniedNetworks,
    notify::{Notifier, NotifierError, NotifierSettings, SmtpSettings},
};

use super::{ConfigError, Settings};

pub(super) const SMTP_URL: &str = "SEQUIN_SMTP_URL";
pub(super) const SMTP_CA: &str = "SEQUIN_SMTP_CA";
pub(super) const FROM: &str = "SEQUIN_ALERT_FROM";
pub(super) const CONSOLE_URL: &str = "SEQUIN_CONSOLE_URL";
pub(super) const AFTER: &str = "SEQUIN_ALERT_AFTER_SECONDS";

/// How people are told.
#[derive(Clone, Debug)]
pub struct AlertingConfig {
    /// What tells them.
    pub notifier: Notifier,
    /// Who writes, if there is a mail server.
    pub from: Option<String>,
    /// Where people find the console, without a slash at its end.
    pub console_url: Option<String>,
    /// How long something must be wrong before people are told.
    pub after: Duration,
}

impl Default for AlertingConfig {
    fn default() -> Self {
        Self { notifier: Notifier::default(), from: None, console_url: None, after: Duration::from_secs(30) }
    }
}

impl AlertingConfig {
    pub(super) fn parse(settings: &Settings, cluster: &str, denied: DeniedNetworks) -> Result<Self, ConfigError> {
        let console_url = settings.get(CONSOLE_URL).map(parse_console_url).transpose()?;
        let smtp = parse_smtp(settings)?;
        let from = smtp.as_ref().map(|smtp| smtp.from.clone());
        let after = settings.number(AFTER, 1..=3600)?.map_or(Self::default().after, Duration::from_secs);
        let (console, cluster) = (console_url.clone(), cluster.into());
        let settings = NotifierSettings { smtp, console_url: console, cluster, denied };
        Ok(Self { notifier: Notifier::new(settings).map_err(wrong)?, from, console_url, after })
    }
}

fn parse_smtp(settings: &Settings) -> Result<Option<SmtpSettings>, ConfigError> {
    let Some(url) = settings.secret(SMTP_URL) else {
        // Whoever has set one believes that mail is sent.
        return match [FROM, SMTP_CA].into_iter().find(|name| settings.get(name).is_some()) {
            Some(name) => {
                let message =
                    format!("is for mail: set {SMTP_URL} to smtp://HOST or smtps://HOST too, or leave this out");
                Err(ConfigError::new(name, message))
            }
            None => Ok(None),
        };
    };
    let Some(from) = settings.get(FROM) else {
        let message =
            format!("is needed with {SMTP_URL}: the address that alerts come from, such as sequin@example.com");
        return Err(ConfigError::new(FROM, message));
    };
    let read =
        |path: &str| fs::read_to_string(path).map_err(|error| ConfigError::new(SMTP_CA, format!("{path}: {error}")));
    let ca_pem = settings.get(SMTP_CA).map(read).transpose()?;
    Ok(Some(SmtpSettings { url, from: from.into(), ca_pem }))
}

fn parse_console_url(text: &str) -> Result<String, ConfigError> {
    let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let is_plain = |url: &Url| url.query().is_none() && url.fragment().is_none() && url.password().is_none();
    match Url::parse(text) {
        Ok(url) if is_web(&url) && is_plain(&url) => Ok(url.as_str().trim_end_matches('/').into()),
        _ => Err(ConfigError::new(CONSOLE_URL, "takes the address of the console, such as https://sequin.example.com")),
    }
}

/// Names the setting; what is said of it holds no secret.
fn wrong(error: NotifierError) -> ConfigError {
    match error {
        NotifierError::SmtpUrl(message) => ConfigError::new(SMTP_URL, message),
        NotifierError::From(message) => ConfigError::new(FROM, message),
        NotifierError::Ca(message) => ConfigError::new(SMTP_CA, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[(&str, &str)]) -> Result<AlertingConfig, String> {
        AlertingConfig::parse(&Settings::of(settings), "sequin", DeniedNetworks::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_has_to_be_told() {
        let config = parse(&[]).expect("good settings");
        assert!(!config.notifier.sends_mail());
        assert_eq!((config.from, config.console_url), (None, None));
    }

    #[test]
    fn the_console_is_at_an_address_of_the_web() {
        for (given, taken) in [
            ("https://sequin.example.com/", "https://sequin.example.com"),
            ("http://10.0.0.1:7376/behind/a/proxy/", "http://10.0.0.1:7376/behind/a/proxy"),
        ] {
            let config = parse(&[(CONSOLE_URL, given)]).expect("good settings");
            assert_eq!(config.console_url.as_deref(), Some(taken));
        }
        for wrong in
            ["sequin.example.com", "ftp://sequin.example.com", "https://", "https://u:hunter2@h", "https://h?a=b"]
        {
            let error = parse(&[(CONSOLE_URL, wrong)]).expect_err("a wrong setting");
            assert!(error.starts_with("SEQUIN_CONSOLE_URL: takes ") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn mail_takes_a_server_and_a_sender() {
        let server = (SMTP_URL, "smtp://sequin:hunter2@mail.example.com");
        for (settings, starts) in [
            (&[server][..], "SEQUIN_ALERT_FROM: is needed with SEQUIN_SMTP_URL"),
            (&[(FROM, "sequin@example.com")], "SEQUIN_ALERT_FROM: is for mail: set SEQUIN_SMTP_URL"),
            (&[(SMTP_CA, "ca.pem")], "SEQUIN_SMTP_CA: is for mail: set SEQUIN_SMTP_URL"),
            (
                &[server, (FROM, "sequin@example.com"), (SMTP_CA, "/nowhere/ca.pem")],
                "SEQUIN_SMTP_CA: /nowhere/ca.pem: ",
            ),
        ] {
            let error = parse(settings).expect_err("a wrong setting");
            assert!(error.starts_with(starts) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_the_notifier_finds_wrong_is_named_by_its_setting() {
        for (error, setting) in [
            (NotifierError::SmtpUrl("x".into()), SMTP_URL),
            (NotifierError::From("x".into()), FROM),
            (NotifierError::Ca("x".into()), SMTP_CA),
        ] {
            assert_eq!(wrong(error).to_string(), format!("{setting}: x"));
        }
    }
}
