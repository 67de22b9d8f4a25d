//! Whom to tell of incidents, and whether what they are told arrives.

pub(super) mod compare;
mod health;
pub(super) mod test;
pub(super) mod write;

use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use reqwest::Url;
use sequin_actors::{
    model::{AlertingSettings, Delivery, Notice, Secret, Webhook, WebhookFormat},
    store::{OnlyOne, Revision, Versioned},
};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use super::{
    Api, State,
    openapi::{null, words},
    problem::Problem,
    reasons::HealthView,
    resources::with_etag,
};

/// Whom to tell, as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Alerting)]
pub(super) struct AlertingView {
    /// Addresses for mail.
    recipients: Vec<String>,
    webhooks: Vec<WebhookView>,
    /// How often they are told again of what is still wrong, in minutes; 0 is never.
    reminder_minutes: u32,
    email: EmailView,
    /// How many deliveries of notices are still to be made.
    pending: usize,
    /// Whether what is told arrives.
    health: HealthView,
    /// Null as long as nobody has said whom to tell.
    #[schema(required)]
    updated_at: Option<DateTime<Utc>>,
}

/// An address that is called by HTTP, as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
struct WebhookView {
    name: String,
    #[schema(schema_with = never_told)]
    url: (),
    url_set: bool,
    /// What of the address is no secret.
    #[schema(required)]
    host: Option<String>,
    #[schema(schema_with = format_words)]
    format: WebhookFormat,
    #[schema(schema_with = never_told)]
    secret: (),
    secret_set: bool,
}

/// Whether mail can be sent, which the settings of the nodes say.
#[derive(Serialize, ToSchema)]
#[schema(as = AlertingEmail)]
struct EmailView {
    configured: bool,
    /// Who writes.
    #[schema(required)]
    from: Option<String>,
}

fn never_told() -> Object {
    null("Always null: it goes in, and never comes out.")
}

fn format_words() -> Object {
    let meaning =
        "What is sent: an event as CloudEvents 1.0 writes it, or a text as Slack's incoming webhooks take it.";
    words(meaning, &WebhookFormat::ALL.map(WebhookFormat::as_str))
}

/// What of the URL of a webhook is no secret.
fn host(url: &Secret) -> Option<String> {
    Url::parse(url.reveal()).ok()?.host_str().map(ToOwned::to_owned)
}

/// What is set, or nothing, which is no revision.
async fn current(api: &Api) -> Result<Versioned<AlertingSettings>, Problem> {
    let found = api.documents.get::<AlertingSettings>(OnlyOne).await?;
    Ok(found.unwrap_or_else(|| Versioned { value: AlertingSettings::default(), revision: Revision(0) }))
}

async fn answer(api: &Api, shown: Versioned<AlertingSettings>) -> Result<Response, Problem> {
    // Those that can't be read are for whoever delivers them to tell of.
    let notices: Vec<Notice> = api.documents.all().await?.into_iter().flatten().collect();
    let view = AlertingView::of(shown.value, &notices, api.telling.from.clone(), Utc::now());
    Ok(with_etag(StatusCode::OK, shown.revision, view))
}

impl AlertingView {
    fn of(settings: AlertingSettings, notices: &[Notice], from: Option<String>, now: DateTime<Utc>) -> Self {
        let health = health::health(&settings, notices, from.is_some(), now);
        let deliveries = notices.iter().flat_map(|notice| &notice.deliveries);
        let is_pending = |delivery: &Delivery| matches!(delivery, Delivery::Pending { .. });
        let AlertingSettings { recipients, webhooks, reminder_minutes, updated_at } = settings;
        Self {
            recipients,
            webhooks: webhooks.into_iter().map(WebhookView::of).collect(),
            reminder_minutes,
            email: EmailView { configured: from.is_some(), from },
            pending: deliveries.filter(|(_, delivery)| is_pending(delivery)).count(),
            health,
            updated_at,
        }
    }
}

impl WebhookView {
    fn of(webhook: Webhook) -> Self {
        let Webhook { name, url, format, secret } = webhook;
        Self { name, url: (), url_set: true, host: host(&url), format, secret: (), secret_set: secret.is_some() }
    }
}

/// Shows whom to tell of incidents, and whether what they are told arrives.
#[utoipa::path(get, path = "/v1/alerting", tag = "alerting", operation_id = "read_alerting",
    responses((status = 200, description = "The settings", body = AlertingView, headers(("ETag")))))]
pub(super) async fn read(api: State) -> Result<Response, Problem> {
    let found = current(&api).await?;
    answer(&api, found).await
}
