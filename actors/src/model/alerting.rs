//! Whom to tell, and how.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Secret;

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    /// An event as CloudEvents 1.0 writes it (<https://cloudevents.io>).
    #[default]
    CloudEvents,
    /// A text as Slack's incoming webhooks take it, and Mattermost's.
    Slack,
}

/// An address that is called by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name, which no other webhook has.
    pub name: String,
    /// Where to: often as good as a password, so it is kept like one.
    pub url: Secret,
    /// What is sent there.
    pub format: WebhookFormat,
    /// The key that what is sent is signed with, if it is.
    pub secret: Option<Secret>,
}

/// Whom to tell of incidents. There is one such document, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertingSettings {
    /// Addresses for mail.
    pub recipients: Vec<String>,
    /// Addresses for programs.
    pub webhooks: Vec<Webhook>,
    /// How often they are told again of what is still wrong, in minutes; 0 is never.
    pub reminder_minutes: u32,
    /// When that was last changed; `None` if it never was.
    pub updated_at: Option<DateTime<Utc>>,
}

impl Default for AlertingSettings {
    fn default() -> Self {
        Self { recipients: Vec::new(), webhooks: Vec::new(), reminder_minutes: 24 * 60, updated_at: None }
    }
}
