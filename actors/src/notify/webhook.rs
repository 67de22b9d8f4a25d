//! Webhooks: a notice by HTTP POST, signed where there is a key for it by the scheme of Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>): `webhook-signature` is
//! `v1,` and the HMAC-SHA256 of `webhook-id.webhook-timestamp.body` in base64.
//!
//! Redirects are not followed, since they could lead what was signed elsewhere, and nothing of the answer is read but its status.
//! Hosts in networks that are denied are not called, whatever their name: what the name was resolved to is what is called, and
//! no proxy of the environment is asked to call it for us, since it would resolve the name by itself.

mod resolver;

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use sha2::Sha256;

use self::resolver::Resolver;
use super::{DeliveryError, event, figures::line};
use crate::model::{DeniedNetworks, FieldError, Notice, Secret, Webhook, WebhookFormat};

/// The longest URL, in bytes.
const LONGEST_URL: usize = 2048;

/// What a key in base64 begins with.
const PREFIX: &str = "whsec_";

/// How much is told of what went wrong, in characters.
const SAID: usize = 300;

/// Checks a URL that notices are to be sent to. What is wrong is told without it.
pub fn check_webhook_url(field: &str, url: &str) -> Result<(), FieldError> {
    let wrong = |what| Err(FieldError::new(field, what));
    match Url::parse(url) {
        _ if url.len() > LONGEST_URL => wrong("takes a URL of at most 2,048 bytes"),
        Ok(url) if url.fragment().is_some() => wrong("takes a URL without a fragment (#…), which is not sent"),
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        _ => wrong("takes a URL such as https://example.com/hooks/ops"),
    }
}

/// Checks a key that notices are to be signed with: any text, or `whsec_` and base64. What is wrong is told without it.
pub fn check_webhook_secret(field: &str, secret: &str) -> Result<(), FieldError> {
    match key(secret) {
        Some(key) if !key.is_empty() => Ok(()),
        _ => Err(FieldError::new(field, "takes a text as the key, or whsec_ and the key in base64")),
    }
}

fn key(secret: &str) -> Option<Vec<u8>> {
    match secret.strip_prefix(PREFIX) {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok(),
        None => Some(secret.into()),
    }
}

/// What the receiver can tell by that it is from us, and when it was sent.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

/// Speaks HTTP, over a connection of its own each time: one that broke while nothing was said fails nobody.
pub(super) fn client(denied: &DeniedNetworks) -> Result<Client, DeliveryError> {
    let failed = |error: &dyn Error| transient(format!("HTTP can't be spoken here: {}", chain(error)));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .no_proxy()
        .dns_resolver(Resolver::new(denied.clone()))
        .pool_max_idle_per_host(0)
        .user_agent(concat!("sequin/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(&error))
}

/// Of which cluster it is told.
pub(super) struct Sender<'a> {
    pub(super) cluster: &'a str,
    pub(super) console: Option<&'a str>,
    /// Where nobody is called.
    pub(super) denied: &'a DeniedNetworks,
}

impl Sender<'_> {
    /// Calls a webhook once.
    pub(super) async fn call(
        &self,
        client: &Client,
        webhook: &Webhook,
        notice: &Notice,
        now: DateTime<Utc>,
        limit: Duration,
    ) -> Result<(), DeliveryError> {
        let name = &webhook.name;
        let url = Url::parse(webhook.url.reveal()).ok().filter(Url::has_host);
        let url = url.ok_or_else(|| permanent(format!("webhook {name}: its URL is not one")))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        // Addresses are not asked of the resolver.
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if address.is_ok_and(|address| self.denied.deny(address)) {
            return Err(permanent(format!("webhook {name}: {}", resolver::Denied(host))));
        }
        let (body, kind) = match webhook.format {
            WebhookFormat::CloudEvents => {
                (event::cloud_event(notice, self.cluster, self.console), "application/cloudevents+json; charset=utf-8")
            }
            WebhookFormat::Slack => (event::slack(notice, self.cluster, self.console), "application/json"),
        };
        let mut request = client.post(url).header(CONTENT_TYPE, kind).timeout(limit);
        if let Some(secret) = &webhook.secret {
            let key =
                key(secret.reveal()).ok_or_else(|| permanent(format!("webhook {name}: its key is not base64")))?;
            let (id, timestamp) = (notice.id.to_string(), now.timestamp());
            request = request
                .header("webhook-signature", signature(&key, &id, timestamp, &body))
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp);
        }
        let answer = request.body(body).send().await.map_err(|error| {
            let cause = if error.is_timeout() { "no answer in time".into() } else { chain(&error.without_url()) };
            transient(without(&format!("webhook {name}: {host}: {}", line(&cause, SAID)), &webhook.url))
        })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(permanent(format!("webhook {name}: {host} wants no more (410)"))),
            status if is_final(status) => Err(permanent(format!("webhook {name}: {host} answered {status}"))),
            status => Err(transient(format!("webhook {name}: {host} answered {status}"))),
        }
    }
}

/// Whether the same would be answered again: to what leads elsewhere, and to what was not wanted.
fn is_final(status: StatusCode) -> bool {
    let passes = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    (status.is_redirection() || status.is_client_error()) && !passes
}

/// No cause names the URL, unless a library changes its mind.
fn without(text: &str, url: &Secret) -> String {
    text.replace(url.reveal(), "[its URL]")
}

/// The outermost error of reqwest says little.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

fn transient(message: String) -> DeliveryError {
    DeliveryError { message, is_permanent: false }
}

fn permanent(message: String) -> DeliveryError {
    DeliveryError { message, is_permanent: true }
}

#[cfg(test)]
mod tests;
