//! What is wrong now, as far as what was reported tells.
//!
//! Each cause counts once. While a target is unhealthy its consumers have no incidents of their own: they wait for it, and
//! afterwards catch up. Of what nobody can tell at the moment, nothing is said: its incidents stay as they are.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{About, Cause, Incidents};
use crate::model::{
    Behind, Consumer, ConsumerId, ConsumerStatus, Desired, Idx, IncidentKind, Lag, Reason, Resolution, RunState,
    Severity, Subject, TARGET_SILENT, Target, TargetId, TargetState, TargetStatus, silence_on_consumer,
    silence_on_target,
};

/// Who has not caught up by then after an outage is behind.
const CATCH_UP_WITHIN: TimeDelta = TimeDelta::hours(1);

/// What was reported last, of everything.
#[derive(Default)]
pub struct World {
    /// Since when it is looked at: what was silent before had nobody to listen.
    since: DateTime<Utc>,
    /// The targets that there are.
    pub targets: HashMap<TargetId, Target>,
    /// The consumers that there are.
    pub consumers: HashMap<ConsumerId, Consumer>,
    /// How targets are.
    pub target_statuses: HashMap<TargetId, TargetStatus>,
    /// How consumers are.
    pub consumer_statuses: HashMap<ConsumerId, ConsumerStatus>,
    /// Those that are there and can't be read: of them nobody knows anything.
    pub unreadable: HashSet<About>,
    /// Where each consumer was last seen, and since when it has been there.
    still: HashMap<ConsumerId, (Idx, DateTime<Utc>)>,
    /// Until when each was seen to be paused.
    paused_until: HashMap<ConsumerId, DateTime<Utc>>,
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) kind: IncidentKind,
    pub(super) subject: Subject,
    pub(super) consumers: u64,
    pub(super) records: Option<u64>,
    pub(super) behind: Option<Behind>,
    pub(super) reason: Reason,
}

/// What is wrong with what, and of what that can't be told.
#[derive(Default)]
pub(super) struct Picture {
    pub(super) wrong: HashMap<Cause, Condition>,
    pub(super) unclear: HashSet<About>,
}

impl Picture {
    fn add(&mut self, condition: &Condition) {
        let cause = Cause { kind: condition.kind, about: (&condition.subject).into() };
        let is_of_node = matches!(cause.about, About::Node(_));
        let first = self.wrong.entry(cause).or_insert_with(|| Condition { consumers: 0, ..condition.clone() });
        // A node has several targets.
        first.consumers = if is_of_node { first.consumers + condition.consumers } else { condition.consumers };
        first.reason.since = first.reason.since.min(condition.reason.since);
    }
}

impl World {
    /// One of which nothing is known yet.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// How something ends that is not wrong any more.
    pub(super) fn resolution(&self, about: &About) -> Resolution {
        match about {
            About::Target(id) if !self.targets.contains_key(id) => Resolution::Deleted,
            About::Consumer(id) => match self.consumers.get(id) {
                None => Resolution::Deleted,
                Some(consumer) if consumer.desired != Desired::Running => Resolution::Paused,
                Some(_) => Resolution::Recovered,
            },
            About::Target(_) | About::Node(_) => Resolution::Recovered,
        }
    }

    pub(super) fn picture(&mut self, incidents: &Incidents, now: DateTime<Utc>) -> Picture {
        self.follow(now);
        let mut waiting: HashMap<TargetId, u64> = HashMap::new();
        for consumer in self.consumers.values().filter(|consumer| consumer.desired == Desired::Running) {
            *waiting.entry(consumer.target).or_default() += 1;
        }
        let mut picture = Picture { unclear: self.unreadable.clone(), ..Picture::default() };
        let reporting: HashSet<&str> = self.reporting_nodes(now).collect();
        let mut troubled = HashSet::new();
        for target in self.targets.values() {
            let consumers = waiting.get(&target.id).copied().unwrap_or_default();
            if self.look_at_target(target, consumers, &reporting, &mut picture, now) {
                troubled.insert(target.id);
            }
        }
        for consumer in self.consumers.values().filter(|consumer| consumer.desired == Desired::Running) {
            if troubled.contains(&consumer.target) {
                picture.unclear.insert(About::Consumer(consumer.id));
            } else {
                self.look_at_consumer(consumer, incidents, &mut picture, now);
            }
        }
        picture
    }

    /// The nodes that report on a target.
    fn reporting_nodes(&self, now: DateTime<Utc>) -> impl Iterator<Item = &str> {
        self.targets.values().filter_map(move |target| {
            let status = self.target_statuses.get(&target.id)?;
            silence_on_target(target, Some(status), now).is_none().then_some(status.node.as_str())
        })
    }

    /// Remembers which consumers get on, and which are not to.
    fn follow(&mut self, now: DateTime<Utc>) {
        self.paused_until.retain(|id, _| self.consumers.contains_key(id));
        let paused = self.consumers.values().filter(|consumer| consumer.desired != Desired::Running);
        self.paused_until.extend(paused.map(|consumer| (consumer.id, now)));
        self.still.retain(|id, _| self.consumer_statuses.contains_key(id));
        for (id, status) in &self.consumer_statuses {
            let (at, since) = self.still.entry(*id).or_insert((status.checkpoint, now));
            if *at != status.checkpoint || status.lag.records == 0 {
                (*at, *since) = (status.checkpoint, now);
            }
        }
    }

    /// Returns whether nothing is to be said of its consumers because of it.
    fn look_at_target(
        &self,
        target: &Target,
        consumers: u64,
        reporting: &HashSet<&str>,
        picture: &mut Picture,
        now: DateTime<Utc>,
    ) -> bool {
        let status = self.target_statuses.get(&target.id);
        let subject = Subject::Target { id: target.id, name: target.name.clone() };
        let condition =
            |kind, subject, reason| Condition { kind, subject, consumers, records: None, behind: None, reason };
        if let Some(reason) = silence_on_target(target, status, now) {
            picture.unclear.insert((&subject).into());
            // A node that reports on others is not the one that is silent.
            let node = status.map(|status| &status.node).filter(|node| !reporting.contains(node.as_str()));
            let of_node = node.map_or(subject, |node| Subject::Node { name: node.clone() });
            // It may be that nobody could report while nobody listened either.
            if now - self.since > TARGET_SILENT {
                picture.add(&condition(IncidentKind::NodeSilent, of_node, reason));
            } else {
                picture.unclear.insert((&of_node).into());
            }
            return true;
        }
        match status {
            Some(TargetStatus { state: TargetState::Unhealthy, reason: Some(reason), .. }) => {
                picture.add(&condition(IncidentKind::TargetUnhealthy, subject, reason.clone()));
                true
            }
            Some(TargetStatus { state: TargetState::Healthy, .. }) => false,
            _ => {
                picture.unclear.insert((&subject).into());
                true
            }
        }
    }

    fn look_at_consumer(&self, consumer: &Consumer, incidents: &Incidents, picture: &mut Picture, now: DateTime<Utc>) {
        let id = consumer.id;
        let target = self.targets.get(&consumer.target).map(|target| target.name.clone()).unwrap_or_default();
        let subject = Subject::Consumer { id, name: consumer.name.clone(), target };
        let condition = |kind, records, behind, reason: &Reason| {
            let (subject, reason) = (subject.clone(), reason.clone());
            Condition { kind, subject, consumers: 1, records, behind, reason }
        };
        let mut status = self.consumer_statuses.get(&id).cloned();
        if let (Some(status), Some(of_target)) = (&mut status, self.target_statuses.get(&consumer.target)) {
            status.seen_by(of_target, consumer, now);
        }
        if let Some(silent) = silence_on_consumer(consumer, status.as_ref(), now) {
            if now - self.since > TARGET_SILENT {
                picture.add(&condition(IncidentKind::ConsumerStalled, None, None, &silent));
            }
            picture.unclear.insert(About::Consumer(id));
            return;
        }
        let Some(status) = status else { return };
        let mut is_hindered = false;
        let errors = status.reasons.iter().filter(|reason| reason.severity == Severity::Error);
        for reason in errors {
            let kind = match reason.code.as_str() {
                "behind" => continue,
                // It is about to hear that this is over.
                "target_unhealthy" | "server_strained" | "target_connecting" => {
                    picture.unclear.insert(About::Consumer(id));
                    return;
                }
                "records_quarantined" | "quarantine_unreadable" => IncidentKind::RecordsQuarantined,
                _ if status.state == RunState::Halted => IncidentKind::ConsumerHalted,
                _ => IncidentKind::ConsumerStalled,
            };
            let is_of_records = kind == IncidentKind::RecordsQuarantined;
            is_hindered |= !is_of_records;
            picture.add(&condition(kind, is_of_records.then_some(status.quarantined), None, reason));
        }
        // That it falls behind meanwhile is no other trouble; and who begins again has not caught up with anything.
        let is_behind = Cause { kind: IncidentKind::ConsumerBehind, about: About::Consumer(id) };
        let reason = if is_hindered || status.state == RunState::Backfilling {
            incidents.open(&is_behind).map(|incident| incident.reason.clone())
        } else {
            self.is_behind(consumer, &status, incidents, now)
        };
        if let Some(reason) = reason {
            let Lag { records, oldest_published_at } = status.lag;
            let behind = Behind { records, oldest_published_at, eta_seconds: status.eta_seconds };
            picture.add(&condition(IncidentKind::ConsumerBehind, None, Some(behind), &reason));
        }
    }

    /// Why a consumer counts as behind. One that is known to be has to come well below its threshold again.
    ///
    /// What was published before it could begin to work again, and what it gets on with, is no new trouble: it catches up.
    fn is_behind(
        &self,
        consumer: &Consumer,
        status: &ConsumerStatus,
        incidents: &Incidents,
        now: DateTime<Utc>,
    ) -> Option<Reason> {
        let cause = |kind| Cause { kind, about: About::Consumer(consumer.id) };
        let oldest = status.lag.oldest_published_at?;
        let threshold = TimeDelta::seconds(consumer.lag_threshold_seconds.into());
        let reported = status.reasons.iter().find(|reason| reason.code == "behind");
        match (reported, incidents.open(&cause(IncidentKind::ConsumerBehind))) {
            (Some(reason), Some(_)) => Some(reason.clone()),
            (None, Some(incident)) => {
                let reported_at = self.consumer_statuses.get(&consumer.id).map_or(now, |status| status.checked_at);
                (reported_at - oldest > threshold / 2).then(|| incident.reason.clone())
            }
            (None, None) => None,
            (Some(reason), None) => {
                let of_target = Cause { kind: IncidentKind::TargetUnhealthy, about: About::Target(consumer.target) };
                let hindrances = [of_target, cause(IncidentKind::ConsumerHalted), cause(IncidentKind::ConsumerStalled)];
                let ended = hindrances.iter().filter_map(|hindrance| incidents.hindered_until(hindrance, now));
                let works_since = ended.chain(self.paused_until.get(&consumer.id).copied()).max();
                let gets_on = self.still.get(&consumer.id).is_some_and(|(_, since)| now - *since < threshold);
                let catches_up = gets_on && works_since.is_some_and(|at| oldest < at && now - at < CATCH_UP_WITHIN);
                (!catches_up).then(|| reason.clone())
            }
        }
    }
}
