//! The dead-man's switch: what nobody reports on is not well, whatever the last report said.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Consumer, ConsumerStatus, Reason, Severity, Target, TargetStatus};

/// A consumer's report that is older than this has nobody who writes it any more.
pub const CONSUMER_SILENT: TimeDelta = TimeDelta::seconds(60);

/// A target's report likewise. One is written at the end of each probe, and the next takes 30 s of waiting and 10 s of
/// probing at most: one that can't be written is no alarm yet.
pub const TARGET_SILENT: TimeDelta = TimeDelta::seconds(90);

/// What is wrong if nobody has reported on a consumer for too long.
pub fn silence_on_consumer(consumer: &Consumer, last: Option<&ConsumerStatus>, now: DateTime<Utc>) -> Option<Reason> {
    let reported_at = last.map_or(consumer.updated_at, |status| status.checked_at);
    silence(reported_at, CONSUMER_SILENT, last.map(|status| status.node.as_str()), now)
}

/// What is wrong if nobody has reported on a target for too long.
pub fn silence_on_target(target: &Target, last: Option<&TargetStatus>, now: DateTime<Utc>) -> Option<Reason> {
    let reported_at = last.map_or(target.created_at, |status| status.checked_at);
    silence(reported_at, TARGET_SILENT, last.map(|status| status.node.as_str()), now)
}

impl ConsumerStatus {
    /// Takes into account that its target has seen the consumer, which says nothing while there is nothing new.
    pub fn seen_by(&mut self, target: &TargetStatus, consumer: &Consumer, now: DateTime<Utc>) {
        let seen = target.consumers_seen.get(&consumer.id).copied();
        // The one that is nearer: if the clock was set back, that is not the later one.
        if let Some(seen) = seen.filter(|seen| (now - seen).abs() < (now - self.checked_at).abs()) {
            self.checked_at = seen;
        }
    }
}

/// A report from so far in the future was written before the clock was set back: whoever is alive would have written
/// another since.
fn silence(reported_at: DateTime<Utc>, stale: TimeDelta, node: Option<&str>, now: DateTime<Utc>) -> Option<Reason> {
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
