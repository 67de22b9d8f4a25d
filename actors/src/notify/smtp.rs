//! The way to the mail server: SMTP (<https://www.rfc-editor.org/rfc/rfc5321>), one connection a message, encrypted unless that is
//! refused on purpose.
//!
//! | URL | encryption | port |
//! |---|---|---|
//! | `smtps://HOST` | TLS from the first byte | 465 |
//! | `smtp://HOST` | STARTTLS; without it nothing is sent | 587 |
//! | `smtp://HOST?tls=opportunistic` | STARTTLS if the server offers it; without it no password is sent | 587 |
//! | `smtp://HOST?tls=none` | none: for a relay on the same machine or network | 587 |
//!
//! `USER:PASSWORD@` stands before the host, percent-encoded. The server's certificate is verified wherever there is one.

use std::{fmt::Display, time::Duration};

use lettre::{
    Address, Message,
    message::Mailbox,
    transport::smtp::{
        Error,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension},
    },
};
use percent_encoding::percent_decode_str;
use reqwest::Url;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::time::timeout;

use super::{DeliveryError, NotifierError, SmtpSettings, figures::line};

/// How long the server may take to say goodbye.
const PARTING: Duration = Duration::from_secs(2);

/// How much of what the server said is told, in characters.
const SAID: usize = 300;

/// Replies that are about whether we are let in, wherever they come: somebody can mend that, so the message may still arrive.
const NOT_LET_IN: [u16; 4] = [530, 534, 535, 538];

/// A mail server, and who writes.
pub(super) struct Smtp {
    host: String,
    port: u16,
    encryption: Encryption,
    login: Option<Credentials>,
    from: Mailbox,
}

enum Encryption {
    FromTheFirstByte(TlsParameters),
    StartTls(TlsParameters),
    StartTlsIfOffered(TlsParameters),
    Refused,
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Smtp({})", self.name())
    }
}

impl Smtp {
    pub(super) fn new(settings: &SmtpSettings) -> Result<Self, NotifierError> {
        let wrong = |what: &str| NotifierError::SmtpUrl(what.into());
        let url = Url::parse(settings.url.reveal()).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(wrong("has nothing behind the host and its port but ?tls="));
        }
        let mut mode = None;
        for (name, value) in url.query_pairs() {
            if name != "tls" {
                return Err(wrong("has no parameter but tls"));
            }
            mode = Some(value.into_owned());
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let not_text = |_| wrong("holds a user or a password that is not UTF-8");
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => {
                Some(Credentials::new(decoded(user).map_err(not_text)?, decoded(password).map_err(not_text)?))
            }
            _ => return Err(wrong("has a user and a password, or neither")),
        };
        let from = sender(&settings.from)?;
        let tls = || tls(&host, settings.ca_pem.as_deref());
        let (encryption, port) = match (url.scheme(), mode.as_deref()) {
            ("smtps", None | Some("required")) => (Encryption::FromTheFirstByte(tls()?), 465),
            ("smtp", None | Some("required")) => (Encryption::StartTls(tls()?), 587),
            ("smtp", Some("opportunistic")) => (Encryption::StartTlsIfOffered(tls()?), 587),
            ("smtp", Some("none")) => (Encryption::Refused, 587),
            ("smtps", Some(_)) => return Err(wrong("smtps:// is always encrypted, and takes no ?tls=")),
            ("smtp", Some(_)) => return Err(wrong("?tls= takes required, opportunistic or none")),
            _ => return Err(wrong("takes smtp://HOST or smtps://HOST")),
        };
        Ok(Self { port: url.port().unwrap_or(port), host, encryption, login, from })
    }

    /// Who writes.
    pub(super) fn from(&self) -> &Mailbox {
        &self.from
    }

    /// Sends a message to one address. Each step takes as long as `limit` at most, and the answer to the message itself as long
    /// as `verdict`.
    pub(super) async fn send(
        &self,
        message: &Message,
        to: Address,
        limit: Duration,
        verdict: Duration,
    ) -> Result<(), DeliveryError> {
        let mut connection = self.connect(limit).await?;
        let sent = self.hand_over(&mut connection, message, to, (limit, verdict)).await;
        if !matches!(sent, Err((_, None))) {
            // The message was taken or refused, whatever comes.
            let _ = timeout(PARTING.min(limit), connection.quit()).await;
        }
        sent.map_err(|(failure, _)| failure)
    }

    async fn connect(&self, limit: Duration) -> Result<AsyncSmtpConnection, DeliveryError> {
        let name = ClientId::default();
        let at_once = match &self.encryption {
            Encryption::FromTheFirstByte(tls) => Some(tls.clone()),
            _ => None,
        };
        // An address that is silent leaves time for the next one.
        let connecting =
            AsyncSmtpConnection::connect_tokio1((self.host.as_str(), self.port), Some(limit / 2), &name, at_once, None);
        let mut connection = self.within(limit, "connecting", connecting).await?;
        let offers = connection.server_info().supports_feature(Extension::StartTls);
        match &self.encryption {
            Encryption::StartTls(_) if !offers => {
                return Err(self.failure("STARTTLS", "the server does not offer it, and nothing is sent in clear"));
            }
            Encryption::StartTlsIfOffered(_) if !offers && self.login.is_some() => {
                return Err(self.failure("STARTTLS", "the server does not offer it, and no password is sent in clear"));
            }
            Encryption::StartTls(tls) | Encryption::StartTlsIfOffered(tls) if offers => {
                self.within(limit, "STARTTLS", connection.starttls(tls.clone(), &name)).await?;
            }
            _ => {}
        }
        if let Some(login) = &self.login {
            let logging_in = connection.auth(DEFAULT_MECHANISMS, login);
            // What a server says to that may hold what it was told.
            let refused = |error: Error| match error.status() {
                Some(code) => format!("the server refuses the user or the password ({code})"),
                None if error.is_client() => "the server offers no way to log in that is known here".into(),
                None => "the connection broke".into(),
            };
            match timeout(limit, logging_in).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.failure("AUTH", refused(error))),
                Err(_) => return Err(self.silence("AUTH", limit)),
            }
        }
        Ok(connection)
    }

    /// Hands the message over. A failure comes with the reply, if there was one.
    async fn hand_over(
        &self,
        connection: &mut AsyncSmtpConnection,
        message: &Message,
        to: Address,
        (limit, verdict): (Duration, Duration),
    ) -> Result<(), (DeliveryError, Option<u16>)> {
        // Who is refused here is the sender, whom somebody can exchange; from then on it is this address, or this message.
        let from = Some(self.from.email.clone());
        self.step(limit, "MAIL FROM", connection.command(Mail::new(from, Vec::new()))).await?;
        self.step(limit, "RCPT TO", connection.command(Rcpt::new(to, Vec::new()))).await.map_err(for_good)?;
        self.step(limit, "DATA", connection.command(Data)).await.map_err(for_good)?;
        self.step(verdict, "the message", connection.message(&message.formatted())).await.map_err(for_good)?;
        Ok(())
    }

    /// One step, in time.
    async fn step<T>(
        &self,
        limit: Duration,
        step: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, (DeliveryError, Option<u16>)> {
        match timeout(limit, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err((self.failure(step, &error), error.status().map(u16::from))),
            Err(_) => Err((self.silence(step, limit), None)),
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        step: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, DeliveryError> {
        self.step(limit, step, work).await.map_err(|(failure, _)| failure)
    }

    fn silence(&self, step: &str, limit: Duration) -> DeliveryError {
        self.failure(step, format_args!("no answer within {} s", limit.as_secs()))
    }

    fn failure(&self, step: &str, cause: impl Display) -> DeliveryError {
        let message = format!("mail server {}: {step}: {}", self.name(), line(&cause.to_string(), SAID));
        DeliveryError { message, is_permanent: false }
    }

    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// What was refused with a reply that says so for good is not tried again.
fn for_good((failure, reply): (DeliveryError, Option<u16>)) -> (DeliveryError, Option<u16>) {
    let is_permanent = reply.is_some_and(|code| code >= 500 && !NOT_LET_IN.contains(&code));
    (DeliveryError { is_permanent, ..failure }, reply)
}

/// The sender, who has a name if the settings give none.
fn sender(text: &str) -> Result<Mailbox, NotifierError> {
    let from: Mailbox = text.parse().map_err(|error| NotifierError::From(format!("{error}")))?;
    if !from.email.to_string().is_ascii() {
        return Err(NotifierError::From("takes an address in ASCII".into()));
    }
    Ok(Mailbox { name: from.name.or_else(|| Some("Sequin".into())), ..from })
}

/// Trusts these authorities, or those of the system.
fn tls(host: &str, ca_pem: Option<&str>) -> Result<TlsParameters, NotifierError> {
    let wrong = |error: Error| NotifierError::Ca(error.to_string());
    let mut parameters = TlsParameters::builder(host.into());
    if let Some(pem) = ca_pem {
        if !CertificateDer::pem_slice_iter(pem.as_bytes()).any(|certificate| certificate.is_ok()) {
            return Err(NotifierError::Ca("hold no certificate in PEM".into()));
        }
        let authorities = Certificate::from_pem(pem.as_bytes()).map_err(wrong)?;
        parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(authorities);
    }
    parameters.build_rustls().map_err(wrong)
}

#[cfg(test)]
mod tests;
