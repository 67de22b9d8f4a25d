//! Whether all is well with a resource, and if not, why: as it is shown.

use chrono::{DateTime, Utc};
use sequin_actors::model::{Reason, Severity};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use super::openapi::words;

/// Whether all is well, and if not, why.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(super) struct HealthView {
    #[schema(schema_with = health_words)]
    pub(super) status: &'static str,
    pub(super) reasons: Vec<ReasonView>,
    /// When somebody last looked; null before that.
    #[schema(required)]
    pub(super) checked_at: Option<DateTime<Utc>>,
}

/// Something that is not as it should be: what, since when, and the way out.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Reason)]
pub(super) struct ReasonView {
    /// A stable word for programs, such as `target_unhealthy`.
    pub(super) code: String,
    #[schema(schema_with = severity_words)]
    pub(super) severity: Severity,
    /// What is wrong, in a sentence.
    pub(super) summary: String,
    /// Since when.
    pub(super) since: DateTime<Utc>,
    /// Why such a thing happens, where that is known.
    #[schema(required)]
    pub(super) cause: Option<String>,
    /// The name of the target that it is about, when it is about one.
    #[schema(required)]
    pub(super) target: Option<String>,
    /// What to do; SQL where SQL mends it.
    pub(super) fix: String,
}

fn health_words() -> Object {
    words("Whether all is well.", &["initializing", "healthy", "unhealthy"])
}

/// The schema of a severity.
pub(super) fn severity_words() -> Object {
    let severities = [Severity::Error, Severity::Warning].map(Severity::as_str);
    words("`error`: records do not arrive, or not all of them. `warning`: they do, and may not for ever.", &severities)
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        let Reason { code, severity, summary, since, cause, target, fix } = reason;
        Self { code, severity, summary, since, cause, target, fix }
    }
}
