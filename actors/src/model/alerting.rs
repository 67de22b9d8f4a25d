//! Whom to tell, and how.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{FieldError, Secret, check_name};

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    /// An event as `CloudEvents` 1.0 writes it (<https://cloudevents.io>).
    #[default]
    CloudEvents,
    /// A text as Slack's incoming webhooks take it, and Mattermost's.
    Slack,
}

impl WebhookFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::CloudEvents, Self::Slack];

    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudEvents => "cloud_events",
            Self::Slack => "slack",
        }
    }
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
    /// How often they are told again of what is still wrong, in minutes: 0 is never, and 15 the least.
    pub reminder_minutes: u32,
    /// When that was last changed; `None` if it never was.
    pub updated_at: Option<DateTime<Utc>>,
}

impl Default for AlertingSettings {
    fn default() -> Self {
        Self { recipients: Vec::new(), webhooks: Vec::new(), reminder_minutes: 24 * 60, updated_at: None }
    }
}

/// The shortest time between two reminders, in minutes: whoever hears of the same more often listens no more.
const SHORTEST_REMINDER: u32 = 15;

/// The longest time between two reminders, in minutes: 31 days.
const LONGEST_REMINDER: u32 = 31 * 24 * 60;

impl AlertingSettings {
    /// How many addresses for mail there may be.
    pub const MAX_RECIPIENTS: usize = 50;
    /// How many webhooks there may be.
    pub const MAX_WEBHOOKS: usize = 20;

    /// Everything that is wrong with the settings as a whole: too many, names, and what is there twice. Whether an address, a
    /// URL or a key is one, `notify` knows.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (field, is, most) in [
            ("recipients", self.recipients.len(), Self::MAX_RECIPIENTS),
            ("webhooks", self.webhooks.len(), Self::MAX_WEBHOOKS),
        ] {
            if is > most {
                errors.push(FieldError::new(field, format!("takes at most {most}, not {is}")));
            }
        }
        for (number, recipient) in self.recipients.iter().enumerate() {
            if self.recipients[..number].iter().any(|other| other.eq_ignore_ascii_case(recipient)) {
                errors.push(FieldError::new(format!("recipients[{number}]"), "is there already"));
            }
        }
        for (number, Webhook { name, .. }) in self.webhooks.iter().enumerate() {
            let field = format!("webhooks[{number}].name");
            errors.extend(check_name(&field, name).err());
            if self.webhooks[..number].iter().any(|other| other.name == *name) {
                errors.push(FieldError::new(field, format!("{name} is there already")));
            }
        }
        if !matches!(self.reminder_minutes, 0 | SHORTEST_REMINDER..=LONGEST_REMINDER) {
            let takes = format!("takes 0 for never, or {SHORTEST_REMINDER} to {LONGEST_REMINDER}");
            errors.push(FieldError::new("reminder_minutes", takes));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(settings: &AlertingSettings) -> Vec<String> {
        settings.check().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn what_is_there_twice_or_too_often_is_named() {
        let webhook = |name: &str| Webhook {
            name: name.into(),
            url: Secret::new("https://example.com"),
            format: WebhookFormat::default(),
            secret: None,
        };
        let settings = AlertingSettings {
            recipients: vec!["a@example.com".into(), "b@example.com".into(), "A@Example.com".into()],
            webhooks: vec![webhook("ops"), webhook("no name"), webhook("ops")],
            reminder_minutes: LONGEST_REMINDER + 1,
            updated_at: None,
        };
        let expected = ["recipients[2]", "webhooks[1].name", "webhooks[2].name", "reminder_minutes"];
        assert_eq!(fields(&settings), expected);
        let recipients = (0..=50).map(|number| format!("a{number}@example.com")).collect();
        let webhooks = (0..=20).map(|number| webhook(&format!("w{number}"))).collect();
        let too_many = AlertingSettings { recipients, webhooks, ..AlertingSettings::default() };
        assert_eq!(fields(&too_many), ["recipients", "webhooks"]);
        assert_eq!(fields(&AlertingSettings::default()), [""; 0]);
    }

    #[test]
    fn reminders_come_never_or_not_too_often() {
        for (reminder_minutes, is_right) in
            [(0, true), (1, false), (14, false), (15, true), (LONGEST_REMINDER, true), (LONGEST_REMINDER + 1, false)]
        {
            let settings = AlertingSettings { reminder_minutes, ..AlertingSettings::default() };
            let expected: &[&str] = if is_right { &[] } else { &["reminder_minutes"] };
            assert_eq!(fields(&settings), expected, "{reminder_minutes}");
        }
    }
}
