//! Traces: a publication, and the batches by which its records reach a table, as spans that lead to each other.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceId, Value as Said, global,
    trace::{Link, SpanKind, Status},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SamplingResult, SdkTracerProvider, ShouldSample, Span, SpanData, SpanProcessor},
};
use sequin::{config::Config, service::Service};
use sequin_actors::{
    EngineSettings,
    model::{Secret, SequinId, SyncId, TraceContext, decode_trace},
    stream::{RecordStream, SqliteStream},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    api::{Api, TOKEN},
    database::{Database, PASSWORD, SCHEMA},
    eventually,
    model::{HUBSPOT, Version, contact, lines, no_contact, sync},
};

/// What the consumer, its table and its target are called: by that its spans are known from those of other tests.
const NAME: &str = "traced";
const APPLY: &str = "apply traced";
const INSERT: &str = "INSERT sequin.traced";
const PUBLISH: &str = "publish hubspot";

/// What no span may hold.
const UPSTREAM_ID: &str = "upstream-4711";
const PAYLOAD: &str = "ada@example.com";

/// Every span of this test, and whether those that begin are sampled.
#[derive(Debug, Default)]
struct Recorder {
    traces: Mutex<HashSet<TraceId>>,
    begun: Mutex<HashMap<SpanId, String>>,
    ended: Mutex<Vec<SpanData>>,
    is_off: AtomicBool,
}

#[derive(Clone, Debug)]
struct Recording(Arc<Recorder>);

impl SpanProcessor for Recording {
    fn on_start(&self, span: &mut Span, _: &Context) {
        let span = span.exported_data().expect("one that is sampled");
        let is_ours = said(&span, "sequin.target") == Some(NAME.into()) || span.name.starts_with("publish");
        let mut traces = self.0.traces.lock().expect("no panic");
        if is_ours {
            traces.insert(span.span_context.trace_id());
        } else if !traces.contains(&span.span_context.trace_id()) {
            return;
        }
        self.0.begun.lock().expect("no panic").insert(span.span_context.span_id(), span.name.into_owned());
    }

    fn on_end(&self, span: SpanData) {
        if self.0.traces.lock().expect("no panic").contains(&span.span_context.trace_id()) {
            self.0.ended.lock().expect("no panic").push(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl ShouldSample for Recording {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let is_off = self.0.is_off.load(Ordering::SeqCst);
        let sampler = Sampler::ParentBased(Box::new(if is_off { Sampler::AlwaysOff } else { Sampler::AlwaysOn }));
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

impl Recorder {
    /// One that takes the spans of this process from now on.
    fn install() -> Arc<Self> {
        let recording = Recording(Arc::default());
        let provider = SdkTracerProvider::builder().with_sampler(recording.clone());
        global::set_tracer_provider(provider.with_span_processor(recording.clone()).build());
        recording.0
    }

    fn ended(&self) -> Vec<SpanData> {
        self.ended.lock().expect("no panic").clone()
    }

    /// Waits for a span that is so.
    async fn span(&self, what: &str, is: impl Fn(&SpanData) -> bool) -> SpanData {
        eventually(&format!("a span {what}"), async || {
            let ended = self.ended();
            let names: Vec<_> = ended.iter().map(|span| span.name.clone()).collect();
            ended.into_iter().find(|span| is(span)).ok_or_else(|| format!("there are {names:?}"))
        })
        .await
    }

    /// The names of the spans within another.
    fn steps(&self, of: &SpanData) -> Vec<String> {
        let is_step = |span: &SpanData| span.parent_span_id == of.span_context.span_id();
        let steps = self.ended().into_iter().filter(is_step);
        steps
            .inspect(|step| assert_eq!(step.span_context.trace_id(), of.span_context.trace_id()))
            .map(|step| step.name.into_owned())
            .collect()
    }

    /// Those that have begun and not ended.
    fn open(&self) -> Vec<String> {
        let mut begun = self.begun.lock().expect("no panic").clone();
        for span in self.ended() {
            assert!(begun.remove(&span.span_context.span_id()).is_some(), "{} ended, and never began", span.name);
        }
        begun.into_values().collect()
    }
}

/// A service in this process, with a consumer of HubSpot, and the customer's database.
struct Traced {
    directory: TempDir,
    service: Service,
    api: Api,
    database: Database,
    recorder: Arc<Recorder>,
}

impl Traced {
    async fn start() -> Self {
        let (directory, recorder) = (tempfile::tempdir().expect("a directory"), Recorder::install());
        let config = Config { admin_token: Some(Secret::new(TOKEN)), ..Config::embedded(directory.path(), "test") };
        // One writer, so that what is read together is applied together.
        let settings = EngineSettings { writers: 1, ..EngineSettings::default() };
        let service = Service::start(&config, settings).await.expect("a service");
        let api = Api::new(format!("http://{}", service.address()));
        let database = Database::create().await;
        let target = json!({"name": NAME, "connection": database.connection()});
        api.post("/v1/targets", &target).await.expect(201);
        let filter = json!({"provider": HUBSPOT});
        let consumer = json!({"name": NAME, "target": NAME, "filter": filter, "schema": SCHEMA, "table": NAME});
        api.post("/v1/consumers", &consumer).await.expect(201);
        database.make_table(NAME).await;
        api.act(&format!("/v1/consumers/{NAME}/start")).await.expect(200);
        Self { directory, service, api, database, recorder }
    }

    async fn publish(&self, versions: &[Version]) {
        self.api.publish(lines(versions)).await.expect(200);
    }

    /// Publishes from now on by spans that nobody is to see, or by such that are seen.
    fn samples(&self, samples: bool) {
        self.recorder.is_off.store(!samples, Ordering::SeqCst);
    }

    async fn act(&self, action: &str, state: &str) {
        self.api.act(&format!("/v1/consumers/{NAME}/{action}")).await.expect(200);
        self.api.consumer_is(NAME, state, |consumer| consumer["state"] == state).await;
    }

    /// Stops it, and tells what is written of the traces of these records of the first sync.
    async fn stop(self, upstream_ids: &[&str]) -> Vec<Option<TraceContext>> {
        self.service.stop().await;
        let stream = SqliteStream::open(&self.directory.path().join("records.db")).expect("the stream");
        let mut traces = Vec::new();
        for id in upstream_ids {
            let sync = SyncId(sync(1));
            let latest = stream.latest(sync, SequinId::derive(sync, "contact", id)).await.expect("read");
            traces.push(decode_trace(&latest.expect("a version").envelope));
        }
        traces
    }
}

fn said(span: &SpanData, key: &str) -> Option<Said> {
    span.attributes.iter().find(|attribute| attribute.key.as_str() == key).map(|attribute| attribute.value.clone())
}

#[track_caller]
fn says(span: &SpanData, attributes: &[(&'static str, Said)]) {
    for (key, value) in attributes {
        assert_eq!(said(span, key).as_ref(), Some(value), "{key} of {}: {:?}", span.name, span.attributes);
    }
}

fn links(span: &SpanData) -> Vec<SpanId> {
    span.links.iter().map(|link| link.span_context.span_id()).collect()
}

fn trace_context(span: &SpanData) -> TraceContext {
    let context = &span.span_context;
    TraceContext {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        flags: context.trace_flags().to_u8(),
    }
}

fn is_applied(span: &SpanData) -> bool {
    span.name == APPLY
}

/// The first publication, which comes to rows.
async fn leads_to_what_published_it(traced: &Traced) -> SpanData {
    let recorder = &traced.recorder;
    traced.publish(&[contact(sync(1), UPSTREAM_ID, json!({"email": PAYLOAD})), contact(sync(1), 2, json!({}))]).await;
    let published = recorder.span("of publishing", |span| span.name == PUBLISH).await;
    assert_eq!((&published.span_kind, published.parent_span_id), (&SpanKind::Producer, SpanId::INVALID));
    says(
        &published,
        &[
            ("messaging.system", "sequin".into()),
            ("messaging.operation.name", "publish".into()),
            ("messaging.operation.type", "send".into()),
            ("messaging.destination.name", HUBSPOT.into()),
            ("messaging.batch.message_count", 2.into()),
        ],
    );
    let applied = recorder.span("of applying", is_applied).await;
    assert_eq!((&applied.span_kind, applied.parent_span_id), (&SpanKind::Consumer, SpanId::INVALID));
    assert_ne!(applied.span_context.trace_id(), published.span_context.trace_id());
    assert_eq!(links(&applied), [published.span_context.span_id()]);
    says(
        &applied,
        &[
            ("messaging.system", "sequin".into()),
            ("messaging.operation.name", "apply".into()),
            ("messaging.operation.type", "process".into()),
            ("messaging.destination.name", HUBSPOT.into()),
            ("messaging.consumer.group.name", NAME.into()),
            ("messaging.batch.message_count", 2.into()),
            ("sequin.consumer", NAME.into()),
            ("sequin.target", NAME.into()),
            ("sequin.publications", 1.into()),
            ("sequin.upserts", 2.into()),
            ("sequin.deletes", 0.into()),
        ],
    );
    assert_eq!(recorder.steps(&applied), ["get session", INSERT]);
    let insert = recorder.span("of the statement", |span| span.name == INSERT).await;
    assert_eq!(insert.span_kind, SpanKind::Client);
    says(
        &insert,
        &[
            ("db.system.name", "postgresql".into()),
            ("db.namespace", traced.database.name.clone().into()),
            ("db.operation.name", "INSERT".into()),
            ("db.collection.name", "sequin.traced".into()),
            ("server.address", "127.0.0.1".into()),
            ("server.port", i64::from(traced.database.server.port()).into()),
        ],
    );
    let prepared = recorder.span("of preparing", |span| span.name == "prepare traced").await;
    assert_eq!(recorder.steps(&prepared), ["get session", "fence", "verify"]);
    recorder.span("of loading", |span| span.name == "load traced").await;
    published
}

/// 40 publications of two records each, of which the first is superseded by one that nobody is to see.
async fn is_linked_to_some_and_counts_all(traced: &Traced) {
    let recorder = &traced.recorder;
    let two = |number: i32| [contact(sync(1), 100 + number, json!({})), contact(sync(1), 200 + number, json!({}))];
    traced.act("pause", "paused").await;
    for number in 0..40 {
        traced.publish(&two(number)).await;
    }
    traced.samples(false);
    traced.publish(&two(0)).await;
    traced.samples(true);
    traced.act("resume", "live").await;
    let many = |span: &SpanData| is_applied(span) && said(span, "messaging.batch.message_count") == Some(80.into());
    let applied = recorder.span("of applying all", many).await;
    says(&applied, &[("sequin.publications", 39.into()), ("sequin.upserts", 80.into())]);
    let published = recorder.ended().into_iter().filter(|span| span.name == PUBLISH);
    let published: Vec<_> = published.map(|span| span.span_context.span_id()).collect();
    // After the one that the first part has published, and the first of these.
    assert_eq!(links(&applied), published[2..34], "the first that still count, in their order");
}

/// A record that the table refuses, a table that is gone, and a request that is wrong.
async fn say_what_failed(traced: &Traced) {
    let recorder = &traced.recorder;
    traced.database.run("alter table sequin.traced add constraint no_nulls check (payload <> 'null')").await;
    traced.publish(&[contact(sync(1), 3, Value::Null)]).await;
    let is_refused = |span: &SpanData| is_applied(span) && said(span, "sequin.upserts") == Some(0.into());
    let refused = recorder.span("with a refusal", is_refused).await;
    assert_eq!(recorder.steps(&refused), ["get session", INSERT, "quarantine"]);
    assert_eq!(refused.status, Status::Unset);
    let failed = recorder.span("that failed", |span| span.status != Status::Unset).await;
    assert_eq!(failed.parent_span_id, refused.span_context.span_id());
    says(&failed, &[("error.type", "check_violation".into()), ("db.response.status_code", "23514".into())]);

    traced.database.run("drop table sequin.traced").await;
    traced.publish(&[no_contact(sync(1), 2)]).await;
    let failed = |span: &SpanData| is_applied(span) && span.status == Status::error("");
    let halted = recorder.span("that says whose fault it is", failed).await;
    says(&halted, &[("error.type", "table".into())]);

    traced.api.publish("{}").await.expect_problem(422);
    let wrong = recorder.span("of a refusal", |span| span.name == "publish").await;
    says(&wrong, &[("error.type", "422".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_leads_to_what_published_it_and_its_spans_end_and_hold_nothing_of_a_record() {
    let traced = Traced::start().await;
    let published = leads_to_what_published_it(&traced).await;
    is_linked_to_some_and_counts_all(&traced).await;
    say_what_failed(&traced).await;

    let recorder = Arc::clone(&traced.recorder);
    // "100" was published again by a span that is not sampled, and "101" was not.
    let written = traced.stop(&[UPSTREAM_ID, "100", "101"]).await;
    assert_eq!(written[..2], [Some(trace_context(&published)), None]);
    assert!(written[2].is_some());
    assert_eq!(recorder.open(), [""; 0]);
    let all = format!("{:?}", recorder.ended());
    for hidden in [UPSTREAM_ID, PAYLOAD, PASSWORD, TOKEN, &sync(1).to_string()] {
        assert!(!all.contains(hidden), "{hidden} in {all}");
    }
}
