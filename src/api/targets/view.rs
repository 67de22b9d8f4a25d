//! A target, as it is shown: what it should be, and what its actor observed.

use chrono::{DateTime, Utc};
use sequin_actors::model::{Connection, Metadata, Reason, Target, TargetState, TargetStatus, silence_on_target};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};
use uuid::Uuid;

use super::{
    super::{
        openapi::{null, words},
        reasons::HealthView,
    },
    limits::LimitsView,
};

/// A target, as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Target)]
pub(in super::super) struct TargetView {
    id: Uuid,
    name: String,
    connection: ConnectionView,
    /// The most sessions that all its consumers together may hold.
    pool_size: u32,
    limits: LimitsView,
    /// The customer's notes.
    #[schema(value_type = Object)]
    metadata: Metadata,
    #[schema(schema_with = state_words)]
    state: TargetState,
    health: HealthView,
    /// How many consumers write to it.
    consumers: usize,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Connection)]
struct ConnectionView {
    host: String,
    port: u16,
    database: String,
    username: String,
    /// Secrets go in, and never come out.
    #[schema(schema_with = never_told)]
    password: (),
    password_set: bool,
    #[schema(required)]
    password_file: Option<String>,
    tls: TlsView,
    #[schema(required)]
    bastion: Option<BastionView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Tls)]
struct TlsView {
    #[schema(schema_with = super::connection::tls_modes)]
    mode: &'static str,
    #[schema(required)]
    ca_pem: Option<String>,
    #[schema(required)]
    client_cert_pem: Option<String>,
    #[schema(schema_with = never_told)]
    client_key_pem: (),
    client_key_pem_set: bool,
    #[schema(required)]
    server_name: Option<String>,
    #[schema(schema_with = super::connection::channel_bindings)]
    channel_binding: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Bastion)]
#[expect(clippy::struct_excessive_bools, reason = "each secret has one that says whether it is there")]
struct BastionView {
    host: String,
    port: u16,
    username: String,
    #[schema(schema_with = never_told)]
    private_key: (),
    private_key_set: bool,
    #[schema(schema_with = never_told)]
    passphrase: (),
    passphrase_set: bool,
    #[schema(schema_with = never_told)]
    password: (),
    password_set: bool,
    /// Null as long as nothing is sent there.
    #[schema(required)]
    host_key: Option<String>,
    trust_on_first_use: bool,
}

impl From<Connection> for ConnectionView {
    fn from(connection: Connection) -> Self {
        let Connection { host, port, database, username, password, password_file, tls, bastion } = connection;
        Self {
            host,
            port,
            database,
            username,
            password: (),
            password_set: password.is_some(),
            password_file,
            tls: TlsView {
                mode: tls.mode.as_str(),
                ca_pem: tls.ca_pem,
                client_cert_pem: tls.client_cert_pem,
                client_key_pem: (),
                client_key_pem_set: tls.client_key_pem.is_some(),
                server_name: tls.server_name,
                channel_binding: tls.channel_binding.as_str(),
            },
            bastion: bastion.map(|bastion| BastionView {
                host: bastion.host,
                port: bastion.port,
                username: bastion.username,
                private_key: (),
                private_key_set: bastion.private_key.is_some(),
                passphrase: (),
                passphrase_set: bastion.passphrase.is_some(),
                password: (),
                password_set: bastion.password.is_some(),
                host_key: bastion.host_key,
                trust_on_first_use: bastion.trust_on_first_use,
            }),
        }
    }
}

fn never_told() -> Object {
    null("Always null: it goes in, and never comes out.")
}

fn state_words() -> Object {
    words("What is known of it.", &["connecting", "healthy", "unhealthy"])
}

impl TargetView {
    /// The target with what was found beside it, and why the rest of that is `unreadable`.
    pub(super) fn of(
        target: Target,
        status: Option<TargetStatus>,
        unreadable: Vec<Reason>,
        consumers: usize,
        now: DateTime<Utc>,
    ) -> Self {
        let health = health(&target, status.as_ref(), unreadable, now);
        Self {
            id: target.id.0,
            name: target.name,
            connection: target.connection.into(),
            pool_size: target.pool_size,
            limits: target.limits.into(),
            metadata: target.metadata,
            state: status.map_or(TargetState::Connecting, |status| status.state),
            health,
            consumers,
            created_at: target.created_at,
            updated_at: target.updated_at,
        }
    }
}

fn health(target: &Target, status: Option<&TargetStatus>, unreadable: Vec<Reason>, now: DateTime<Utc>) -> HealthView {
    let checked_at = status.map(|status| status.checked_at);
    // A report that can't be read is no silence.
    let is_to_be_heard = status.is_some() || unreadable.is_empty();
    let silence = silence_on_target(target, status, now).filter(|_| is_to_be_heard);
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
    let reasons = observed.into_iter().chain(reasons).map(Into::into).collect();
    HealthView { status: health, reasons, checked_at }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use chrono::TimeDelta;
    use sequin_actors::model::{Severity, TARGET_SILENT};
    use serde_json::json;

    use super::{super::TargetRequest, *};

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
        let (longest_silence, too_long) = (TimeDelta::seconds(40), TARGET_SILENT + TimeDelta::seconds(1));
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
        assert_eq!([after(TARGET_SILENT), after(TARGET_SILENT + TimeDelta::seconds(1))], ["initializing", "unhealthy"]);
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
        let health = health(&target(now - TARGET_SILENT * 2), None, vec![reason], now);
        let codes: Vec<_> = health.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert_eq!((health.status, codes), ("unhealthy", vec!["unreadable"]));
    }
}
