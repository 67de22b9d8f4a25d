//! Setting whom to tell. What can't be read back is kept unless it is given anew.

use axum::{http::HeaderMap, response::Response};
use chrono::Utc;
use sequin_actors::{
    model::{AlertingSettings, FieldError, Secret, Webhook, WebhookFormat},
    store::{OnlyOne, Revision, Versioned},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{AlertingView, answer, current, format_words, parse_url};
use crate::api::{
    State, body,
    openapi::{Conflict, IfMatch},
    problem::Problem,
    resources::check_if_match,
    secret::SecretText,
};

/// The longest URL, in bytes.
const LONGEST_URL: usize = 2048;

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
    /// The key that what is sent is signed with. Null, or left out: the one that the webhook of this name has, if any; an
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
        let mut errors = Vec::new();
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
        let mut refuse = |field: &str, message: &str| {
            errors.push(FieldError::new(format!("webhooks[{number}].{field}"), message));
        };
        let given = self.url.map(|SecretText(url)| url);
        let host = given.as_ref().and_then(parse_url).and_then(|url| url.host_str().map(ToOwned::to_owned));
        let is_callable = host.is_some() && given.as_ref().is_some_and(|url| url.reveal().len() <= LONGEST_URL);
        if given.is_some() && !is_callable {
            refuse("url", "takes a URL such as https://example.com/hooks/ops, of at most 2048 bytes");
        }
        let name = self.name.or(host).unwrap_or_else(|| {
            refuse("name", "is missing, and there is no URL whose host could be it");
            String::new()
        });
        let known = before.webhooks.iter().find(|known| known.name == name);
        let url = given.or_else(|| known.map(|known| known.url.clone())).unwrap_or_else(|| {
            refuse("url", "is missing: there is no webhook of this name yet whose URL could be kept");
            Secret::new("")
        });
        let secret = match self.secret {
            Some(SecretText(secret)) => Some(secret).filter(|secret| !secret.reveal().is_empty()),
            None => known.and_then(|known| known.secret.clone()),
        };
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
                {"name": "long", "url": long}, {"url": "https://[::1]/hunter2"},
            ],
        });
        let problem = settings(request, &AlertingSettings::default()).expect_err("wrong settings");
        let fields: Vec<&str> =
            problem["errors"].as_array().expect("errors").iter().filter_map(|error| error["field"].as_str()).collect();
        let expected = [
            "webhooks[0].url",
            "webhooks[1].url",
            "webhooks[2].name",
            "webhooks[2].url",
            "webhooks[3].url",
            "recipients[1]",
            "webhooks[4].name",
        ];
        assert_eq!(fields, expected, "{problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}
