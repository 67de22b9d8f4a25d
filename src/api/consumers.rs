//! Consumers: what is forwarded where.

pub(super) mod change;
pub(super) mod table;
mod view;

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::Utc;
use sequin_actors::{
    model::{
        Consumer, ConsumerId, ConsumerStatus, Desired, FieldError, Filter, Metadata, Provider, Rewind, SyncId,
        TableName, Target, TargetId, TargetStatus, UnsupportedText,
    },
    store::{DocumentsError, Versioned},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema, openapi::Object};
use uuid::Uuid;

pub(super) use self::view::ConsumerView;
use self::view::{STATES, state_words};
use super::{
    Api, State,
    body::{Params, Path},
    idempotency::{Once, create_once},
    openapi::{Conflict, IfMatch, UnprocessableContent, words},
    problem::{FieldProblem, Problem},
    reasons::severity_words,
    resources::{List, PageParams, SqlView, beside, beside_if_readable, check_if_match, find, with_etag},
    targets::host_key::confirmed,
};

/// A consumer, as it is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "hubspot-to-app", "target": "app", "filter": {"provider": "hubspot"}, "schema": "sequin", "table": "hubspot",
}))]
pub(super) struct ConsumerRequest {
    /// Unique among consumers, and no uuid.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    name: String,
    /// The target's id or name.
    target: String,
    filter: FilterRequest,
    /// The table's schema: 1 to 63 bytes.
    #[schema(min_length = 1, max_length = 63)]
    schema: String,
    /// The table's name: 1 to 63 bytes.
    #[schema(min_length = 1, max_length = 63)]
    table: String,
    /// Your notes, kept as you give them.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Metadata,
    #[serde(default)]
    #[schema(schema_with = unsupported_text_words)]
    unsupported_text: UnsupportedText,
    /// How old the oldest unapplied record may be before the consumer counts as behind.
    #[serde(default = "default_lag_threshold")]
    #[schema(minimum = 1, default = default_lag_threshold)]
    lag_threshold_seconds: u32,
    /// How many unapplied records there may be before the consumer counts as behind too; without it, any number.
    #[schema(minimum = 1)]
    lag_threshold_records: Option<u64>,
}

/// Which records it forwards: those of a provider, or of a sync.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FilterRequest {
    /// All syncs of this provider, new ones included.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    provider: Option<String>,
    /// This sync alone.
    sync: Option<Uuid>,
}

fn unsupported_text_words() -> Object {
    let meaning = "What to do with text that Postgres can't hold: set the record aside, or write U+FFFD in its place.";
    words(meaning, &["quarantine", "replace"])
}

fn default_lag_threshold() -> u32 {
    300
}

impl FilterRequest {
    fn filter(&self) -> Result<Filter, FieldError> {
        match (&self.provider, self.sync) {
            (Some(slug), None) => Provider::parse(slug)
                .map(Filter::Provider)
                .map_err(|error| FieldError { field: "filter.provider".into(), ..error }),
            (None, Some(sync)) => Ok(Filter::Sync(SyncId(sync))),
            _ => Err(FieldError::new("filter", "takes either a provider or a sync")),
        }
    }
}

impl ConsumerRequest {
    fn into_consumer(self, target: Option<TargetId>) -> Result<Consumer, Problem> {
        let now = Utc::now();
        let mut errors = Vec::new();
        // What stands in for a wrong one gets no further than the check of everything else.
        let filter = self.filter.filter().unwrap_or_else(|error| {
            errors.push(error);
            Filter::Sync(SyncId(Uuid::nil()))
        });
        let target = target.unwrap_or_else(|| {
            errors.push(FieldError::new("target", format!("there is no target {}", self.target)));
            TargetId(Uuid::nil())
        });
        let consumer = Consumer {
            id: ConsumerId::generate(),
            name: self.name,
            target,
            filter,
            table: TableName { schema: self.schema, table: self.table },
            unsupported_text: self.unsupported_text,
            lag_threshold_seconds: self.lag_threshold_seconds,
            lag_threshold_records: self.lag_threshold_records,
            metadata: self.metadata,
            desired: Desired::Draft,
            attempt: 0,
            rewind: Rewind::default(),
            created_at: now,
            updated_at: now,
        };
        errors.extend(consumer.check());
        if errors.is_empty() { Ok(consumer) } else { Err(Problem::invalid(errors)) }
    }
}

/// Which consumers to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConsumerParams {
    /// Those that write to the target of this id or name.
    target: Option<String>,
    /// Those that forward this provider.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    provider: Option<String>,
    /// Those that forward this sync alone.
    sync: Option<Uuid>,
    /// Those in this state.
    #[param(schema_with = state_words)]
    state: Option<String>,
    /// The most that a page has: 100, when it is not said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

impl ConsumerParams {
    fn check(&self) -> Result<(), Problem> {
        if let Some(provider) = &self.provider {
            Provider::parse(provider).map_err(|error| Problem::invalid([error]))?;
        }
        match self.state.as_deref() {
            Some(state) if !STATES.contains(&state) => {
                Err(Problem::invalid_field("state", format!("takes one of {}", STATES.join(", "))))
            }
            _ => Ok(()),
        }
    }

    fn matches(&self, consumer: &Consumer, view: &ConsumerView) -> bool {
        let by_target = self.target.as_ref().is_none_or(|target| view.is_of_target(target));
        let by_filter = match &consumer.filter {
            Filter::Provider(provider) => {
                self.sync.is_none() && self.provider.as_deref().is_none_or(|wanted| wanted == provider.as_str())
            }
            Filter::Sync(sync) => self.provider.is_none() && self.sync.is_none_or(|wanted| wanted == sync.0),
        };
        by_target && by_filter && self.state.as_deref().is_none_or(|state| view.is_in_state(state))
    }
}

async fn view(api: &Api, consumer: Consumer) -> Result<ConsumerView, Problem> {
    let now = Utc::now();
    let mut unreadable = Vec::new();
    let target: Option<Target> = beside_if_readable(&api.documents, consumer.target, &mut unreadable, now).await?;
    let mut status: Option<ConsumerStatus> =
        beside_if_readable(&api.documents, consumer.id, &mut unreadable, now).await?;
    if let Some(status) = &mut status
        && let Some(of_target) = status_of_target(api, &consumer).await?
    {
        status.seen_by(&of_target, &consumer, now);
    }
    Ok(ConsumerView::of(consumer, target, status, unreadable, now))
}

async fn status_of_target(api: &Api, consumer: &Consumer) -> Result<Option<TargetStatus>, Problem> {
    match api.documents.get::<TargetStatus>(consumer.target).await {
        Ok(status) => Ok(status.map(|status| status.value)),
        // What the target's own view says.
        Err(DocumentsError::Unreadable(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Shows the consumer at its revision.
pub(super) async fn answer(api: &Api, status: StatusCode, shown: Versioned<Consumer>) -> Result<Response, Problem> {
    Ok(with_etag(status, shown.revision, view(api, shown.value).await?))
}

/// Makes a consumer, as a draft.
#[utoipa::path(post, path = "/v1/consumers", tag = "consumers", operation_id = "create_consumer",
    params(Once<ConsumerRequest>), request_body = ConsumerRequest,
    responses((status = 201, description = "It is made", body = ConsumerView, headers(("ETag"))), Conflict))]
pub(super) async fn create(api: State, Once { request, key }: Once<ConsumerRequest>) -> Result<Response, Problem> {
    let target = find_target(&api, &request.target).await?;
    let consumer = request.into_consumer(target)?;
    let now = consumer.created_at;
    let made = create_once(&api.documents, key, consumer, |consumer, id| Consumer { id, ..consumer }, now).await?;
    answer(&api, StatusCode::CREATED, made).await
}

async fn find_target(api: &Api, id_or_name: &str) -> Result<Option<TargetId>, Problem> {
    match find::<Target>(&api.documents, id_or_name).await {
        Ok(target) => Ok(Some(target.value.id)),
        Err(problem) if problem.is_not_found() => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Lists consumers.
#[utoipa::path(get, path = "/v1/consumers", tag = "consumers", operation_id = "list_consumers", params(ConsumerParams),
    responses((status = 200, description = "A page of them", body = List<ConsumerView>)))]
pub(super) async fn list(
    api: State,
    Params(params): Params<ConsumerParams>,
) -> Result<Json<List<ConsumerView>>, Problem> {
    params.check()?;
    let page = PageParams { limit: params.limit, after: params.after.clone() };
    let limit = page.limit()?;
    let mut after: Option<ConsumerId> = page.after()?;
    let mut found = Vec::new();
    while found.len() <= limit {
        let page = api.documents.list::<Consumer>(after, limit + 1).await?;
        let Some(last) = page.last() else { break };
        after = match last {
            Ok(consumer) => Some(consumer.value.id),
            Err(unreadable) => unreadable.id().parse().ok(),
        };
        let goes_on = after.is_some();
        for consumer in page {
            match consumer {
                Ok(Versioned { value: consumer, .. }) => {
                    let view = view(&api, consumer.clone()).await?;
                    if params.matches(&consumer, &view) {
                        found.push(Ok((consumer.id.to_string(), view)));
                    }
                }
                // Whether it was asked for is not known.
                Err(unreadable) => found.push(Err(unreadable)),
            }
        }
        if !goes_on {
            break;
        }
    }
    Ok(Json(List::page_of_documents(found, limit)))
}

/// Shows a consumer: what it should be, and how it is.
#[utoipa::path(get, path = "/v1/consumers/{consumer}", tag = "consumers", operation_id = "read_consumer",
    responses((status = 200, description = "The consumer", body = ConsumerView, headers(("ETag")))))]
pub(super) async fn read(api: State, Path(consumer): Path<String>) -> Result<Response, Problem> {
    let found = find::<Consumer>(&api.documents, &consumer).await?;
    answer(&api, StatusCode::OK, found).await
}

/// Deletes a consumer; its table stays as it is.
#[utoipa::path(delete, path = "/v1/consumers/{consumer}", tag = "consumers", operation_id = "delete_consumer",
    params(IfMatch), responses((status = 204, description = "It is gone"), Conflict))]
pub(super) async fn delete(
    api: State,
    Path(consumer): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let found = find::<Consumer>(&api.documents, &consumer).await?;
    check_if_match(&headers, found.revision)?;
    api.documents.delete_named(&found.value, found.revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives the SQL that makes the consumer's table.
#[utoipa::path(get, path = "/v1/consumers/{consumer}/create-table-sql", tag = "consumers",
    operation_id = "create_table_sql", responses((status = 200, description = "The SQL", body = SqlView)))]
pub(super) async fn create_table_sql(api: State, Path(consumer): Path<String>) -> Result<Json<SqlView>, Problem> {
    let found = find::<Consumer>(&api.documents, &consumer).await?;
    Ok(Json(SqlView { sql: api.inspector.create_table_sql(&found.value.table) }))
}

/// One thing about the table that is not as it should be.
#[derive(Serialize, ToSchema)]
#[schema(as = Finding)]
struct FindingView {
    /// A stable word for programs, such as `table_missing`.
    code: &'static str,
    #[schema(schema_with = severity_words)]
    severity: &'static str,
    message: String,
    /// The SQL that mends it; empty if none does.
    fix_sql: String,
}

/// What was found of a consumer's table.
#[derive(Serialize, ToSchema)]
pub(super) struct Verified {
    /// Whether the consumer can work with it.
    ok: bool,
    findings: Vec<FindingView>,
}

/// Looks at the table; a target that can't be asked is a finding too.
async fn find_faults(api: &Api, consumer: &Consumer) -> Result<Vec<FindingView>, Problem> {
    let target = beside::<Target>(&api.documents, consumer.target).await?;
    let target = target.ok_or_else(|| Problem::conflict("its target is gone"))?;
    Ok(match api.inspector.verify(&target, &consumer.table).await {
        Ok(findings) => {
            let view = findings.into_iter().map(|finding| FindingView {
                code: finding.code,
                severity: finding.severity.as_str(),
                message: finding.message,
                fix_sql: finding.fix_sql,
            });
            view.collect()
        }
        Err(fault) => {
            let message = format!("target {}: {fault}; {}", target.name, fault.fix);
            vec![FindingView { code: fault.code, severity: "error", message, fix_sql: String::new() }]
        }
    })
}

/// Looks at the consumer's table.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/verify", tag = "consumers", operation_id = "verify_consumer",
    responses((status = 200, description = "What was found", body = Verified), Conflict))]
pub(super) async fn verify(api: State, Path(consumer): Path<String>) -> Result<Json<Verified>, Problem> {
    let found = find::<Consumer>(&api.documents, &consumer).await?;
    let findings = find_faults(&api, &found.value).await?;
    let ok = findings.iter().all(|finding| finding.severity != "error");
    Ok(Json(Verified { ok, findings }))
}

/// Verifies a consumer's table, and starts it.
///
/// If the table is not as it should be, the answer is 422 with the findings as `errors`.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/start", tag = "consumers", operation_id = "start_consumer",
    params(IfMatch), responses(
        (status = 200, description = "It is started", body = ConsumerView, headers(("ETag"))), Conflict, UnprocessableContent
    ))]
pub(super) async fn start(api: State, Path(consumer): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = find::<Consumer>(&api.documents, &consumer).await?;
    check_if_match(&headers, found.revision)?;
    if let Some(target) = beside::<Target>(&api.documents, found.value.target).await? {
        confirmed(&api, &target).await?;
    }
    let findings = find_faults(&api, &found.value).await?;
    let errors: Vec<_> = findings.into_iter().filter(|finding| finding.severity == "error").collect();
    if !errors.is_empty() {
        let detail = format!("consumer {} can't start: its table is not as it should be", found.value.name);
        let errors = errors.into_iter().map(|finding| FieldProblem {
            code: Some(finding.code),
            severity: Some(finding.severity),
            fix_sql: Some(finding.fix_sql),
            ..FieldProblem::new("table", finding.message)
        });
        return Err(Problem::invalid(errors).with_detail(detail));
    }
    change_desired(&api, found, Desired::Running).await
}

/// Pauses a consumer.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/pause", tag = "consumers", operation_id = "pause_consumer",
    params(IfMatch),
    responses((status = 200, description = "It is asked to", body = ConsumerView, headers(("ETag"))), Conflict))]
pub(super) async fn pause(api: State, Path(consumer): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = find_started(&api, &consumer, &headers).await?;
    change_desired(&api, found, Desired::Paused).await
}

/// Lets a consumer go on: one that was paused, or halted by a fault.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/resume", tag = "consumers", operation_id = "resume_consumer",
    params(IfMatch),
    responses((status = 200, description = "It is asked to", body = ConsumerView, headers(("ETag"))), Conflict))]
pub(super) async fn resume(api: State, Path(consumer): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = find_started(&api, &consumer, &headers).await?;
    change_desired(&api, found, Desired::Running).await
}

async fn find_started(api: &Api, consumer: &str, headers: &HeaderMap) -> Result<Versioned<Consumer>, Problem> {
    let found = find::<Consumer>(&api.documents, consumer).await?;
    check_if_match(headers, found.revision)?;
    if found.value.desired == Desired::Draft {
        return Err(Problem::conflict(format!("consumer {} is a draft: start it first", found.value.name)));
    }
    Ok(found)
}

async fn change_desired(api: &Api, found: Versioned<Consumer>, desired: Desired) -> Result<Response, Problem> {
    let asked = ask(api, found, desired).await?;
    answer(api, StatusCode::OK, asked).await
}

/// Writes what the consumer should be doing, and that somebody asks it to try again.
pub(super) async fn ask(
    api: &Api,
    found: Versioned<Consumer>,
    desired: Desired,
) -> Result<Versioned<Consumer>, DocumentsError> {
    let Versioned { value, revision } = found;
    let value = Consumer { desired, attempt: value.attempt + 1, updated_at: Utc::now(), ..value };
    let revision = api.documents.update(value.id, &value, revision).await?;
    Ok(Versioned { value, revision })
}
