//! What a node tells of itself: by OpenTelemetry to a collector, and to those who scrape it.

use std::net::{Ipv4Addr, TcpListener};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Answer, Api, TOKEN, send},
    database::Database,
    eventually, holds,
    model::{HUBSPOT, contact, lines, sync},
    node::{Node, refuse_to_start},
    receiver::{Metric, Receiver, Span},
    setup::Setup,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// The trace that a publication is a part of.
const PUBLISHED: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The same of one that its caller does not keep.
const NOT_KEPT: &str = "5b8efff798038103d269b633813fc60c";
const CALLER: &str = "b7ad6b7169203331";

/// What a node says when it begins to lose telemetry.
const LOST: &str = "telemetry does not arrive";

async fn start(settings: &[(&str, String)]) -> Node {
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Node::start_with(tempfile::tempdir().expect("a directory"), &settings).await
}

/// A request whose sender says that it is a part of a trace.
async fn ask(api: &Api, token: &str) -> Answer {
    let request = api.anonymous(Method::GET, "/v1/targets/somebody?password=s3cret").bearer_auth(token);
    send(request.header("traceparent", format!("00-{TRACE}-{CALLER}-01"))).await
}

/// The token of somebody who may do little.
async fn publisher(api: &Api) -> String {
    let made = api.post("/v1/tokens", &json!({"name": "ingest", "role": "publish"})).await.expect(201);
    made["token"].as_str().expect("a token").into()
}

/// A request that the node has something to say about, however often it comes.
async fn be_forbidden(api: &Api, token: &str) {
    send(api.anonymous(Method::GET, "/v1/targets").bearer_auth(token)).await.expect_problem(403);
}

/// A request of somebody who is not let in, which the node has something to say about, and the same of somebody who is.
async fn be_refused(api: &Api) {
    send(api.anonymous(Method::GET, "/livez")).await.expect(200);
    ask(api, "not a token").await.expect_problem(401);
    ask(api, TOKEN).await.expect_problem(404);
}

fn status(span: &Span) -> &str {
    span.attributes.get("http.response.status_code").map_or("", String::as_str)
}

/// Checks what came of the one that was let in.
async fn check_admitted(receiver: &Receiver) {
    let admitted = receiver.span_where("the request", |span| span.trace == TRACE).await;
    assert_eq!((admitted.parent.as_str(), admitted.links.len()), (CALLER, 0));
    assert_eq!(status(&admitted), "404", "who is not let in has no say in what is traced");
}

/// Checks what came of the one that was not.
async fn check_refused(receiver: &Receiver, node: &Node) {
    let is_refused = |span: &Span| status(span) == "401" && span.name.contains("targets");
    let span = receiver.span_where("the request that was refused", is_refused).await;
    assert_eq!((span.name.as_str(), span.kind), ("GET /v1/targets/{target}", SpanKind::Server));
    assert_eq!((span.parent.as_str(), span.links.len()), ("", 0));
    assert!(!receiver.spans().iter().any(|span| span.name.contains("livez")), "{:?}", receiver.spans());
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v1/targets/{target}"),
        ("http.response.status_code", "401"),
        ("url.path", "/v1/targets/somebody"),
        ("url.scheme", "http"),
    ] {
        assert_eq!(span.attributes.get(name).map(String::as_str), Some(value), "{name} of {span:?}");
    }
    assert!(!format!("{span:?}").contains("s3cret"), "{span:?}");

    let log = receiver.log_where("the refusal", |log| log.body.contains("the token is not valid")).await;
    assert_eq!((&log.trace, &log.span), (&span.trace, &span.id));
    assert_eq!(log.attributes.get("from").map(String::as_str), Some("127.0.0.1"), "{log:?}");
    let lines = node.log();
    let line = lines.lines().find(|line| line.contains("the token is not valid")).expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["trace_id"], &line["span_id"]), (&json!(span.trace), &json!(span.id)));
}

/// Publishes a record as a part of a trace, and waits until it is in the table.
async fn publish(setup: &Setup, trace: &str, flags: &str) {
    let request = setup.node.api.request(Method::POST, "/v1/records").header("content-type", "application/x-ndjson");
    let request = request.header("traceparent", format!("00-{trace}-{CALLER}-{flags}"));
    let published = send(request.body(lines(&[contact(sync(1), trace, json!({}))]))).await.expect(200);
    setup.reached(HUBSPOT, published["last_updated_idx"].as_i64().expect("a position")).await;
}

/// Checks that a publication leads from its caller to its request and on, and that the batch with its record leads back to it.
async fn check_publication(receiver: &Receiver) {
    let of_caller = |span: &Span| span.trace == PUBLISHED && span.parent == CALLER;
    let request = receiver.span_where("the request to publish", of_caller).await;
    assert_eq!((request.name.as_str(), request.kind), ("POST /v1/records", SpanKind::Server));
    let published = receiver.span_where("publishing", |span| span.parent == request.id).await;
    assert_eq!((published.name.as_str(), published.kind), ("publish hubspot", SpanKind::Producer));
    assert_eq!(published.trace, PUBLISHED);
    let link = (published.trace.clone(), published.id.clone());
    let applied = receiver.span_where("applying", |span| span.links.contains(&link)).await;
    assert_eq!((applied.name.as_str(), applied.kind), ("apply hubspot", SpanKind::Consumer));
    assert!(applied.parent.is_empty() && applied.trace != PUBLISHED, "{applied:?}");
    let step = receiver.span_where("the database's work", |span| span.parent == applied.id).await;
    assert_eq!(step.trace, applied.trace);
}

/// Checks what the node measures of itself: the unit of each metric, and that each is described.
async fn check_metrics(receiver: &Receiver) {
    for (name, unit) in [
        ("http.server.request.duration", "s"),
        ("http.server.active_requests", "{request}"),
        ("process.cpu.time", "s"),
        ("process.memory.usage", "By"),
        ("process.thread.count", "{thread}"),
        ("process.unix.file_descriptor.count", "{file_descriptor}"),
        ("process.uptime", "s"),
        ("tokio.runtime.workers", "{worker}"),
        ("tokio.runtime.alive_tasks", "{task}"),
        ("tokio.runtime.global_queue_depth", "{task}"),
        ("tokio.runtime.busy_time", "s"),
    ] {
        let metric = receiver.metric(name).await;
        assert_eq!(metric.unit, unit, "{name}");
        assert!(!metric.description.is_empty() && !metric.points.is_empty(), "{name}: {metric:?}");
    }
    let refused = [("http.route", "/v1/targets/{target}"), ("http.response.status_code", "401")];
    let is_there = |metric: &Metric| metric.value(&refused) == Some(1.0);
    receiver.metric_where("http.server.request.duration", is_there).await;
    let memory = receiver.metric("process.memory.usage").await.value(&[]).expect("a value");
    assert!((1e6..1e12).contains(&memory), "{memory}");
    for mode in ["user", "system"] {
        assert!(receiver.metric("process.cpu.time").await.value(&[("cpu.mode", mode)]).is_some(), "{mode}");
    }
}

#[tokio::test]
async fn metrics_a_requests_span_and_its_log_records_go_to_a_collector_by_grpc() {
    let receiver = Receiver::start().await;
    let mut settings = receiver.settings("grpc");
    settings.extend([("SEQUIN_LOG", "json".into()), ("SEQUIN_CLUSTER", "blue".into()), ("SEQUIN_NODE", "n1".into())]);
    settings.push(("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test".into()));
    settings.push(("OTEL_TRACES_SAMPLER", "parentbased_always_on".into()));
    let setup = Setup::with(start(&settings).await, Database::create().await).await;
    let node = &setup.node;
    be_refused(&node.api).await;
    send(node.api.anonymous(Method::GET, "/v0/nothing")).await.expect_problem(401);
    setup.start_hubspot().await;
    publish(&setup, PUBLISHED, "01").await;

    check_admitted(&receiver).await;
    check_refused(&receiver, node).await;
    check_publication(&receiver).await;
    check_metrics(&receiver).await;
    let (of_consumer, of_pool) = ([("sequin.consumer", HUBSPOT)], [("db.client.connection.pool.name", "app")]);
    let is_counted = |metric: &Metric| metric.value(&of_consumer) == Some(1.0);
    assert_eq!(receiver.metric_where("sequin.consumer.applied", is_counted).await.unit, "{record}");
    let is_connected = |metric: &Metric| metric.value(&of_pool).is_some_and(|connections| connections >= 1.0);
    assert_eq!(receiver.metric_where("db.client.connection.count", is_connected).await.unit, "{connection}");
    let has_unmatched =
        |metric: &Metric| metric.points.iter().any(|point| !point.attributes.contains_key("http.route"));
    receiver.metric_where("http.server.request.duration", has_unmatched).await;
    let resource = receiver.resource();
    for (name, value) in [
        ("service.name", "sequin"),
        ("service.namespace", "blue"),
        ("service.instance.id", "n1"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(resource.get(name).map(String::as_str), Some(value), "{name} of {resource:?}");
    }
}

#[tokio::test]
async fn what_was_not_sent_yet_goes_to_a_collector_by_http_when_the_node_ends_and_no_trace_that_nobody_keeps() {
    let receiver = Receiver::start().await;
    let mut settings = receiver.unhurried_settings("http/protobuf");
    settings.extend([("SEQUIN_LOG", "json".into()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000".into())]);
    settings.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".into()));
    settings.push(("OTEL_TRACES_SAMPLER_ARG", "0".into()));
    let mut setup = Setup::with(start(&settings).await, Database::create().await).await;
    be_refused(&setup.node.api).await;
    setup.start_hubspot().await;
    publish(&setup, PUBLISHED, "01").await;
    publish(&setup, NOT_KEPT, "00").await;
    assert!(receiver.spans().is_empty(), "{:?}", receiver.spans());
    assert!(setup.node.sigterm().await.success());
    assert!(receiver.spans().iter().any(|span| span.trace == TRACE), "{:?}", receiver.spans());
    check_admitted(&receiver).await;
    receiver.log_where("the refusal", |log| log.body.contains("the token is not valid")).await;
    check_publication(&receiver).await;
    check_metrics(&receiver).await;
    let spans = receiver.spans();
    let of_batches: Vec<_> = spans.iter().filter(|span| span.name.starts_with("apply")).collect();
    let [applied] = of_batches[..] else { panic!("one batch that is kept, not {of_batches:?}") };
    let is_kept = |span: &Span| [TRACE, PUBLISHED, &applied.trace].contains(&span.trace.as_str());
    assert!(spans.iter().all(is_kept), "{spans:?}");
}

#[tokio::test]
async fn a_collector_that_refuses_is_told_of_once_and_once_more_when_it_takes_again() {
    let receiver = Receiver::start().await;
    receiver.refuse(true);
    let mut node = start(&receiver.settings("http/protobuf")).await;
    let token = publisher(&node.api).await;
    let count = |node: &Node, line: &str, signal: &str| {
        let log = node.log();
        log.lines().filter(|found| found.contains(line) && found.contains(&format!("\"{signal}\""))).count()
    };
    let signals = ["metrics", "traces", "logs"];
    eventually("several attempts", async || {
        be_forbidden(&node.api, &token).await;
        let told = signals.map(|signal| count(&node, LOST, signal));
        holds(receiver.refused() >= 12 && told.iter().all(|times| *times > 0), || format!("{told:?}"))
    })
    .await;
    assert_eq!(signals.map(|signal| count(&node, LOST, signal)), [1; 3]);
    assert!(!node.log().contains("ExportError"), "the SDK tells of each attempt");
    receiver.refuse(false);
    eventually("it to be told", async || {
        be_forbidden(&node.api, &token).await;
        let told = signals.map(|signal| count(&node, "telemetry arrives again", signal));
        holds(told == [1; 3], || format!("{told:?}"))
    })
    .await;
    assert!(node.sigterm().await.success());
}

#[tokio::test]
async fn a_collector_that_says_nothing_keeps_a_node_neither_from_working_nor_from_ending() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    let lives = async |protocol: &str| {
        let mut node = start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.into()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500".into()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50".into()),
        ])
        .await;
        let token = publisher(&node.api).await;
        eventually("the node to notice", async || {
            be_forbidden(&node.api, &token).await;
            holds(node.log().contains(LOST), || node.log())
        })
        .await;
        node.api.get("/v1/targets").await.expect(200);
        assert!(node.sigterm().await.success(), "{protocol}");
    };
    tokio::join!(lives("grpc"), lives("http/protobuf"));
}

#[tokio::test]
async fn a_collector_is_reached_by_tls_if_its_certificate_is_trusted_and_not_otherwise() {
    let receiver = Receiver::start_with_tls().await;
    let mut settings = receiver.settings("grpc");
    settings.push(("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf".into()));
    settings.push(("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret".into()));
    settings.push(("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".into()));
    let node = start(&settings).await;
    let token = publisher(&node.api).await;
    eventually("the node to notice", async || {
        be_forbidden(&node.api, &token).await;
        let log = node.log();
        let lost = |signal: &str| log.lines().any(|line| line.contains(LOST) && line.contains(signal));
        holds(["metrics", "traces", "logs"].into_iter().all(lost), || log.clone())
    })
    .await;
    assert!(receiver.spans().is_empty() && receiver.authorizations().is_empty());
    drop(node);

    settings.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", receiver.certificate().display().to_string()));
    let node = start(&settings).await;
    be_refused(&node.api).await;
    receiver.span_where("the request", |span| span.trace == TRACE).await;
    receiver.log_where("the refusal", |log| log.body.contains("the token is not valid")).await;
    receiver.metric("process.uptime").await;
    assert_eq!(receiver.authorizations().into_iter().collect::<Vec<_>>(), ["Bearer s3cret"]);
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_with_a_line_that_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("SEQUIN_METRICS", "private"),
    ] {
        let refusal = refuse_to_start(directory.path(), &[(name, value)]).await;
        assert_eq!(refusal.status, Some(2), "{refusal:?}");
        assert!(matches!(&refusal.lines[..], [line] if line.contains(name)), "{refusal:?}");
    }
}

#[tokio::test]
async fn metrics_are_for_readers_unless_the_settings_open_or_close_them() {
    let with = async |access: &str| start(&[("SEQUIN_METRICS", access.into())]).await;
    let (usual, public, off) = tokio::join!(Node::start(), with("public"), with("off"));
    let scrape = async |api: &Api, token: &str| send(api.anonymous(Method::GET, "/metrics").bearer_auth(token)).await;

    send(usual.api.anonymous(Method::GET, "/metrics")).await.expect_problem(401);
    for (role, status) in [("publish", 403), ("read", 200)] {
        let token = usual.api.post("/v1/tokens", &json!({"name": role, "role": role})).await.expect(201);
        assert_eq!(scrape(&usual.api, token["token"].as_str().expect("a token")).await.status, status, "{role}");
    }
    let answer = usual.api.get("/metrics").await;
    assert_eq!(answer.content_type, "text/plain; version=0.0.4");
    let text = answer.expect(200);
    let text = text.as_str().expect("text");
    for line in [
        "# TYPE http_server_request_duration_seconds histogram",
        "# TYPE process_cpu_time_seconds_total counter",
        "# TYPE process_memory_usage_bytes gauge",
        "# TYPE tokio_runtime_busy_time_seconds_total counter",
        "http_route=\"/v1/tokens\"",
        "service_name=\"sequin\"",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let of_requests = text.lines().filter(|line| line.starts_with("http_server_request_duration_seconds_bucket"));
    assert!(of_requests.clone().any(|line| line.contains("le=\"0.075\"")), "{text}");

    send(public.api.anonymous(Method::GET, "/metrics")).await.expect(200);
    send(off.api.anonymous(Method::GET, "/metrics")).await.expect_problem(401);
    off.api.get("/metrics").await.expect_problem(404);
}
