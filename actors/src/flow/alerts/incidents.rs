//! Incidents: what is wrong for long enough, until nothing is for long enough.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{About, Cause, Pace, World, world::Condition};
use crate::model::{Incident, IncidentId, Resolution, Subject};

/// The numbers of an incident are saved this often while nothing else of it changes,
const NUMBERS_EVERY: TimeDelta = TimeDelta::seconds(60);

/// and of so many incidents at a time, however many there are.
const NUMBERS_OF: usize = 20;

/// What an incident's id is made within.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0b_53a5_6c1e_4f0c_9a53_1b1f_58a2_77d1);

/// The incidents that are known: those that are open, and those that are over and not forgotten yet.
pub struct Incidents {
    pace: Pace,
    all: HashMap<IncidentId, Incident>,
    /// The last of each cause.
    last: HashMap<Cause, IncidentId>,
    /// Since when something is wrong, again and again, that is no incident yet, and when it last was.
    unsettled: HashMap<Cause, (DateTime<Utc>, DateTime<Utc>)>,
    /// When each that is open was last returned to be saved.
    saved_at: HashMap<IncidentId, DateTime<Utc>>,
}

impl Incidents {
    /// Goes on from what the store holds.
    pub fn resume(all: impl IntoIterator<Item = Incident>, pace: Pace) -> Self {
        let mut incidents: Vec<_> = all.into_iter().collect();
        // One that is open is the last of its cause, whatever the clocks say.
        incidents.sort_by_key(|incident| (incident.resolved_at.is_none(), incident.opened_at));
        let last = incidents.iter().map(|incident| (Cause::of(incident), incident.id)).collect();
        let all = incidents.into_iter().map(|incident| (incident.id, incident)).collect();
        Self { pace, all, last, unsettled: HashMap::new(), saved_at: HashMap::new() }
    }

    /// All that are known.
    pub fn all(&self) -> impl Iterator<Item = &Incident> {
        self.all.values()
    }

    /// Those that are not over.
    pub fn all_open(&self) -> impl Iterator<Item = &Incident> {
        self.all().filter(|incident| incident.resolved_at.is_none())
    }

    /// The one of this cause that is not over.
    pub(super) fn open(&self, cause: &Cause) -> Option<&Incident> {
        self.last(cause).filter(|incident| incident.resolved_at.is_none())
    }

    fn last(&self, cause: &Cause) -> Option<&Incident> {
        self.last.get(cause).and_then(|id| self.all.get(id))
    }

    /// Until when this cause hindered somebody whom it hinders no more.
    pub(super) fn hindered_until(&self, cause: &Cause, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.last(cause).map(|incident| incident.cleared_at.unwrap_or(now))
    }

    /// Looks at what is wrong now, and returns the incidents that have changed, to be saved.
    pub fn look(&mut self, world: &mut World, now: DateTime<Utc>) -> Vec<Incident> {
        let picture = world.picture(self, now);
        let mut changed = Vec::new();
        let mut numbers_of = NUMBERS_OF;
        let open: Vec<_> = self.all_open().map(|incident| (Cause::of(incident), incident.id)).collect();
        for (cause, id) in open {
            let Some(incident) = self.all.get_mut(&id) else { continue };
            let is_changed = match picture.wrong.get(&cause) {
                Some(condition) => {
                    let is_due = self.saved_at.get(&id).is_none_or(|at| (now - *at).abs() >= NUMBERS_EVERY);
                    let news = goes_on(incident, condition);
                    let is_taken = news == News::Numbers && is_due && numbers_of > 0;
                    numbers_of -= usize::from(is_taken);
                    is_taken || news == News::Other
                }
                None if picture.unclear.contains(&cause.about) => false,
                None => clears(incident, world.resolution(&cause.about), self.pace, now),
            };
            if is_changed {
                self.saved_at.insert(id, now);
                changed.push(incident.clone());
            }
        }
        // What comes again and again, with short breaks, has not gone.
        let settle = self.pace.settle;
        self.unsettled.retain(|_, (_, last)| now - *last < settle);
        for (cause, condition) in picture.wrong {
            if self.open(&cause).is_none() {
                changed.extend(self.settles(cause, condition, now));
            }
        }
        changed
    }

    /// Opens an incident, if that has been wrong for long enough.
    fn settles(&mut self, cause: Cause, condition: Condition, now: DateTime<Utc>) -> Option<Incident> {
        // A time in the future is one that was read off another clock.
        let since = condition.reason.since.min(now);
        let (first_seen, last_seen) = self.unsettled.entry(cause.clone()).or_insert((since, now));
        *last_seen = now;
        if now - (*first_seen).min(since) < self.pace.settle {
            return None;
        }
        self.unsettled.remove(&cause);
        let Condition { kind, subject, consumers, records, behind, reason } = condition;
        let incident = Incident {
            id: next_id(&cause, self.last.get(&cause), reason.since),
            kind,
            subject,
            consumers,
            records,
            behind,
            reason,
            opened_at: now,
            cleared_at: None,
            resolved_at: None,
            resolution: None,
        };
        self.last.insert(cause, incident.id);
        self.saved_at.insert(incident.id, now);
        self.all.insert(incident.id, incident.clone());
        Some(incident)
    }

    /// Forgets those that were over before `before`, and returns them. The last of a cause stays, while there is what it is
    /// about: the id of the next one is made of it.
    pub fn forget(&mut self, before: DateTime<Utc>) -> Vec<IncidentId> {
        let is_last = |incident: &Incident| self.last.get(&Cause::of(incident)) == Some(&incident.id);
        let is_old = |incident: &&Incident| {
            let is_of_node = matches!(incident.subject, Subject::Node { .. });
            let stays = is_last(incident) && !is_of_node && incident.resolution != Some(Resolution::Deleted);
            !stays && incident.resolved_at.is_some_and(|at| at < before)
        };
        let old: Vec<_> = self.all().filter(is_old).map(|incident| incident.id).collect();
        for id in &old {
            self.all.remove(id);
            self.saved_at.remove(id);
        }
        self.last.retain(|_, id| self.all.contains_key(id));
        old
    }
}

/// Made of the one before it, so that two nodes that both believe to be the one make the same. Of a node none before it is
/// kept, and since when it is silent says enough.
fn next_id(cause: &Cause, before: Option<&IncidentId>, since: DateTime<Utc>) -> IncidentId {
    let about = match &cause.about {
        About::Target(id) => format!("target {id}"),
        About::Consumer(id) => format!("consumer {id}"),
        About::Node(name) => format!("node {name}"),
    };
    let before = match (before, &cause.about) {
        (_, About::Node(_)) => since.to_rfc3339(),
        (Some(before), _) => before.to_string(),
        (None, _) => "none".into(),
    };
    IncidentId(Uuid::new_v5(&NAMESPACE, format!("{} {about} after {before}", cause.kind.as_str()).as_bytes()))
}

/// What is new of an incident that goes on.
#[derive(PartialEq)]
enum News {
    Nothing,
    Numbers,
    Other,
}

/// Takes over what is wrong now.
fn goes_on(incident: &mut Incident, now: &Condition) -> News {
    let comes_back = incident.cleared_at.take().is_some();
    let is_other = incident.reason.code != now.reason.code;
    let before = incident.clone();
    let since = incident.reason.since;
    incident.subject.clone_from(&now.subject);
    (incident.consumers, incident.records, incident.behind) = (now.consumers, now.records, now.behind);
    incident.reason.clone_from(&now.reason);
    // It has been wrong all the time, also if it was wrong in several ways.
    incident.reason.since = since.min(now.reason.since);
    if comes_back || is_other {
        News::Other
    } else if *incident == before {
        News::Nothing
    } else {
        News::Numbers
    }
}

/// Nothing is wrong now. Returns whether that is news.
fn clears(incident: &mut Incident, resolution: Resolution, pace: Pace, now: DateTime<Utc>) -> bool {
    let is_news = incident.cleared_at.is_none();
    let cleared_at = *incident.cleared_at.get_or_insert(now);
    // Who has paused or deleted it knows.
    if resolution != Resolution::Recovered || (now - cleared_at).abs() >= pace.calm() {
        (incident.resolved_at, incident.resolution) = (Some(now), Some(resolution));
        return true;
    }
    is_news
}
