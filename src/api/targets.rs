//! Targets: customers' databases.

pub(super) mod compare;
pub(super) mod patch;
mod secret;

use std::collections::HashMap;

use axum::{
    Json,
    extract::Path,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use sequin_actors::{
    model::{
        Connection, Consumer, FieldError, Metadata, Reason, Severity, Target, TargetId, TargetState, TargetStatus, Tls,
        TlsMode,
    },
    store::{DocumentsError, Revision, Versioned},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use self::secret::SecretText;
use super::{
    Api, State, body,
    body::Params,
    problem::Problem,
    resources::{List, PageParams, beside_if_readable, check_if_match, find, with_etag},
};

/// A status that is older than this has nobody who writes it any more. One is written at the end of each probe, and the
/// next takes 30 s of waiting and 10 s of probing at most: one that can't be written is no alarm yet.
const STALE: TimeDelta = TimeDelta::seconds(90);

/// A target, as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetRequest {
    name: String,
    connection: ConnectionRequest,
    #[serde(default = "default_pool_size")]
    pool_size: u32,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionRequest {
    host: String,
    #[serde(default = "default_port")]
    port: u16,
    database: String,
    username: String,
    password: Option<SecretText>,
    #[serde(default)]
    tls: TlsRequest,
    bastion: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsRequest {
    mode: Option<String>,
    ca_pem: Option<String>,
    client_cert_pem: Option<String>,
    client_key_pem: Option<String>,
}

fn default_pool_size() -> u32 {
    4
}

fn default_port() -> u16 {
    5432
}

/// A target, as it is shown.
#[derive(Serialize)]
pub(super) struct TargetView {
    id: Uuid,
    name: String,
    connection: ConnectionView,
    pool_size: u32,
    metadata: Metadata,
    state: TargetState,
    health: HealthView,
    consumers: usize,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct ConnectionView {
    host: String,
    port: u16,
    database: String,
    username: String,
    /// Secrets go in, and never come out.
    password: (),
    password_set: bool,
    tls: TlsView,
    bastion: (),
}

#[derive(Serialize)]
struct TlsView {
    mode: &'static str,
    ca_pem: Option<String>,
    client_cert_pem: (),
    client_key_pem: (),
    client_key_pem_set: bool,
}

/// Whether all is well, and if not, why.
#[derive(Serialize)]
pub(super) struct HealthView {
    pub(super) status: &'static str,
    pub(super) reasons: Vec<Reason>,
    pub(super) checked_at: Option<DateTime<Utc>>,
}

/// What is to be said of a resource when nobody has reported on it for longer than `stale`: the dead-man's switch.
///
/// A report from so far in the future was written before the clock was set back: whoever is alive would have written
/// another since.
pub(super) fn silence(
    reported_at: DateTime<Utc>,
    stale: TimeDelta,
    node: Option<&str>,
    now: DateTime<Utc>,
) -> Option<Reason> {
    let node = node.map_or_else(|| "a node".into(), |node| format!("node {node}"));
    let unheard = format!("nobody has reported on it since {reported_at}");
    let age = now - reported_at;
    let (summary, since, fix) = if age > stale {
        (unheard, reported_at + stale, format!("look whether {node} is alive, and at its log"))
    } else if age < -stale {
        let summary = format!("{unheard}, which is in the future: the clock was set back");
        (summary, now, format!("set the clocks right; look whether {node} is alive, and at its log"))
    } else {
        return None;
    };
    let cause = Some("its node is down, or can't write to the control store".into());
    Some(Reason { code: "status_stale".into(), severity: Severity::Error, summary, since, cause, target: None, fix })
}

impl TargetRequest {
    fn into_target(self, now: DateTime<Utc>) -> Result<Target, Problem> {
        let ConnectionRequest { host, port, database, username, password, tls, bastion } = self.connection;
        let password = password.map(|SecretText(password)| password);
        let mut errors = Vec::new();
        let mut not_yet = |field: &str, is_there: bool| {
            if is_there {
                errors.push(FieldError::new(field, "is not supported by this version"));
            }
        };
        not_yet("connection.bastion", bastion.is_some());
        not_yet("connection.tls.client_cert_pem", tls.client_cert_pem.is_some());
        not_yet("connection.tls.client_key_pem", tls.client_key_pem.is_some());
        let mode = tls.mode.as_deref().map_or(Ok(TlsMode::default()), str::parse);
        let mode = mode.unwrap_or_else(|error: FieldError| {
            errors.push(error);
            TlsMode::default()
        });
        let target = Target {
            id: TargetId::generate(),
            name: self.name,
            connection: Connection { host, port, database, username, password, tls: Tls { mode, ca_pem: tls.ca_pem } },
            pool_size: self.pool_size,
            metadata: self.metadata,
            created_at: now,
            updated_at: now,
        };
        errors.extend(target.check());
        if errors.is_empty() { Ok(target) } else { Err(Problem::invalid(errors)) }
    }
}

async fn view(api: &Api, target: Target, consumers: usize) -> Result<TargetView, Problem> {
    let now = Utc::now();
    let mut unreadable = Vec::new();
    let status = beside_if_readable(&api.documents, target.id, &mut unreadable, now).await?;
    Ok(show(target, status, unreadable, consumers, now))
}

fn show(
    target: Target,
    status: Option<TargetStatus>,
    unreadable: Vec<Reason>,
    consumers: usize,
    now: DateTime<Utc>,
) -> TargetView {
    let health = health(&target, status.as_ref(), unreadable, now);
    let Connection { host, port, database, username, password, tls } = target.connection;
    let tls = TlsView {
        mode: tls.mode.as_str(),
        ca_pem: tls.ca_pem,
        client_cert_pem: (),
        client_key_pem: (),
        client_key_pem_set: false,
    };
    TargetView {
        id: target.id.0,
        name: target.name,
        connection: ConnectionView {
            host,
            port,
            database,
            username,
            password: (),
            password_set: password.is_some(),
            tls,
            bastion: (),
        },
        pool_size: target.pool_size,
        metadata: target.metadata,
        state: status.map_or(TargetState::Connecting, |status| status.state),
        health,
        consumers,
        created_at: target.created_at,
        updated_at: target.updated_at,
    }
}

fn health(target: &Target, status: Option<&TargetStatus>, unreadable: Vec<Reason>, now: DateTime<Utc>) -> HealthView {
    let checked_at = status.map(|status| status.checked_at);
    let node = status.map(|status| status.node.as_str());
    // A report that can't be read is no silence.
    let is_to_be_heard = status.is_some() || unreadable.is_empty();
    let silence = silence(checked_at.unwrap_or(target.created_at), STALE, node, now).filter(|_| is_to_be_heard);
    let mut reasons = unreadable;
    reasons.extend(silence);
    for reason in &mut reasons {
        reason.target = Some(target.name.clone());
    }
    let health = match status.map(|status| status.state) {
        _ if !reasons.is_empty() => "unhealthy",
        None | Some(TargetState::Connecting) => "initializing",
        Some(TargetState::Healthy) => "healthy",
        Some(TargetState::Unhealthy) => "unhealthy",
    };
    let observed = status.and_then(|status| status.reason.clone());
    HealthView { status: health, reasons: observed.into_iter().chain(reasons).collect(), checked_at }
}

async fn answer(api: &Api, status: StatusCode, target: Target, revision: Revision) -> Result<Response, Problem> {
    let consumers = api.documents.all::<Consumer>().await?;
    let consumers = consumers.iter().flatten().filter(|consumer| consumer.target == target.id).count();
    Ok(with_etag(status, revision, view(api, target, consumers).await?))
}

pub(super) async fn create(api: State, body::Json(request): body::Json<TargetRequest>) -> Result<Response, Problem> {
    let now = Utc::now();
    let target = request.into_target(now)?;
    api.inspector.check_settings(&target.connection).map_err(|error| Problem::invalid([error]))?;
    let revision = api.documents.create(&target, now).await?;
    answer(&api, StatusCode::CREATED, target, revision).await
}

pub(super) async fn list(api: State, Params(params): Params<PageParams>) -> Result<Json<List<TargetView>>, Problem> {
    let limit = params.limit()?;
    let targets = api.documents.list::<Target>(params.after()?, limit + 1).await?;
    let mut consumers: HashMap<TargetId, usize> = HashMap::new();
    for consumer in api.documents.all::<Consumer>().await?.into_iter().flatten() {
        *consumers.entry(consumer.target).or_default() += 1;
    }
    let mut found = Vec::new();
    for target in targets {
        found.push(match target {
            Ok(Versioned { value: target, .. }) => {
                let count = consumers.get(&target.id).copied().unwrap_or_default();
                Ok((target.id.to_string(), view(&api, target, count).await?))
            }
            Err(unreadable) => Err(unreadable),
        });
    }
    Ok(Json(List::page_of_documents(found, limit)))
}

pub(super) async fn read(api: State, Path(target): Path<String>) -> Result<Response, Problem> {
    let found = find::<Target>(&api.documents, &target).await?;
    answer(&api, StatusCode::OK, found.value, found.revision).await
}

pub(super) async fn delete(api: State, Path(target): Path<String>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let found = find::<Target>(&api.documents, &target).await?;
    check_if_match(&headers, found.revision)?;
    // One that can't be read may write to it.
    let consumers = api.documents.all::<Consumer>().await?.into_iter().collect::<Result<Vec<_>, _>>();
    let consumers = consumers.map_err(DocumentsError::from)?;
    let in_use: Vec<_> = consumers.iter().filter(|consumer| consumer.target == found.value.id).collect();
    if let Some(consumer) = in_use.first() {
        let detail =
            format!("{} consumers write to it, {} among them: delete those first", in_use.len(), consumer.name);
        return Err(Problem::conflict(detail));
    }
    api.documents.delete_named(&found.value, found.revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn check(api: State, Path(target): Path<String>) -> Result<Json<Value>, Problem> {
    let found = find::<Target>(&api.documents, &target).await?;
    Ok(Json(match api.inspector.check(&found.value.connection).await {
        Ok(report) => {
            let latency_ms = report.latency.as_secs_f64() * 1000.0;
            json!({"ok": true, "server_version": report.server_version, "latency_ms": latency_ms})
        }
        Err(fault) => json!({"ok": false, "reason": {
            "code": fault.code, "severity": Severity::Error, "summary": fault.to_string(), "cause": fault.cause,
            "fix": fault.fix,
        }}),
    }))
}

#[derive(Deserialize)]
pub(super) struct SetupParams {
    schema: Option<String>,
}

pub(super) async fn setup_sql(
    api: State,
    Path(target): Path<String>,
    Params(params): Params<SetupParams>,
) -> Result<Json<Value>, Problem> {
    let connection = find::<Target>(&api.documents, &target).await?.value.connection;
    let schema = params.schema.as_deref().unwrap_or("sequin");
    Ok(Json(json!({"sql": api.inspector.setup_sql(&connection, schema)})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(created_at: DateTime<Utc>) -> Target {
        let request = json!({"name": "app", "connection": {"host": "db", "database": "app", "username": "sequin"}});
        let request: TargetRequest = serde_json::from_value(request).expect("a request");
        request.into_target(created_at).expect("a target")
    }

    #[test]
    fn a_target_that_nobody_reports_on_any_more_is_unhealthy_whatever_was_said_last() {
        let now = Utc::now();
        let status = |state, age| TargetStatus {
            state,
            reason: None,
            checked_at: now - age,
            consumers_seen: HashMap::default(),
            node: "n1".into(),
        };
        let (longest_silence, too_long) = (TimeDelta::seconds(40), STALE + TimeDelta::seconds(1));
        for state in [TargetState::Connecting, TargetState::Healthy, TargetState::Unhealthy] {
            for age in [too_long, -too_long] {
                let health = health(&target(now), Some(&status(state, age)), Vec::new(), now);
                assert_eq!((health.status, health.reasons.len()), ("unhealthy", 1));
                let reason = &health.reasons[0];
                assert_eq!((reason.code.as_str(), reason.target.as_deref()), ("status_stale", Some("app")));
                assert!(reason.fix.contains("node n1") && reason.since <= now, "{reason:?}");
            }
        }
        for age in [longest_silence, -longest_silence] {
            let fresh = health(&target(now), Some(&status(TargetState::Healthy, age)), Vec::new(), now);
            assert_eq!((fresh.status, fresh.reasons), ("healthy", Vec::new()));
        }
    }

    #[test]
    fn a_target_that_nobody_has_ever_reported_on_is_given_the_same_time() {
        let now = Utc::now();
        let after = |age| health(&target(now - age), None, Vec::new(), now).status;
        assert_eq!([after(STALE), after(STALE + TimeDelta::seconds(1))], ["initializing", "unhealthy"]);
    }

    #[test]
    fn a_report_that_cannot_be_read_is_told_for_what_it_is_and_not_for_silence() {
        let now = Utc::now();
        let reason = Reason {
            code: "unreadable".into(),
            severity: Severity::Error,
            summary: String::new(),
            since: now,
            cause: None,
            target: None,
            fix: String::new(),
        };
        let health = health(&target(now - STALE * 2), None, vec![reason], now);
        let codes: Vec<_> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert_eq!((health.status, codes), ("unhealthy", vec!["unreadable"]));
    }
}
