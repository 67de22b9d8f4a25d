//! Changing a consumer: what it forwards, where to, how; and reading again what it has read.

use axum::{
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::Utc;
use sequin_actors::{
    model::{Checkpoint, Consumer, FieldError, Idx, Metadata, Rewind, UnsupportedText},
    store::Versioned,
};
use serde::Deserialize;
use utoipa::{ToSchema, openapi::Object};

use super::{ConsumerView, FilterRequest, answer, default_lag_threshold, find_started, find_target};
use crate::api::{
    Api, State,
    body::{self, Path},
    change::Change,
    openapi::{Conflict, IfMatch, or_null},
    problem::Problem,
    resources::{beside, check_if_match, find},
};

/// What of a consumer is to change. What is not named stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"filter": {"provider": "hubspot"}, "lag_threshold_seconds": 60}))]
pub(in crate::api) struct ConsumerPatch {
    #[schema(value_type = String, min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    #[serde(default)]
    name: Change<String>,
    /// The one that it has: a consumer stays with its target.
    #[schema(value_type = String)]
    #[serde(default)]
    target: Change<String>,
    /// Replaced as a whole. Everything that matches is read from the start.
    #[schema(value_type = FilterRequest)]
    #[serde(default)]
    filter: Change<FilterRequest>,
    #[schema(value_type = String, min_length = 1, max_length = 63)]
    #[serde(default)]
    schema: Change<String>,
    /// Another table gets everything; the former stays as it is.
    #[schema(value_type = String, min_length = 1, max_length = 63)]
    #[serde(default)]
    table: Change<String>,
    /// Replaced as a whole.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    metadata: Change<Metadata>,
    #[schema(schema_with = unsupported_text)]
    #[serde(default)]
    unsupported_text: Change<UnsupportedText>,
    /// Null for the default.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    lag_threshold_seconds: Change<u32>,
    /// Null for any number.
    #[schema(value_type = Option<u64>, minimum = 1)]
    #[serde(default)]
    lag_threshold_records: Change<u64>,
}

/// Where to read again from.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": 0}))]
pub(in crate::api) struct RewindRequest {
    /// Everything beyond this position is read again; 0 for all that there is.
    to: u64,
}

fn unsupported_text() -> Object {
    or_null(super::unsupported_text_words())
}

/// Changes a consumer.
///
/// What the body does not name stays as it is (RFC 7396). One that runs goes on with the change by itself. Rows that another
/// filter has brought stay in the table.
#[utoipa::path(patch, path = "/v1/consumers/{consumer}", tag = "consumers", operation_id = "change_consumer",
    params(IfMatch), responses(
        (status = 200, description = "The consumer as it is now", body = ConsumerView, headers(("ETag"))), Conflict
    ))]
pub(in crate::api) async fn patch(
    api: State,
    Path(consumer): Path<String>,
    headers: HeaderMap,
    body::Json(patch): body::Json<ConsumerPatch>,
) -> Result<Response, Problem> {
    let before = find::<Consumer>(&api.documents, &consumer).await?;
    check_if_match(&headers, before.revision)?;
    let mut consumer = before.value.clone();
    let mut errors = Vec::new();
    if let Some(error) = patch.moves(&api, &consumer).await? {
        errors.push(error);
    }
    patch.apply(&mut consumer, &mut errors);
    errors.extend(consumer.check());
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    write(&api, before, consumer).await
}

/// Lets a consumer read again what lies beyond a position.
///
/// Rows that are missing come back. Rows that are there are as new as what is read, and stay as they are.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/rewind", tag = "consumers", operation_id = "rewind_consumer",
    params(IfMatch), responses(
        (status = 200, description = "The consumer", body = ConsumerView, headers(("ETag"))), Conflict
    ))]
pub(in crate::api) async fn rewind(
    api: State,
    Path(consumer): Path<String>,
    headers: HeaderMap,
    body::Json(request): body::Json<RewindRequest>,
) -> Result<Response, Problem> {
    let before = find_started(&api, &consumer, &headers).await?;
    let checkpoint = beside::<Checkpoint>(&api.documents, before.value.id).await?.unwrap_or_default();
    let to = Idx(request.to);
    if to > checkpoint.idx {
        let message = format!("takes at most {}, the consumer's checkpoint: nothing is passed over", checkpoint.idx);
        return Err(Problem::invalid_field("to", message));
    }
    let last = before.value.rewind;
    // One that was not obeyed yet still counts.
    let to = if checkpoint.rewinds < last.number { to.min(last.to) } else { to };
    let rewind = Rewind { number: last.number + 1, to };
    let consumer = Consumer { rewind, ..before.value.clone() };
    write(&api, before, consumer).await
}

async fn write(api: &Api, before: Versioned<Consumer>, consumer: Consumer) -> Result<Response, Problem> {
    if consumer == before.value {
        return answer(api, StatusCode::OK, before).await;
    }
    let now = Utc::now();
    let value = Consumer { updated_at: now, ..consumer };
    let revision = api.documents.update_named(&before.value, &value, before.revision, now).await?;
    answer(api, StatusCode::OK, Versioned { value, revision }).await
}

impl ConsumerPatch {
    /// The error if it would move the consumer to another target.
    async fn moves(&self, api: &Api, consumer: &Consumer) -> Result<Option<FieldError>, Problem> {
        let Change::To(wanted) = &self.target else {
            let is_null = matches!(self.target, Change::Reset);
            return Ok(is_null.then(|| FieldError::new("target", "can't be null: leave it out")));
        };
        let found = find_target(api, wanted).await?;
        let message = "can't be changed: make a consumer for the other target, and delete this one";
        Ok((found != Some(consumer.target)).then(|| FieldError::new("target", message)))
    }

    fn apply(self, consumer: &mut Consumer, errors: &mut Vec<FieldError>) {
        self.name.required("name", &mut consumer.name, errors);
        self.schema.required("schema", &mut consumer.table.schema, errors);
        self.table.required("table", &mut consumer.table.table, errors);
        self.metadata.or(Metadata::new(), &mut consumer.metadata);
        self.unsupported_text.or(UnsupportedText::default(), &mut consumer.unsupported_text);
        self.lag_threshold_seconds.or(default_lag_threshold(), &mut consumer.lag_threshold_seconds);
        self.lag_threshold_records.optional(&mut consumer.lag_threshold_records);
        match self.filter {
            Change::Keep => {}
            Change::Reset => errors.push(FieldError::new("filter", "can't be null: leave it out to keep it as it is")),
            Change::To(filter) => match filter.filter() {
                Ok(filter) => consumer.filter = filter,
                Err(error) => errors.push(error),
            },
        }
    }
}
