//! Telling people and programs of incidents: by mail, and by calling webhooks.

mod card;
mod email;
mod event;
mod figures;
#[cfg(test)]
mod samples;
mod smtp;
mod webhook;
mod wording;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::timeout;

use crate::model::{AlertingSettings, DeniedNetworks, Destination, Notice, NoticeEvent, NoticeId, Secret};
#[cfg(test)]
use crate::smtp as mail_server;
pub use card::incident_url;
pub use email::check_recipient;
use email::{Letterhead, parse_recipient};
use smtp::Smtp;
use webhook::Sender;
pub use webhook::{check_webhook_secret, check_webhook_url};
pub use wording::headline;

/// How people are told, as the operator of the cluster set it.
#[derive(Clone, Debug, Default)]
pub struct NotifierSettings {
    /// The mail server; without one no mail is sent.
    pub smtp: Option<SmtpSettings>,
    /// Where people find the console: what is said links there.
    pub console_url: Option<String>,
    /// The name of the cluster.
    pub cluster: String,
    /// Where no webhook is called.
    pub denied: DeniedNetworks,
}

/// A mail server, and who writes.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// `smtps://USER:PASSWORD@HOST`, or `smtp://` for STARTTLS, without which nothing is sent unless `?tls=opportunistic` or
    /// `?tls=none` says so. The user and the password are percent-encoded.
    pub url: Secret,
    /// The sender: `sequin@example.com`, or `Sequin <sequin@example.com>`.
    pub from: String,
    /// The certificates to trust in place of those that everybody trusts, in PEM.
    pub ca_pem: Option<String>,
}

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NotifierError {
    /// The URL of the mail server.
    #[error("the URL of the mail server: {0}")]
    SmtpUrl(String),
    /// The sender's address.
    #[error("the sender: {0}")]
    From(String),
    /// The certificates.
    #[error("the certificates: {0}")]
    Ca(String),
}

/// Why something was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DeliveryError {
    /// What happened; no secret is in it.
    pub message: String,
    /// Whether it makes sense to try again.
    pub is_permanent: bool,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// To connect to a mail server, and each of its answers but the last.
    smtp_step: Duration,
    /// Its answer to the message itself, which it may look at for long: who does not wait for it sends copies (RFC 5321,
    /// 4.5.3.2.6).
    smtp_verdict: Duration,
    /// A webhook's answer.
    webhook: Duration,
    /// All of a delivery: more than all steps of one take.
    delivery: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let [smtp_step, smtp_verdict, webhook, delivery] = [10, 5 * 60, 30, 7 * 60].map(Duration::from_secs);
        Self { smtp_step, smtp_verdict, webhook, delivery }
    }
}

/// Tells.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    console_url: Option<String>,
    cluster: String,
    denied: DeniedNetworks,
    smtp: Option<Smtp>,
    /// Made for the first webhook that is called.
    http: OnceLock<reqwest::Client>,
    limits: Limits,
}

impl Notifier {
    /// Checks the settings. Nothing is connected.
    pub fn new(settings: NotifierSettings) -> Result<Self, NotifierError> {
        Self::with_limits(settings, Limits::default())
    }

    fn with_limits(settings: NotifierSettings, limits: Limits) -> Result<Self, NotifierError> {
        let NotifierSettings { smtp, console_url, cluster, denied } = settings;
        let smtp = smtp.as_ref().map(Smtp::new).transpose()?;
        Ok(Self(Arc::new(Inner { console_url, cluster, denied, smtp, http: OnceLock::new(), limits })))
    }

    /// Whether there is a mail server.
    pub fn sends_mail(&self) -> bool {
        self.0.smtp.is_some()
    }

    /// A notice that shows whether notices arrive; to nobody yet.
    pub fn test_notice(now: DateTime<Utc>) -> Notice {
        Notice {
            id: NoticeId::generate(),
            event: NoticeEvent::Test,
            incidents: Vec::new(),
            shown: Vec::new(),
            counts: Vec::new(),
            made_at: now,
            deliveries: Vec::new(),
        }
    }

    /// Delivers a notice to one destination, once.
    ///
    /// It takes 7 minutes at most, nearly all of which is for a mail server that looks at the message before it says whether it
    /// takes it: 5 minutes for that, and 10 seconds for each step before. A webhook has 30 seconds. Who gives up while an answer
    /// is due does not know whether the notice has arrived, and trying again may make a copy of it: that goes for those who drop
    /// this future as well, as the alerting of a node that ends does after it has waited 10 seconds, and for an answer such as
    /// 500 or none at all to a webhook. A mail and a `CloudEvents` event bear the id of the notice, so a copy can be told;
    /// Slack's format has no place for one.
    ///
    /// Who is not among the settings is told nothing, for good; as long as nothing is known of any, not yet.
    pub async fn deliver(
        &self,
        notice: &Notice,
        destination: &Destination,
        alerting: &AlertingSettings,
    ) -> Result<(), DeliveryError> {
        let limit = self.0.limits.delivery;
        let delivered = async {
            match destination {
                Destination::Email(address) => self.mail(notice, address, alerting).await,
                Destination::Webhook(name) => self.call(notice, name, alerting).await,
            }
        };
        let too_long =
            |_| DeliveryError { message: format!("it took more than {} s", limit.as_secs()), is_permanent: false };
        timeout(limit, delivered).await.map_err(too_long)?
    }

    async fn mail(&self, notice: &Notice, address: &str, alerting: &AlertingSettings) -> Result<(), DeliveryError> {
        if !alerting.recipients.iter().any(|recipient| recipient == address) {
            return Err(not_set(&format!("recipient {address:?}"), alerting));
        }
        let Some(smtp) = &self.0.smtp else {
            let message = "there is no mail server: set SEQUIN_SMTP_URL".into();
            return Err(DeliveryError { message, is_permanent: false });
        };
        let permanent = |message| DeliveryError { message, is_permanent: true };
        let to = parse_recipient(address).ok_or_else(|| permanent("the recipient is not an address".into()))?;
        let console = self.0.console_url.as_deref();
        let letterhead = Letterhead { from: smtp.from(), cluster: &self.0.cluster, console };
        let message = letterhead
            .write(notice, to.clone(), Utc::now())
            .map_err(|error| permanent(format!("the mail can't be written: {error}")))?;
        let Limits { smtp_step, smtp_verdict, .. } = self.0.limits;
        smtp.send(&message, to, smtp_step, smtp_verdict).await
    }

    async fn call(&self, notice: &Notice, name: &str, alerting: &AlertingSettings) -> Result<(), DeliveryError> {
        let Some(webhook) = alerting.webhooks.iter().find(|webhook| webhook.name == name) else {
            return Err(not_set(&format!("webhook {name}"), alerting));
        };
        let client = match self.0.http.get() {
            Some(client) => client,
            None => {
                let made = webhook::client(&self.0.denied)?;
                self.0.http.get_or_init(|| made)
            }
        };
        let sender =
            Sender { cluster: &self.0.cluster, console: self.0.console_url.as_deref(), denied: &self.0.denied };
        sender.call(client, webhook, notice, Utc::now(), self.0.limits.webhook).await
    }
}

/// Why nothing is sent to whom the settings do not name. Settings that nobody ever made can't have named anybody: they are only
/// not known.
fn not_set(destination: &str, alerting: &AlertingSettings) -> DeliveryError {
    match alerting.updated_at {
        Some(_) => {
            let message = format!("{destination} is no longer among the alerting settings");
            DeliveryError { message, is_permanent: true }
        }
        None => DeliveryError { message: "the alerting settings are not known yet".into(), is_permanent: false },
    }
}
