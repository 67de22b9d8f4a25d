//! Telling people and programs of incidents: by mail, and by calling webhooks.

mod wording;

use std::sync::Arc;

use crate::model::{AlertingSettings, Destination, Notice, Secret};

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
}

/// A mail server, and who writes.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// `smtp://` or `smtps://`, with a user and a password if it wants them.
    pub url: Secret,
    /// The sender's address.
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

/// Tells.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Arc<NotifierSettings>);

impl Notifier {
    /// Checks the settings. Nothing is connected.
    pub fn new(settings: NotifierSettings) -> Result<Self, NotifierError> {
        Ok(Self(Arc::new(settings)))
    }

    /// Whether there is a mail server.
    pub fn sends_mail(&self) -> bool {
        self.0.smtp.is_some()
    }

    /// Delivers a notice to one destination, once. It takes 30 seconds at most.
    pub async fn deliver(
        &self,
        _notice: &Notice,
        _destination: &Destination,
        _alerting: &AlertingSettings,
    ) -> Result<(), DeliveryError> {
        todo!("by mail, or by a webhook")
    }
}
