//! Setting whom to tell. What can't be read back is kept unless it is given anew.

use axum::{http::HeaderMap, response::Response};
use chrono::Utc;
use sequin_actors::{
    model::{AlertingSettings, FieldError, Secret, Webhook, WebhookFormat},
    notify::{check_recipient, check_webhook_secret, check_webhook_url},
    store::{OnlyOne, Revision, Versioned},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{AlertingView, answer, current, format_words, host};
use crate::api::{
    State, body,
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::check_if_match,
    secret::SecretText,
};

/// Whom to tell.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertingRequest, example = json!({
    "recipients": ["ops@example.com"], "webhooks": [{"name": "ops", "url": "https://example.com/hooks/ops"}],
    "reminder_minutes": 1440,
}))]
pub(in crate::api) struct AlertingRequest {
    /// Addresses for mail.
    #[serde(default)]
    #[schema(max_items = 50)]
    recipients: Vec<String>,
    /// Addresses that are called by HTTP.
    #[serde(default)]
    #[schema(max_items = 20)]
    webhooks: Vec<WebhookRequest>,
    /// How often they are told again of what is still wrong, in minutes: 0 for never, or at least 15.
    #[serde(default = "default_reminder")]
    #[schema(maximum = 44640, default = default_reminder)]
    reminder_minutes: u32,
}

/// An address that is called by HTTP.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookRequest)]
struct WebhookRequest {
    /// Unique among webhooks; the host of the URL, when it is not said.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    name: Option<String>,
    /// Where to call, by `http` or `https`: often as good as a password, so it is never shown. Null, or left out: the one that
    /// the webhook of this name has.
    #[schema(value_type = Option<String>, format = Password, write_only, max_length = 2048)]
    url: Option<SecretText>,
    #[serde(default)]
    #[schema(schema_with = format_words)]
    format: WebhookFormat,
    /// The key that what is sent is signed with: any text, or `whsec_` and base64. Null, or left out: the one that the webhook of this name has, if any; an
    /// empty text for none.
    #[schema(value_type = Option<String>, format = Password, write_only)]
    secret: Option<SecretText>,
}

fn default_reminder() -> u32 {
    AlertingSettings::default().reminder_minutes
}

/// Sets whom to tell of incidents.
///
/// What is left out is as it is by default, but for the secrets of a webhook that is there already: they are kept.
#[utoipa::path(put, path = "/v1/alerting", tag = "alerting", operation_id = "put_alerting", params(IfMatch),
    responses((status = 200, description = "The settings as they are now", body = AlertingView, headers(("ETag"))), Conflict))]
pub(in crate::api) async fn put(
    api: State,
    headers: HeaderMap,
    body::Json(request): body::Json<AlertingRequest>,
) -> Result<Response, Problem> {
    let before = current(&api).await?;
    check_if_match(&headers, before.revision)?;
    let settings = request.into_settings(&before.value)?;
    if settings == before.value && before.revision != Revision(0) {
        return answer(&api, before).await;
    }
    let value = AlertingSettings { updated_at: Some(Utc::now()), ..settings };
    let revision = match before.revision {
        Revision(0) => api.documents.insert(OnlyOne, &value).await?,
        revision => api.documents.update(OnlyOne, &value, revision).await?,
    };
    answer(&api, Versioned { value, revision }).await
}

impl AlertingRequest {
    fn into_settings(self, before: &AlertingSettings) -> Result<AlertingSettings, Problem> {
        let recipients = self.recipients.iter().enumerate();
        let wrong = recipients.filter_map(|(number, to)| check_recipient(&format!("recipients[{number}]"), to).err());
        let mut errors: Vec<FieldError> = wrong.collect();
        let webhooks = self.webhooks.into_iter().enumerate();
        let webhooks = webhooks.map(|(number, webhook)| webhook.into_webhook(number, before, &mut errors)).collect();
        let Self { recipients, reminder_minutes, .. } = self;
        let settings = AlertingSettings { recipients, webhooks, reminder_minutes, updated_at: before.updated_at };
        // A webhook without a URL has been told of as that.
        let is_known =
            |error: &FieldError, errors: &[FieldError]| errors.iter().any(|known| known.field == error.field);
        for error in settings.check() {
            if !is_known(&error, &errors) {
                errors.push(error);
            }
        }
        if errors.is_empty() { Ok(settings) } else { Err(Problem::invalid(errors)) }
    }
}

impl WebhookRequest {
    /// What is wrong with it is told; what stands in for that gets no further than the check of everything else.
    fn into_webhook(self, number: usize, before: &AlertingSettings, errors: &mut Vec<FieldError>) -> Webhook {
        let field = |name: &str| format!("webhooks[{number}].{name}");
        let given = self.url.map(|SecretText(url)| url);
        errors.extend(given.as_ref().and_then(|url| check_webhook_url(&field("url"), url.reveal()).err()));
        let name = self.name.or_else(|| given.as_ref().and_then(host)).unwrap_or_else(|| {
            errors.push(FieldError::new(field("name"), "is missing, and there is no URL whose host could be it"));
            String::new()
        });
        let known = before.webhooks.iter().find(|known| known.name == name);
        let url = given.or_else(|| known.map(|known| known.url.clone())).unwrap_or_else(|| {
            let missing = "is missing: there is no webhook of this name yet whose URL could be kept";
            errors.push(FieldError::new(field("url"), missing));
            Secret::new("")
        });
        let secret = match self.secret {
            Some(SecretText(secret)) => Some(secret).filter(|secret| !secret.reveal().is_empty()),
            None => known.and_then(|known| known.secret.clone()),
        };
        errors.extend(secret.as_ref().and_then(|key| check_webhook_secret(&field("secret"), key.reveal()).err()));
        Webhook { name, url, format: self.format, secret }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(request: Value, before: &AlertingSettings) -> Result<AlertingSettings, Value> {
        let request: AlertingRequest = serde_json::from_value(request).expect("a request");
        request.into_settings(before).map_err(|problem| serde_json::to_value(problem).expect("JSON"))
    }

    fn webhook(request: &Value, before: &AlertingSettings) -> Webhook {
        let mut settings = settings(json!({"webhooks": [request]}), before).expect("settings");
        settings.webhooks.remove(0)
    }

    #[test]
    fn what_cannot_be_read_back_is_kept_by_the_name_of_its_webhook_until_it_is_given_anew() {
        let url = "https://hooks.example.com/T0/hunter2";
        let made = webhook(&json!({"url": url, "secret": "s1", "format": "slack"}), &AlertingSettings::default());
        assert_eq!(
            (made.name.as_str(), made.url.reveal(), made.format),
            ("hooks.example.com", url, WebhookFormat::Slack)
        );
        let before = AlertingSettings { webhooks: vec![Webhook { name: "ops".into(), ..made }], ..Default::default() };
        let secret = |webhook: &Webhook| webhook.secret.as_ref().map(|secret| secret.reveal().to_owned());
        for (request, expected_url, expected_secret) in [
            (json!({"name": "ops"}), url, Some("s1")),
            (json!({"name": "ops", "url": null, "secret": null}), url, Some("s1")),
            (json!({"name": "ops", "url": "http://h:1/x"}), "http://h:1/x", Some("s1")),
            (json!({"name": "ops", "secret": "s2"}), url, Some("s2")),
            (json!({"name": "ops", "secret": ""}), url, None),
            (json!({"name": "other", "url": url}), url, None),
        ] {
            let webhook = webhook(&request, &before);
            assert_eq!((webhook.url.reveal(), secret(&webhook).as_deref()), (expected_url, expected_secret));
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_by_its_field_and_no_url_with_it() {
        let long = format!("https://example.com/{}", "x".repeat(2048));
        let request = json!({
            "recipients": ["ops@example.com", "ops"],
            "webhooks": [
                {"name": "kept"}, {"name": "ftp", "url": "ftp://hunter2@example.com"}, {"format": "slack"},
                {"name": "long", "url": long}, {"url": "https://[::1]/hunter2", "secret": "whsec_hunter2"},
            ],
        });
        let problem = settings(request, &AlertingSettings::default()).expect_err("wrong settings");
        let fields: Vec<&str> =
            problem["errors"].as_array().expect("errors").iter().filter_map(|error| error["field"].as_str()).collect();
        let expected = [
            "recipients[1]",
            "webhooks[0].url",
            "webhooks[1].url",
            "webhooks[2].name",
            "webhooks[2].url",
            "webhooks[3].url",
            "webhooks[4].secret",
            "webhooks[4].name",
        ];
        assert_eq!(fields, expected, "{problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}
