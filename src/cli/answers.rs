//! What of the API's answers the command line reads. What is not named here is only passed on.

mod way;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, de::IgnoredAny};

pub(super) use self::way::{Connection, Limits};
use super::{figures, problem::indented};

#[derive(Deserialize)]
pub(super) struct List<T> {
    pub(super) data: Vec<T>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
    /// What is there too; the client has told of it.
    #[serde(default)]
    pub(super) unreadable: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct Sql {
    pub(super) sql: String,
}

#[derive(Deserialize)]
pub(super) struct Target {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) connection: Connection,
    pub(super) pool_size: u32,
    pub(super) limits: Option<Limits>,
    pub(super) state: String,
    pub(super) health: Health,
    pub(super) consumers: u64,
}

#[derive(Deserialize)]
pub(super) struct Health {
    pub(super) status: String,
    pub(super) reasons: Vec<Reason>,
}

#[derive(Deserialize)]
pub(super) struct Reason {
    pub(super) severity: Option<String>,
    pub(super) summary: String,
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) cause: Option<String>,
    pub(super) fix: String,
}

/// How bad it is, the summary and since when; then why, and what to do.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(severity) = &self.severity {
            write!(f, "{severity}: ")?;
        }
        f.write_str(&self.summary)?;
        if let Some(since) = self.since {
            let age = (Utc::now() - since).to_std().unwrap_or_default();
            write!(f, " (for {})", figures::span(age))?;
        }
        if let Some(cause) = &self.cause {
            write!(f, "\n{}", indented(format_args!("cause: {cause}")))?;
        }
        match self.fix.trim_end() {
            "" => Ok(()),
            // SQL of several lines is to be copied as it stands.
            fix if fix.contains('\n') => write!(f, "\n{}", indented(format_args!("fix:\n{}", indented(fix)))),
            fix => write!(f, "\n{}", indented(format_args!("fix: {fix}"))),
        }
    }
}

/// What a check of a target found.
#[derive(Deserialize)]
pub(super) struct Check {
    pub(super) ok: bool,
    pub(super) server_version: Option<String>,
    pub(super) latency_ms: Option<f64>,
    pub(super) reason: Option<Reason>,
    #[serde(default)]
    pub(super) steps: Vec<CheckStep>,
    pub(super) host_key: Option<String>,
    #[serde(default)]
    pub(super) egress_ips: Vec<String>,
}

/// A step of the way to a target.
#[derive(Deserialize)]
pub(super) struct CheckStep {
    pub(super) step: String,
    pub(super) status: String,
    pub(super) took_ms: Option<f64>,
    pub(super) finding: Option<String>,
    pub(super) fix: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Consumer {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) target: Named,
    pub(super) filter: Filter,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) state: String,
    pub(super) health: Health,
    pub(super) backfill: Option<Backfill>,
    pub(super) checkpoint: Option<u64>,
    pub(super) lag: Option<Lag>,
    pub(super) rate: Option<Rate>,
    pub(super) applied: Option<Applied>,
    /// How many of the upserts hold U+FFFD where the database can't hold what was there.
    #[serde(default)]
    pub(super) replaced_text: u64,
    #[serde(default)]
    pub(super) quarantined: u64,
}

#[derive(Deserialize)]
pub(super) struct Named {
    /// None if it is gone.
    pub(super) name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Filter {
    Provider(String),
    Sync(String),
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(provider) => f.write_str(provider),
            Self::Sync(sync) => write!(f, "sync {sync}"),
        }
    }
}

#[derive(Clone, Deserialize)]
pub(super) struct Backfill {
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) eta_seconds: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct Lag {
    pub(super) records: u64,
    pub(super) seconds: Option<f64>,
    pub(super) eta_seconds: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct Rate {
    pub(super) records_per_second: f64,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Applied {
    pub(super) upserts: u64,
    pub(super) deletes: u64,
}

impl Consumer {
    /// `sequin.hubspot`, as the customer wrote it.
    pub(super) fn table_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    pub(super) fn target_name(&self) -> &str {
        self.target.name.as_deref().unwrap_or("(gone)")
    }

    /// Nothing lies beyond what is in the table.
    pub(super) fn has_caught_up_with(&self, idx: u64) -> bool {
        let lags = self.lag.is_none_or(|lag| lag.records > 0);
        self.state == "live" && !lags && self.checkpoint.is_some_and(|checkpoint| checkpoint >= idx)
    }

    /// How much was applied since the first start.
    pub(super) fn applied_records(&self) -> u64 {
        self.applied.map_or(0, |applied| applied.upserts + applied.deletes)
    }
}

/// A record that the database refused.
#[derive(Deserialize)]
pub(super) struct Quarantined {
    pub(super) sequin_id: String,
    pub(super) sync_id: String,
    pub(super) collection_id: String,
    pub(super) upstream_id: String,
    pub(super) updated_idx: u64,
    pub(super) sqlstate: Option<String>,
    pub(super) message: String,
    pub(super) fix: String,
    pub(super) last_failed_at: DateTime<Utc>,
    pub(super) attempts: u64,
    pub(super) retry_at: Option<DateTime<Utc>>,
}

impl Quarantined {
    /// PostgreSQL's code, or a dash where it was refused before PostgreSQL saw it.
    pub(super) fn sqlstate(&self) -> &str {
        self.sqlstate.as_deref().unwrap_or("-")
    }
}

/// What verification found.
#[derive(Deserialize)]
pub(super) struct Verification {
    pub(super) ok: bool,
    pub(super) findings: Vec<super::problem::Finding>,
}

#[derive(Deserialize)]
pub(super) struct Provider {
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct Sync {
    pub(super) id: String,
    pub(super) provider: String,
    pub(super) external_id: Option<String>,
    pub(super) records: u64,
    pub(super) last_updated_idx: u64,
    pub(super) last_published_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) last_used_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    /// What its bearer sends, when it was just made.
    #[serde(rename = "token")]
    pub(super) secret: Option<String>,
}

/// A change that somebody made.
#[derive(Deserialize)]
pub(super) struct AuditEntry {
    pub(super) at: DateTime<Utc>,
    pub(super) token: AuditedToken,
    pub(super) action: String,
    pub(super) resource: AuditedResource,
    pub(super) status: u16,
    pub(super) from: String,
    pub(super) request_id: String,
}

#[derive(Deserialize)]
pub(super) struct AuditedToken {
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct AuditedResource {
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
}

/// What a rotation of the encryption keys did.
#[derive(Deserialize)]
pub(super) struct Rotation {
    pub(super) resealed: u64,
    pub(super) unreadable: Vec<Unreadable>,
}

/// What the server has, and can't read.
#[derive(Deserialize)]
pub(super) struct Unreadable {
    pub(super) detail: String,
}

/// What of the stream was removed, and what is left in tables.
#[derive(Deserialize)]
pub(super) struct Removed {
    pub(super) removed: u64,
    pub(super) cleanup_sql: Vec<Cleanup>,
}

/// The statement that removes the rows from one table.
#[derive(Deserialize)]
pub(super) struct Cleanup {
    pub(super) consumer: String,
    pub(super) target: String,
    pub(super) sql: String,
}

#[derive(Deserialize)]
pub(super) struct Node {
    #[serde(rename = "node")]
    pub(super) name: String,
    pub(super) targets: Vec<Named>,
    pub(super) seen_at: DateTime<Utc>,
}

/// Something that is or was wrong.
#[derive(Deserialize)]
pub(super) struct Incident {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) title: String,
    pub(super) consumers: u64,
    pub(super) reason: Reason,
    pub(super) opened_at: DateTime<Utc>,
    pub(super) resolved_at: Option<DateTime<Utc>>,
    pub(super) notices: Vec<Notice>,
    pub(super) url: Option<String>,
}

/// What was said of it.
#[derive(Deserialize)]
pub(super) struct Notice {
    pub(super) event: String,
    pub(super) at: DateTime<Utc>,
    pub(super) deliveries: Vec<Delivery>,
}

#[derive(Deserialize)]
pub(super) struct Delivery {
    pub(super) channel: String,
    pub(super) destination: String,
    pub(super) state: String,
    pub(super) error: Option<String>,
}

/// Whom to tell.
#[derive(Deserialize)]
pub(super) struct Alerting {
    pub(super) recipients: Vec<String>,
    pub(super) webhooks: Vec<Webhook>,
    pub(super) reminder_minutes: u32,
    pub(super) email: Email,
    pub(super) pending: u64,
    pub(super) health: Health,
}

#[derive(Deserialize)]
pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) host: Option<String>,
    pub(super) format: String,
    pub(super) secret_set: bool,
}

/// Who writes, if mail can be sent.
#[derive(Deserialize)]
pub(super) struct Email {
    pub(super) from: Option<String>,
}

/// What came of telling everybody something.
#[derive(Deserialize)]
pub(super) struct Told {
    pub(super) ok: bool,
    pub(super) deliveries: Vec<Tried>,
}

#[derive(Deserialize)]
pub(super) struct Tried {
    pub(super) channel: String,
    pub(super) destination: String,
    pub(super) error: Option<String>,
}

/// What became of the wish for a table.
#[derive(Deserialize)]
pub(super) struct Created {
    /// None if it was there.
    pub(super) sql: Option<String>,
}

/// What the stream says of records that it took.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Published {
    pub(super) accepted: u64,
    /// None if there were no records.
    pub(super) last_updated_idx: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_how_bad_it_is_why_and_what_to_do() {
        let read = |json: &str| serde_json::from_str::<Reason>(json).expect("a reason").to_string();
        let refused =
            r#"{"severity":"error","summary":"target app is unhealthy","cause":"nobody listens","fix":"start it"}"#;
        assert_eq!(read(refused), "error: target app is unhealthy\n  cause: nobody listens\n  fix: start it");
        let without_cause = r#"{"severity":"warning","summary":"a check","cause":null,"fix":"alter a;\nalter b;\n"}"#;
        assert_eq!(read(without_cause), "warning: a check\n  fix:\n    alter a;\n    alter b;");
        assert_eq!(read(r#"{"summary":"no answer","fix":""}"#), "no answer");
    }
}
