//! `sequin alerting set`: what is given changes, and everything else stays.

use std::{io::Read, path::PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use sequin_actors::model::Secret;
use serde_json::{Value, json};

use super::super::{
    WrongUsage,
    answers::{Alerting, Webhook},
    target::read_password,
};

#[derive(Args)]
pub(in super::super) struct SetArguments {
    /// Who gets mail; repeat it for several. They take the place of those who did.
    #[arg(long = "recipient", value_name = "ADDRESS")]
    recipients: Vec<String>,
    /// Nobody gets mail.
    #[arg(long, conflicts_with = "recipients")]
    no_recipients: bool,
    /// Add a webhook, or change the one of this name; repeat it for several. A URL of `-` is read from standard input: what is
    /// given here can be seen in the list of processes. Without a URL, the one that it has stays.
    #[arg(long = "webhook", value_name = "NAME[=URL]", value_parser = parse_webhook)]
    webhooks: Vec<Given>,
    /// What the webhooks that are named here are sent.
    #[arg(long, value_enum, requires = "webhooks")]
    webhook_format: Option<Format>,
    /// A file with the key that what the webhooks that are named here are sent is signed with; an empty one for none.
    #[arg(long, value_name = "FILE", requires = "webhooks")]
    webhook_secret_file: Option<PathBuf>,
    /// Take a webhook away; repeat it for several.
    #[arg(long = "remove-webhook", value_name = "NAME")]
    removed: Vec<String>,
    /// How often to tell again of what is still wrong, in minutes: 0 for never, or at least 15.
    #[arg(long, value_name = "N")]
    reminder_minutes: Option<u32>,
}

/// A webhook, and its URL if it gets one.
#[derive(Clone)]
struct Given {
    name: String,
    url: Option<Secret>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// `CloudEvents` 1.0.
    #[value(name = "cloud_events")]
    CloudEvents,
    /// What Slack's incoming webhooks take.
    Slack,
}

fn parse_webhook(text: &str) -> Result<Given, String> {
    let (name, url) = text.split_once('=').map_or((text, None), |(name, url)| (name, Some(url)));
    if name.is_empty() || name.contains([':', '/']) || url == Some("") {
        return Err("takes NAME=URL, or the NAME of one that is there".into());
    }
    Ok(Given { name: name.into(), url: url.map(Secret::new) })
}

impl SetArguments {
    /// Wrong usage shows before anybody is asked.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let is_something = !self.recipients.is_empty()
            || self.no_recipients
            || !self.webhooks.is_empty()
            || !self.removed.is_empty()
            || self.reminder_minutes.is_some();
        if is_something {
            return Ok(());
        }
        Err(WrongUsage("give what to change: `sequin alerting set --help` lists it".into()).into())
    }

    /// All of it, as it is to be: secrets that are not given stay where they are.
    pub(super) fn request(&self, before: &Alerting) -> anyhow::Result<Value> {
        let kept = before.webhooks.iter().filter(|webhook| !self.removed.contains(&webhook.name));
        let kept = kept.map(|Webhook { name, format, .. }| json!({"name": name, "format": format}));
        let mut webhooks: Vec<Value> = kept.collect();
        if let Some(name) = self.removed.iter().find(|name| !before.webhooks.iter().any(|known| known.name == **name)) {
            return Err(WrongUsage(format!("there is no webhook {name} to remove")).into());
        }
        let secret = self.webhook_secret_file.as_deref().map(read_password).transpose()?;
        for Given { name, url } in &self.webhooks {
            let place = webhooks.iter().position(|webhook| webhook["name"] == name.as_str());
            let place = place.unwrap_or_else(|| {
                webhooks.push(json!({"name": name}));
                webhooks.len() - 1
            });
            let webhook = &mut webhooks[place];
            if let Some(url) = url {
                webhook["url"] = url_of(url)?.reveal().into();
            }
            if let Some(format) = self.webhook_format.and_then(|format| format.to_possible_value()) {
                webhook["format"] = format.get_name().into();
            }
            if let Some(secret) = &secret {
                webhook["secret"] = secret.reveal().into();
            }
        }
        let recipients = match self.recipients.as_slice() {
            [] if !self.no_recipients => before.recipients.as_slice(),
            given => given,
        };
        let reminder_minutes = self.reminder_minutes.unwrap_or(before.reminder_minutes);
        Ok(json!({"recipients": recipients, "webhooks": webhooks, "reminder_minutes": reminder_minutes}))
    }
}

/// The URL, which may come by standard input.
fn url_of(given: &Secret) -> anyhow::Result<Secret> {
    if given.reveal() != "-" {
        return Ok(given.clone());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    Ok(Secret::new(text.trim()))
}
