//! What `sequin target check` prints: how it is, and every step of the way with its mark.

use std::process::ExitCode;

use super::super::{
    FAILED,
    answers::{Check, CheckStep},
    client::Answer,
    figures,
    output::{Output, print},
    problem::indented,
    table::{Column, Table},
};

pub(super) fn checked(output: Output, answer: &Answer) -> anyhow::Result<ExitCode> {
    let check: Check = answer.read()?;
    if output == Output::Json {
        print(answer.text())?;
    } else {
        if let Some(reason) = &check.reason {
            print(reason)?;
        } else {
            let version = check.server_version.as_deref().unwrap_or_default();
            let latency = check.latency_ms.map(|millis| figures::seconds(millis / 1000.0)).unwrap_or_default();
            print(format_args!("ok: PostgreSQL {version}, which answers in {latency}"))?;
        }
        print(format_args!("\n{}", table(&check.steps)))?;
        for step in &check.steps {
            if let Some(fix) = step.fix.as_ref().filter(|fix| !fix.is_empty()) {
                print(format_args!("{}:\n{}", step.step, indented(fix)))?;
            }
        }
        if let Some(key) = &check.host_key {
            print(format_args!("the bastion shows\n{}", indented(key)))?;
        }
        if !check.egress_ips.is_empty() {
            print(format_args!("connections come from {}", check.egress_ips.join(", ")))?;
        }
    }
    Ok(ExitCode::from(if check.ok { 0 } else { FAILED }))
}

fn table(steps: &[CheckStep]) -> Table {
    let columns = [Column::Left("is"), Column::Left("step"), Column::Right("took"), Column::Left("finding")];
    let mut table = Table::new(columns);
    for CheckStep { step, status, took_ms, finding, .. } in steps {
        let took = took_ms.map(|millis| figures::seconds(millis / 1000.0)).unwrap_or_default();
        table.row([mark(status).to_owned(), step.clone(), took, finding.clone().unwrap_or_default()]);
    }
    table
}

/// What stands for a status. One that a newer server knows is shown as it is.
fn mark(status: &str) -> &str {
    match status {
        "ok" => "✓",
        "warning" => "!",
        "failed" => "✗",
        "skipped" => "-",
        other => other,
    }
}
