//! Comparing the secrets of webhooks with those that are set: they are never shown, and whoever describes them in a file
//! wants to know whether it is still true. Who may ask may set them as well.

use axum::Json;
use serde::Deserialize;
use utoipa::ToSchema;

use super::current;
use crate::api::{
    State, body,
    problem::Problem,
    secret::{SecretText, are_same},
    targets::compare::CompareView,
};

/// The secrets to compare.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertingSecrets, example = json!({"webhooks": [{"name": "ops", "url": "https://example.com/hooks/ops"}]}))]
pub(in crate::api) struct CompareRequest {
    webhooks: Vec<WebhookSecrets>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookSecrets {
    /// Which webhook's they are.
    name: String,
    #[schema(value_type = Option<String>, format = Password, write_only)]
    url: Option<SecretText>,
    #[schema(value_type = Option<String>, format = Password, write_only)]
    secret: Option<SecretText>,
}

/// Compares secrets with those of the webhooks, which are never shown.
#[utoipa::path(post, path = "/v1/alerting/compare-secrets", tag = "alerting", operation_id = "compare_alerting_secrets",
    responses((status = 200, description = "Which of them are the same", body = CompareView)))]
pub(in crate::api) async fn compare_secrets(
    api: State,
    body::Json(request): body::Json<CompareRequest>,
) -> Result<Json<CompareView>, Problem> {
    let settings = current(&api).await?.value;
    let mut compared = CompareView::default();
    for (number, WebhookSecrets { name, url, secret }) in request.webhooks.into_iter().enumerate() {
        let ours = settings.webhooks.iter().find(|webhook| webhook.name == name);
        let pairs = [
            ("url", url, ours.map(|webhook| &webhook.url)),
            ("secret", secret, ours.and_then(|webhook| webhook.secret.as_ref())),
        ];
        for (field, given, ours) in pairs {
            if let Some(SecretText(given)) = given {
                let is_same = ours.is_some_and(|ours| are_same(&given, ours));
                let list = if is_same { &mut compared.same } else { &mut compared.different };
                list.push(format!("webhooks[{number}].{field}"));
            }
        }
    }
    Ok(Json(compared))
}
