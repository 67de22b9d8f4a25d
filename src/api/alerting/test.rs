//! Telling everybody something, to see whether it arrives.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderMap, header},
};
use chrono::Utc;
use futures_util::future::join_all;
use sequin_actors::{
    model::{AlertingSettings, Destination, Notice},
    notify::Notifier,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{ToSchema, openapi::Object};

use super::current;
use crate::api::{
    Api, State,
    body::{JSON_LIMIT, LimitedBytes, parse_object},
    openapi::{Conflict, words},
    problem::Problem,
};

/// How long whoever asks waits to hear: a delivery itself may take longer than a request.
const LIMIT: Duration = Duration::from_secs(30);

/// Whom to tell: everybody, unless one is named. No body at all is as good as an empty object.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertingTestRequest, example = json!({}))]
pub(in crate::api) struct TestRequest {
    /// This recipient alone.
    recipient: Option<String>,
    /// The webhook of this name alone.
    webhook: Option<String>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
#[schema(as = AlertingTested)]
pub(in crate::api) struct TestedView {
    /// Whether it arrived everywhere.
    ok: bool,
    deliveries: Vec<TriedView>,
}

/// What came of telling one of them.
#[derive(Serialize, ToSchema)]
#[schema(as = AlertingTestDelivery)]
struct TriedView {
    #[schema(schema_with = channel_words)]
    channel: &'static str,
    /// The address, or the name of the webhook.
    destination: String,
    ok: bool,
    /// What went wrong.
    #[schema(required)]
    error: Option<String>,
}

/// The schema of how somebody is told.
pub(in crate::api) fn channel_words() -> Object {
    words("How.", &["email", "webhook"])
}

/// How somebody is told, and who.
pub(in crate::api) fn channel(destination: &Destination) -> (&'static str, &str) {
    match destination {
        Destination::Email(address) => ("email", address),
        Destination::Webhook(name) => ("webhook", name),
    }
}

/// Sends a notice that says nothing to everybody who is to be told of incidents, and says whether it arrived.
#[utoipa::path(post, path = "/v1/alerting/test", tag = "alerting", operation_id = "test_alerting", request_body = TestRequest,
    responses((status = 200, description = "What came of it", body = TestedView), Conflict))]
pub(in crate::api) async fn test(
    api: State,
    headers: HeaderMap,
    LimitedBytes(bytes): LimitedBytes<JSON_LIMIT>,
) -> Result<Json<TestedView>, Problem> {
    let has_body = !bytes.is_empty() || headers.contains_key(header::CONTENT_TYPE);
    let request: TestRequest = if has_body { parse_object(&bytes)? } else { TestRequest::default() };
    let settings = current(&api).await?.value;
    let destinations = request.destinations(&settings)?;
    let notice = Notifier::test_notice(Utc::now());
    let tries = destinations.iter().map(|destination| deliver(&api, &notice, destination, &settings));
    let deliveries = join_all(tries).await;
    Ok(Json(TestedView { ok: deliveries.iter().all(|tried| tried.ok), deliveries }))
}

async fn deliver(api: &Api, notice: &Notice, destination: &Destination, settings: &AlertingSettings) -> TriedView {
    let delivery = timeout(LIMIT, api.telling.notifier.deliver(notice, destination, settings));
    let error = match delivery.await {
        Ok(delivered) => delivered.err().map(|error| error.to_string()),
        Err(_) => Some(format!("there was no answer within {} s", LIMIT.as_secs())),
    };
    let (channel, name) = channel(destination);
    TriedView { channel, destination: name.into(), ok: error.is_none(), error }
}

impl TestRequest {
    /// Whom to tell, out of those who are to be told of incidents.
    fn destinations(self, settings: &AlertingSettings) -> Result<Vec<Destination>, Problem> {
        let recipients = settings.recipients.iter().cloned().map(Destination::Email);
        let webhooks = settings.webhooks.iter().map(|webhook| Destination::Webhook(webhook.name.clone()));
        let all: Vec<Destination> = recipients.chain(webhooks).collect();
        if all.is_empty() {
            let way_out = "nobody is to be told of incidents yet: set recipients or webhooks by PUT /v1/alerting or `sequin alerting set`";
            return Err(Problem::conflict(way_out));
        }
        let (field, one) = match (self.recipient, self.webhook) {
            (None, None) => return Ok(all),
            (Some(recipient), None) => ("recipient", Destination::Email(recipient)),
            (None, Some(webhook)) => ("webhook", Destination::Webhook(webhook)),
            (Some(_), Some(_)) => {
                return Err(Problem::invalid_field("webhook", "takes the place of a recipient: give one"));
            }
        };
        if all.contains(&one) {
            return Ok(vec![one]);
        }
        let (_, name) = channel(&one);
        Err(Problem::invalid_field(field, format!("{name} is none of those who are to be told: set it first")))
    }
}

#[cfg(test)]
mod tests {
    use sequin_actors::model::{Secret, Webhook, WebhookFormat};

    use super::*;

    #[test]
    fn one_is_told_or_all_are_and_only_those_who_are_to_be_told_of_incidents() {
        let url = Secret::new("https://example.com");
        let webhook = Webhook { name: "ops".into(), url, format: WebhookFormat::default(), secret: None };
        let settings = AlertingSettings {
            recipients: vec!["a@example.com".into(), "b@example.com".into()],
            webhooks: vec![webhook],
            ..AlertingSettings::default()
        };
        let mail = |to: &str| Destination::Email(to.into());
        let told = |recipient: Option<&str>, webhook: Option<&str>, settings: &AlertingSettings| {
            let request = TestRequest { recipient: recipient.map(Into::into), webhook: webhook.map(Into::into) };
            request.destinations(settings).map_err(|problem| serde_json::to_value(problem).expect("JSON"))
        };
        let ops = Destination::Webhook("ops".into());
        let all = vec![mail("a@example.com"), mail("b@example.com"), ops.clone()];
        assert_eq!(told(None, None, &settings), Ok(all));
        assert_eq!(told(Some("b@example.com"), None, &settings), Ok(vec![mail("b@example.com")]));
        assert_eq!(told(None, Some("ops"), &settings), Ok(vec![ops]));
        for (recipient, webhook, field) in [
            (Some("c@example.com"), None, "recipient"),
            (None, Some("other"), "webhook"),
            (Some("a@example.com"), Some("ops"), "webhook"),
        ] {
            let problem = told(recipient, webhook, &settings).expect_err("nobody to be told");
            assert_eq!((&problem["status"], &problem["errors"][0]["field"]), (&422.into(), &field.into()));
        }
        let problem = told(None, None, &AlertingSettings::default()).expect_err("nobody to be told");
        assert_eq!(problem["status"], 409);
    }
}
