//! Publishing: records in, all of them or none.

mod intake;
mod messagepack;
mod span;

use std::{borrow::Cow, fmt, ops::ControlFlow, sync::Arc};

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Op, Publication, RecordFields, SequinId, SyncId, TraceContext},
    stream::StreamError,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{json, value::RawValue};
use utoipa::ToSchema;
use uuid::Uuid;

pub(super) use self::intake::Room;
use self::{
    intake::{Intake, MAX_BODY, too_large},
    messagepack::Broken,
    span::PublishSpan,
};
use super::{
    State,
    body::field_problem,
    openapi::UnsupportedMediaType,
    problem::{FieldProblem, Problem},
    syncs::settings::AllSettings,
};

/// How many times longer the envelopes of a body may become than the body, and how much they may at least: what a sync is
/// described with goes into each of its records that leaves it out.
const GROWTH: usize = 4;
const SLACK: usize = 1024 * 1024;

/// How many wrong fields are named: enough to see what is wrong, few enough to read.
const MAX_ERRORS: usize = 100;

/// A version of a record.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Record, example = example)]
struct RecordRequest<'a> {
    #[serde(default)]
    #[schema(value_type = OpRequest)]
    op: OpRequest,
    /// The API that it comes from, such as `hubspot`.
    #[serde(borrow)]
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    provider: Cow<'a, str>,
    sync_id: Uuid,
    /// The publisher's own id of the sync.
    #[serde(borrow, default)]
    sync_external_id: Option<Cow<'a, str>>,
    /// The publisher's notes on the sync, of at most 64 KiB.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    sync_metadata: Option<&'a RawValue>,
    /// What kind of record it is, such as `contact`: at most 1,024 bytes.
    #[serde(borrow)]
    #[schema(min_length = 1, max_length = 1024)]
    collection_id: Cow<'a, str>,
    /// Its id in the API: at most 1,024 bytes.
    #[serde(borrow)]
    #[schema(min_length = 1, max_length = 1024)]
    upstream_id: Cow<'a, str>,
    /// Derived from the sync, the collection and the upstream id if it is not given.
    #[serde(default)]
    sequin_id: Option<Uuid>,
    /// Any JSON of at most 4 MiB, kept as it came. Needed unless `op` is `delete`.
    #[serde(borrow, default, deserialize_with = "even_null")]
    #[schema(value_type = Value)]
    payload: Option<&'a RawValue>,
    /// The time of publishing if it is not given.
    #[serde(default)]
    upstream_created_at: Option<DateTime<Utc>>,
    /// The time of publishing if it is not given.
    #[serde(default)]
    upstream_updated_at: Option<DateTime<Utc>>,
}

/// What is done with it.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Op)]
enum OpRequest {
    #[default]
    Upsert,
    Delete,
}

/// A payload of `null` is a payload.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What was accepted.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    /// How many records.
    accepted: usize,
    /// The position of the last record; null if there was none.
    #[schema(required)]
    last_updated_idx: Option<u64>,
}

/// What a request turns into, and which line each record came from.
#[derive(Default)]
struct Draft {
    publication: Publication,
    /// What a record leaves out of its sync.
    settings: Arc<AllSettings>,
    lines: Vec<usize>,
    errors: Vec<FieldProblem>,
    /// How many bytes of envelopes it may become.
    most: usize,
    is_too_large: bool,
}

fn example() -> serde_json::Value {
    json!({
        "provider": "hubspot", "sync_id": "0dea6e4e-64b9-4b1c-ac03-2e6b25795c18", "collection_id": "contact",
        "upstream_id": "101", "payload": {"email": "ada@example.com"},
    })
}

fn example_line() -> String {
    format!("{}\n", example())
}

/// How the records of a body are written.
#[derive(Clone, Copy)]
enum Format {
    Ndjson,
    Json,
    MessagePack,
}

impl Format {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match content_type(headers) {
            "application/x-ndjson" | "application/ndjson" => Ok(Self::Ndjson),
            "application/json" => Ok(Self::Json),
            "application/msgpack" | "application/vnd.msgpack" | "application/x-msgpack" => Ok(Self::MessagePack),
            other => {
                let detail = format!(
                    "the body is {other:?}: send application/x-ndjson, application/json or application/vnd.msgpack"
                );
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
            }
        }
    }

    /// How many times longer a body may become before its records are taken.
    fn growth(self) -> usize {
        match self {
            Self::Ndjson | Self::Json => 1,
            Self::MessagePack => messagepack::GROWTH,
        }
    }

    /// Makes what is published of a body, by the span of this trace context.
    fn read(self, body: &[u8], settings: Arc<AllSettings>, trace: Option<TraceContext>) -> Result<Draft, Problem> {
        let draft = Draft::of_about(body.len(), settings, trace);
        match self {
            Self::Ndjson => Ok(draft.with_lines(body)),
            Self::Json => draft.with_array(body),
            Self::MessagePack => draft.with_messagepack(body),
        }
    }
}

/// Publishes records, all of them or none.
///
/// One record a line, an array of them, or MessagePack: an array or a sequence of maps with the same fields. 64 MiB at most, which
/// may be compressed (`Content-Encoding: gzip` or `zstd`). The answer 200 says that the records are on disk. After no answer,
/// publish them again, which does no harm. `errors` of a 422 bear the number of the line or element.
#[utoipa::path(post, path = "/v1/records", tag = "records", operation_id = "publish",
    request_body(content(
        (String = "application/x-ndjson", example = example_line),
        (Vec<RecordRequest<'_>> = "application/json"),
        (Vec<RecordRequest<'_>> = "application/vnd.msgpack"),
    )),
    responses((status = 200, description = "All of them are on disk", body = Accepted), UnsupportedMediaType))]
pub(super) async fn publish(api: State, request: Request) -> Result<Json<Accepted>, Problem> {
    let format = Format::of(request.headers())?;
    let intake = api.publishing.take_in(request, format.growth()).await?;
    let span = PublishSpan::begin();
    accept(api, format, intake, &span).await.inspect_err(|problem| span.failed(problem))
}

async fn accept(
    api: State,
    format: Format,
    Intake { body, room }: Intake,
    span: &PublishSpan,
) -> Result<Json<Accepted>, Problem> {
    let (settings, trace) = (api.settings.now(), span.trace());
    let read = tokio::task::spawn_blocking(move || (format.read(&body, settings, trace), room));
    let (draft, room) = read.await.map_err(|error| Problem::internal(&error))?;
    let draft = draft?;
    if draft.is_too_large {
        return Err(too_large("with what their syncs are described with, what the records become"));
    }
    if !draft.errors.is_empty() {
        return Err(Problem::invalid(draft.errors).with_detail("nothing was accepted: see errors"));
    }
    let accepted = draft.lines.len();
    if accepted == 0 {
        return Ok(Json(Accepted { accepted, last_updated_idx: None }));
    }
    span.says(&draft.publication);
    let api = Arc::clone(&api);
    // In a task of its own: whoever asked may go away, and what is on its way to the disk keeps its room.
    let published = tokio::spawn(span.run(async move {
        let published = api.published.publish(&*api.stream, draft.publication).await;
        drop(room);
        published
    }));
    match published.await.map_err(|error| Problem::internal(&error))? {
        Ok(published) => Ok(Json(Accepted { accepted, last_updated_idx: Some(published.last.0) })),
        Err(StreamError::SyncOfAnotherProvider { record, provider, .. }) => {
            let problem = other_provider(draft.lines.get(record).copied(), provider.as_str());
            Err(Problem::invalid([problem]).with_detail("nothing was accepted: a sync belongs to another provider"))
        }
        Err(error) => Err(error.into()),
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn other_provider(line: Option<usize>, provider: &str) -> FieldProblem {
    FieldProblem { line, ..FieldProblem::new("sync_id", format!("belongs to provider {provider}")) }
}

impl Draft {
    /// An empty draft; the envelopes of records are about as long as they are.
    fn of_about(bytes: usize, settings: Arc<AllSettings>, trace: Option<TraceContext>) -> Self {
        let most = bytes.saturating_mul(GROWTH).saturating_add(SLACK);
        let publication = Publication::with_capacity(bytes).with_trace(trace);
        Self { publication, settings, most, ..Self::default() }
    }

    /// One record a line; empty lines are passed over, and counted.
    fn with_lines(mut self, body: &[u8]) -> Self {
        let now = Utc::now();
        for (line, text) in (1..).zip(body.split(|&byte| byte == b'\n')) {
            if !text.trim_ascii().is_empty() && self.add(line, text, now).is_break() {
                break;
            }
        }
        self
    }

    /// An array of records; its elements count as lines.
    fn with_array(mut self, body: &[u8]) -> Result<Self, Problem> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let read = deserializer.deserialize_seq(Elements { draft: &mut self, now: Utc::now() });
        match read.and_then(|()| deserializer.end()) {
            Ok(()) => Ok(self),
            Err(error) if error.is_data() => Err(Problem::invalid_field("body", "takes an array of records")),
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
        }
    }

    /// MessagePack; its maps count as lines.
    fn with_messagepack(mut self, body: &[u8]) -> Result<Self, Problem> {
        let broken = |broken| match broken {
            Broken::TooLong => too_large("the body, as JSON,"),
            broken => Problem::new(StatusCode::BAD_REQUEST, format!("the body is not MessagePack: {broken}")),
        };
        let now = Utc::now();
        let mut records = messagepack::Records::of(body, MAX_BODY).map_err(broken)?;
        let mut line = 0;
        while let Some(record) = records.next().map_err(broken)? {
            line += 1;
            let added = match record {
                Ok(text) => self.add(line, text, now),
                Err(problem) => self.refuse(line, [problem]),
            };
            if added.is_break() {
                break;
            }
        }
        Ok(self)
    }

    /// Adds one record, or what is wrong with it. Breaks off when there is enough to read.
    fn add(&mut self, line: usize, text: &[u8], now: DateTime<Utc>) -> ControlFlow<()> {
        match self.try_add(line, text, now) {
            Ok(()) if self.publication.size() > self.most => {
                self.is_too_large = true;
                ControlFlow::Break(())
            }
            Ok(()) => ControlFlow::Continue(()),
            Err(errors) => self.refuse(line, errors),
        }
    }

    fn refuse(&mut self, line: usize, errors: impl IntoIterator<Item = FieldProblem>) -> ControlFlow<()> {
        self.errors.extend(errors.into_iter().map(|error| FieldProblem { line: Some(line), ..error }));
        if self.errors.len() < MAX_ERRORS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn try_add(&mut self, line: usize, text: &[u8], now: DateTime<Utc>) -> Result<(), Vec<FieldProblem>> {
        let request: RecordRequest<'_> = serde_json::from_slice(text).map_err(|_| vec![explain(text)])?;
        let mut fields = request.fields();
        if let Some(settings) = self.settings.get(&fields.sync_id) {
            fields.sync_external_id = fields.sync_external_id.or(settings.external_id.as_deref());
            fields.sync_metadata = fields.sync_metadata.or(Some(&settings.metadata));
        }
        let (provider, record) =
            fields.check(now).map_err(|errors| errors.into_iter().map(FieldProblem::from).collect::<Vec<_>>())?;
        let pushed = self.publication.push(&provider, &record);
        pushed.map_err(|other| vec![other_provider(None, other.as_str())])?;
        self.lines.push(line);
        Ok(())
    }
}

/// Adds the elements of an array as they are read: a list of them would take more memory than they do.
struct Elements<'d> {
    draft: &'d mut Draft,
    now: DateTime<Utc>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut line = 0;
        while let Some(element) = elements.next_element::<&RawValue>()? {
            line += 1;
            if self.draft.add(line, element.get().as_bytes(), self.now).is_break() {
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(())
    }
}

impl RecordRequest<'_> {
    fn fields(&self) -> RecordFields<'_> {
        RecordFields {
            op: match self.op {
                OpRequest::Upsert => Op::Upsert,
                OpRequest::Delete => Op::Delete,
            },
            provider: &self.provider,
            sync_id: SyncId(self.sync_id),
            sync_external_id: self.sync_external_id.as_deref(),
            sync_metadata: self.sync_metadata.map(RawValue::get),
            collection_id: &self.collection_id,
            upstream_id: &self.upstream_id,
            sequin_id: self.sequin_id.map(SequinId),
            payload: self.payload.map(RawValue::get),
            upstream_created_at: self.upstream_created_at,
            upstream_updated_at: self.upstream_updated_at,
        }
    }
}

/// Reads a record that is wrong once more, slowly, to say where.
fn explain(text: &[u8]) -> FieldProblem {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, RecordRequest<'_>>(&mut deserializer) {
        Err(error) if error.inner().is_data() => field_problem(&error, "record"),
        Err(error) => FieldProblem::new("record", format!("is not JSON: {}", error.inner())),
        Ok(_) => FieldProblem::new("record", "has something after its end"),
    }
}
