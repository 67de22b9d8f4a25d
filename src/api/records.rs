//! Publishing: records in, all of them or none.

mod intake;
mod messagepack;

use std::{borrow::Cow, fmt, ops::ControlFlow};

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Op, Publication, RecordFields, SequinId, SyncId},
    stream::StreamError,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

pub(super) use self::intake::Room;
use self::{
    intake::{Intake, MAX_BODY, too_large},
    messagepack::Broken,
};
use super::{
    State,
    body::field_problem,
    problem::{FieldProblem, Problem},
};

/// How many wrong fields are named: enough to see what is wrong, few enough to read.
const MAX_ERRORS: usize = 100;

/// A record, as it comes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordRequest<'a> {
    #[serde(default)]
    op: OpRequest,
    #[serde(borrow)]
    provider: Cow<'a, str>,
    sync_id: Uuid,
    #[serde(borrow, default)]
    sync_external_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sync_metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    collection_id: Cow<'a, str>,
    #[serde(borrow)]
    upstream_id: Cow<'a, str>,
    #[serde(default)]
    sequin_id: Option<Uuid>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    upstream_created_at: Option<DateTime<Utc>>,
    #[serde(default)]
    upstream_updated_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Serialize)]
pub(super) struct Accepted {
    accepted: usize,
    /// The position of the last record; null if there was none.
    last_updated_idx: Option<u64>,
}

/// What a request turns into, and which line each record came from.
#[derive(Default)]
struct Draft {
    publication: Publication,
    lines: Vec<usize>,
    errors: Vec<FieldProblem>,
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

    fn read(self, body: &[u8]) -> Result<Draft, Problem> {
        match self {
            Self::Ndjson => Ok(Draft::of_lines(body)),
            Self::Json => Draft::of_array(body),
            Self::MessagePack => Draft::of_messagepack(body),
        }
    }
}

pub(super) async fn publish(api: State, request: Request) -> Result<Json<Accepted>, Problem> {
    let format = Format::of(request.headers())?;
    let Intake { body, room } = api.publishing.take_in(request, format.growth()).await?;
    let read = tokio::task::spawn_blocking(move || (format.read(&body), room));
    let (draft, _room) = read.await.map_err(|error| Problem::internal(&error))?;
    let draft = draft?;
    if !draft.errors.is_empty() {
        return Err(Problem::invalid(draft.errors).with_detail("nothing was accepted: see errors"));
    }
    let accepted = draft.lines.len();
    if accepted == 0 {
        return Ok(Json(Accepted { accepted, last_updated_idx: None }));
    }
    let _turn = api.replacing.read().await;
    match api.stream.publish(draft.publication).await {
        Ok(last) => Ok(Json(Accepted { accepted, last_updated_idx: Some(last.0) })),
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
    fn of_about(bytes: usize) -> Self {
        Self { publication: Publication::with_capacity(bytes), ..Self::default() }
    }

    /// One record a line; empty lines are passed over, and counted.
    fn of_lines(body: &[u8]) -> Self {
        let mut draft = Self::of_about(body.len());
        let now = Utc::now();
        for (line, text) in (1..).zip(body.split(|&byte| byte == b'\n')) {
            if !text.trim_ascii().is_empty() && draft.add(line, text, now).is_break() {
                break;
            }
        }
        draft
    }

    /// An array of records; its elements count as lines.
    fn of_array(body: &[u8]) -> Result<Self, Problem> {
        let mut draft = Self::of_about(body.len());
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let read = deserializer.deserialize_seq(Elements { draft: &mut draft, now: Utc::now() });
        match read.and_then(|()| deserializer.end()) {
            Ok(()) => Ok(draft),
            Err(error) if error.is_data() => Err(Problem::invalid_field("body", "takes an array of records")),
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
        }
    }

    /// MessagePack; its maps count as lines.
    fn of_messagepack(body: &[u8]) -> Result<Self, Problem> {
        let broken = |broken| match broken {
            Broken::TooLong => too_large("the body, as JSON,"),
            broken => Problem::new(StatusCode::BAD_REQUEST, format!("the body is not MessagePack: {broken}")),
        };
        let mut draft = Self::of_about(body.len());
        let now = Utc::now();
        let mut records = messagepack::Records::of(body, MAX_BODY).map_err(broken)?;
        let mut line = 0;
        while let Some(record) = records.next().map_err(broken)? {
            line += 1;
            let added = match record {
                Ok(text) => draft.add(line, text, now),
                Err(problem) => draft.refuse(line, [problem]),
            };
            if added.is_break() {
                break;
            }
        }
        Ok(draft)
    }

    /// Adds one record, or what is wrong with it. Breaks off when there is enough to read.
    fn add(&mut self, line: usize, text: &[u8], now: DateTime<Utc>) -> ControlFlow<()> {
        match self.try_add(line, text, now) {
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
        let (provider, record) = request
            .fields()
            .check(now)
            .map_err(|errors| errors.into_iter().map(FieldProblem::from).collect::<Vec<_>>())?;
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
        Err(error) if error.inner().is_data() => field_problem(&error),
        Err(error) => FieldProblem::new("record", format!("is not JSON: {}", error.inner())),
        Ok(_) => FieldProblem::new("record", "has something after its end"),
    }
}
