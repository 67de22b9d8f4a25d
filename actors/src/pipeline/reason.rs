//! Reasons: what a status says of a fault or a finding, and of the way out.

use chrono::Utc;

use crate::{
    model::Reason,
    postgres::{Fault, Finding},
};

/// The target can't be reached or can't work.
pub(crate) fn target_unhealthy(target: &str, fault: &Fault) -> Reason {
    Reason {
        code: "target_unhealthy".into(),
        summary: format!("target {target} is unhealthy: {fault}"),
        since: Utc::now(),
        target: Some(target.into()),
        fix: fault.fix.into(),
    }
}

/// Nothing is known of the target yet.
pub(crate) fn connecting(target: &str) -> Reason {
    let summary = format!("connecting to target {target}");
    Reason { target: Some(target.into()), ..reason("target_connecting", summary, "nothing: it takes a moment") }
}

/// The table or a record is not one that works.
pub(crate) fn of_fault(fault: &Fault) -> Reason {
    reason(fault.code, fault.to_string(), fault.fix)
}

/// The table is not as it should be.
pub(crate) fn of_finding(finding: &Finding) -> Reason {
    reason(finding.code, finding.message.clone(), &finding.fix_sql)
}

/// The stream holds a record that this node can't read.
pub(crate) fn unreadable_record(message: String) -> Reason {
    reason("unreadable_record", message, "upgrade this node to the version that published the record")
}

/// Something on our side failed, and is tried again.
pub(crate) fn trying_again(message: String) -> Reason {
    reason("internal_fault", message, "nothing, unless it stays: then look at this node's log")
}

fn reason(code: &str, summary: String, fix: &str) -> Reason {
    Reason { code: code.into(), summary, since: Utc::now(), target: None, fix: fix.into() }
}
