//! Reasons: what a status says of a fault or a finding, and of the way out.

use chrono::{DateTime, Utc};

use crate::{
    model::{Astray, Consumer, Idx, Reason, Severity},
    postgres::{Fault, Finding},
};

/// The code of a reason that is a target's.
const TARGET_UNHEALTHY: &str = "target_unhealthy";

/// That of a target whose server is spared.
const SERVER_STRAINED: &str = "server_strained";

/// The target can't be reached or can't work, or is spared.
pub(crate) fn target_unhealthy(target: &str, fault: &Fault) -> Reason {
    let (code, how) =
        if fault.is_strained() { (SERVER_STRAINED, "gets a rest") } else { (TARGET_UNHEALTHY, "is unhealthy") };
    Reason {
        code: code.into(),
        summary: format!("target {target} {how}: {fault}"),
        target: Some(target.into()),
        ..of_fault(fault)
    }
}

/// Whether a reason is such a one.
pub(crate) fn is_outage(reason: &Reason) -> bool {
    [TARGET_UNHEALTHY, SERVER_STRAINED].contains(&reason.code.as_str())
}

/// Whether it is one of a target that works, and is only spared.
pub(crate) fn is_of_strain(reason: &Reason) -> bool {
    reason.code == SERVER_STRAINED
}

/// Nothing is known of the target yet.
pub(crate) fn connecting(target: &str) -> Reason {
    let summary = format!("connecting to target {target}");
    Reason { target: Some(target.into()), ..reason("target_connecting", summary, "nothing: it takes a moment") }
}

/// The table is not one that works.
pub(crate) fn of_fault(fault: &Fault) -> Reason {
    Reason { cause: Some(fault.cause.into()), ..reason(fault.code, fault.to_string(), fault.fix) }
}

/// The table is not as it should be.
pub(crate) fn of_finding(finding: &Finding) -> Reason {
    let cause = "the table is not, or no longer, as the create-table statement makes it";
    let reason = reason(finding.code, finding.message.clone(), &finding.fix_sql);
    Reason { severity: finding.severity, cause: Some(cause.into()), ..reason }
}

/// Others hold the table or its rows, and do not let go.
pub(crate) fn contention(fault: &Fault) -> Reason {
    Reason { summary: format!("others are in the way: {fault}"), ..of_fault(fault) }
}

/// The stream holds a record that this node can't read.
pub(crate) fn unreadable_record(message: String) -> Reason {
    reason("unreadable_record", message, "upgrade this node to the version that published the record")
}

/// What the checkpoint says is not of the stream that is there.
pub(crate) fn astray(astray: Astray, consumer: &Consumer) -> Reason {
    let Consumer { name, table, .. } = consumer;
    let rewind = |to: Idx| format!("`sequin consumer rewind {name} --to {to}`");
    let anew = format!(
        "publish everything again, empty table {}.{} and {}, which reads the stream from its start",
        table.schema,
        table.table,
        rewind(Idx::START)
    );
    let (code, cause, fix) = match astray {
        Astray::Replaced { .. } => (
            "stream_replaced",
            "the stream was deleted and made anew, or the stream and the control store are not of the same backup",
            format!("put the stream back that was read; or, where it is lost, {anew}"),
        ),
        Astray::WentBack { checkpoint, .. } => (
            "stream_went_back",
            "the stream was restored from a backup that is older than what was read of it",
            format!("restore a newer backup, and {}; or, where there is none, {anew}", rewind(checkpoint)),
        ),
        Astray::TableAhead { .. } => (
            "stream_went_back",
            "the stream and the control store were restored from a backup that is older than what was brought to the table",
            format!(
                "restore a newer backup if there is one, or publish again what was published since; and empty table {}.{} and \
                 {}, which reads the stream from its start",
                table.schema,
                table.table,
                rewind(Idx::START)
            ),
        ),
    };
    Reason { cause: Some(cause.into()), ..reason(code, astray.to_string(), &fix) }
}

/// Records are in quarantine.
pub(crate) fn quarantined(records: usize, since: DateTime<Utc>, last: &str) -> Reason {
    let summary = format!("in quarantine, since the database refused them: {records}, the last with: {last}");
    let fix = "see why in the quarantine; mend the cause and retry, or discard the records";
    let cause = "the table, or PostgreSQL itself, can't take them as they are";
    Reason { since, cause: Some(cause.into()), ..reason("records_quarantined", summary, fix) }
}

/// Entries of the quarantine are there, and nobody knows what they say.
pub(crate) fn quarantine_unreadable(entries: usize, since: DateTime<Utc>) -> Reason {
    let summary = format!("in quarantine, and not tried again, since their entries can't be read: {entries}");
    let fix = "see why in the quarantine; or discard them: newer versions of the records are brought either way";
    let cause = "a newer version of this program wrote them, or the control store is damaged";
    Reason { since, cause: Some(cause.into()), ..reason("quarantine_unreadable", summary, fix) }
}

/// So many records were refused that something else must be wrong.
pub(crate) fn quarantine_full(message: String) -> Reason {
    let fix = "mend what the refusals in the quarantine have in common, then resume: they are tried again";
    let cause = "a constraint, a trigger or a publisher that was changed, rather than single records";
    Reason { cause: Some(cause.into()), ..reason("quarantine_full", message, fix) }
}

/// Something on our side failed, and is tried again.
pub(crate) fn trying_again(message: String) -> Reason {
    reason("internal_fault", message, "nothing, unless it stays: then look at this node's log")
}

/// There was work, and nothing came of it.
pub(crate) fn stalled(message: String) -> Reason {
    let fix = "nothing: it was started again; if that goes on, look at this node's log";
    reason("stalled", message, fix)
}

/// What was brought is not on record yet.
pub(crate) fn checkpoint_not_saved(message: &str) -> Reason {
    let summary = format!("the checkpoint can't be saved, so more is read again after a crash: {message}");
    let fix = "look at this node's disk and its log; it is tried again every second";
    Reason { severity: Severity::Warning, ..reason("checkpoint_not_saved", summary, fix) }
}

fn reason(code: &str, summary: String, fix: &str) -> Reason {
    let (since, severity) = (Utc::now(), Severity::Error);
    Reason { code: code.into(), severity, summary, since, cause: None, target: None, fix: fix.into() }
}
