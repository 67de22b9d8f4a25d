//! The check of a target: the way to its database, step by step.

use axum::Json;
use sequin_actors::{
    CheckReport, Step, StepName, StepStatus,
    model::{Consumer, Desired, Severity, TableName, Target},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema, openapi::Object};

use super::super::{
    Api, State,
    body::{Params, Path},
    openapi::words,
    problem::Problem,
    reasons::severity_words,
    resources::find,
};

/// How many tables are looked at.
const MAX_TABLES: usize = 20;

/// Which table to look at too.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct CheckParams {
    /// The schema of a table that is to be looked at too, beside those of the target's consumers.
    #[param(min_length = 1, max_length = 63)]
    schema: Option<String>,
    /// The name of that table.
    #[param(min_length = 1, max_length = 63)]
    table: Option<String>,
}

/// What the way to a database came to.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct Checked {
    /// Whether no step failed.
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    /// Why it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<CheckedReason>,
    /// Every step of the way, in order. Those after the one that failed are skipped.
    steps: Vec<StepView>,
    /// The key that the bastion shows, where none is confirmed yet: to be compared with what its owner says, and set as
    /// `connection.bastion.host_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_key: Option<String>,
    /// The addresses that databases see this node come from, for those who have a firewall.
    egress_ips: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct CheckedReason {
    /// A stable word for programs, such as `connection_refused`.
    code: &'static str,
    #[schema(schema_with = severity_words)]
    severity: Severity,
    summary: String,
    cause: &'static str,
    /// What to do; SQL where SQL mends it.
    fix: String,
}

/// A step of the way.
#[derive(Serialize, ToSchema)]
#[schema(as = CheckStep)]
struct StepView {
    #[schema(schema_with = step_words)]
    step: &'static str,
    #[schema(schema_with = status_words)]
    status: &'static str,
    /// Null where it was not taken, or not by itself.
    #[schema(required)]
    took_ms: Option<f64>,
    /// What was found.
    #[schema(required)]
    finding: Option<String>,
    /// What to do about it; SQL where SQL mends it.
    #[schema(required)]
    fix: Option<String>,
}

fn step_words() -> Object {
    words("What was looked at.", &StepName::ALL.map(StepName::as_str))
}

fn status_words() -> Object {
    words("How it ended.", &["ok", "warning", "failed", "skipped"])
}

impl From<Step> for StepView {
    fn from(step: Step) -> Self {
        let Step { name, status, took, finding, fix } = step;
        let took_ms = took.map(|took| took.as_secs_f64() * 1000.0);
        Self { step: name.as_str(), status: status.as_str(), took_ms, finding, fix }
    }
}

impl CheckedReason {
    fn of(report: &CheckReport) -> Option<Self> {
        let severity = Severity::Error;
        if let Some(fault) = &report.fault {
            let failed = report.steps.iter().find(|step| step.status == StepStatus::Failed);
            let fix = failed.and_then(|step| step.fix.clone()).unwrap_or_else(|| fault.fix.to_owned());
            return Some(Self { code: fault.code, severity, summary: fault.to_string(), cause: fault.cause, fix });
        }
        let finding = report.finding.as_ref()?;
        Some(Self {
            code: finding.code,
            severity,
            summary: finding.message.clone(),
            cause: "the table, or the rights on it, are not as a consumer needs them",
            fix: finding.fix_sql.clone(),
        })
    }
}

/// Walks the way to a target now, step by step: names, bastion, TCP, TLS, authentication, database, poolers, and the schemas,
/// rights and tables of its consumers.
#[utoipa::path(post, path = "/v1/targets/{target}/check", tag = "targets", operation_id = "check_target",
    params(CheckParams), responses((status = 200, description = "What the way came to", body = Checked)))]
pub(in super::super) async fn check(
    api: State,
    Path(target): Path<String>,
    Params(params): Params<CheckParams>,
) -> Result<Json<Checked>, Problem> {
    let target = find::<Target>(&api.documents, &target).await?.value;
    let mut tables = tables(&api, &target, params).await?;
    let left_out = tables.len().saturating_sub(MAX_TABLES);
    tables.truncate(MAX_TABLES);
    let mut report = api.inspector.check_target(&target, &tables).await;
    tell_left_out(&mut report.steps, left_out);
    let reason = CheckedReason::of(&report);
    Ok(Json(Checked {
        ok: reason.is_none(),
        server_version: report.server_version,
        latency_ms: report.latency.map(|latency| latency.as_secs_f64() * 1000.0),
        reason,
        steps: report.steps.into_iter().map(StepView::from).collect(),
        host_key: report.host_key,
        egress_ips: api.inspector.egress().addresses.clone(),
    }))
}

/// The tables of the target's consumers that have been started, and the one that is asked for.
async fn tables(api: &Api, target: &Target, params: CheckParams) -> Result<Vec<TableName>, Problem> {
    let mut tables = match (params.schema, params.table) {
        (Some(schema), Some(table)) => vec![TableName { schema, table }],
        (None, None) => Vec::new(),
        (Some(_), None) => return Err(Problem::invalid_field("table", "goes with schema")),
        (None, Some(_)) => return Err(Problem::invalid_field("schema", "goes with table")),
    };
    let consumers = api.documents.all::<Consumer>().await?;
    let of_target = consumers.into_iter().flatten().filter(|consumer| consumer.target == target.id);
    for consumer in of_target.filter(|consumer| consumer.desired != Desired::Draft) {
        if !tables.contains(&consumer.table) {
            tables.push(consumer.table);
        }
    }
    Ok(tables)
}

/// Says of the step that looks at tables which it did not.
fn tell_left_out(steps: &mut [Step], left_out: usize) {
    let looked = |step: &&mut Step| step.name == StepName::Table && step.status != StepStatus::Skipped;
    if left_out > 0
        && let Some(step) = steps.iter_mut().find(looked)
    {
        let found = step.finding.take().map(|finding| format!("{finding}; ")).unwrap_or_default();
        let left_out = format!("{left_out} more tables were not looked at: ask for one by its schema and name");
        step.finding = Some(format!("{found}{left_out}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_are_not_looked_at_are_told() {
        let step = |status, finding: Option<&str>| Step {
            name: StepName::Table,
            status,
            took: None,
            finding: finding.map(ToOwned::to_owned),
            fix: None,
        };
        let more = "3 more tables were not looked at: ask for one by its schema and name";
        for (before, left_out, after) in [
            (step(StepStatus::Ok, None), 3, Some(more.to_owned())),
            (step(StepStatus::Ok, Some("20 tables")), 3, Some(format!("20 tables; {more}"))),
            (step(StepStatus::Ok, Some("20 tables")), 0, Some("20 tables".into())),
            (step(StepStatus::Skipped, None), 3, None),
        ] {
            let mut steps = [before];
            tell_left_out(&mut steps, left_out);
            assert_eq!(steps[0].finding, after);
        }
    }
}
