//! Notices: what is said of incidents, once each, and whether it has arrived.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::Pace;
use crate::model::{
    AlertingSettings, Delivery, Destination, Incident, IncidentId, IncidentKind, Notice, NoticeEvent, NoticeId,
};

/// From this many on, they are told in one notice.
const DIGEST_FROM: usize = 4;

/// After this many notices of what began, or went on, or ended, within a while, the next one of that waits.
const MANY: usize = 5;

/// How many incidents one notice is about at most: what fits into a document with room to spare.
const AT_MOST: usize = 5000;

/// What was tried this often keeps nothing else from being delivered.
const PATIENCE: u32 = 5;

/// How many incidents a notice shows.
const SHOWN: usize = 25;

/// The longest wait before a delivery is tried again.
const LONGEST_WAIT: TimeDelta = TimeDelta::minutes(10);

/// What has not arrived by then is of no use any more.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);

/// What a notice's id is made within.
const NAMESPACE: Uuid = Uuid::from_u128(0x0a3e_7d1c_1f6b_4c55_8f4b_62cf_20f5_9e3d);

/// A delivery that is to be tried now.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// What is to be delivered.
    pub notice: Notice,
    /// Where to.
    pub destination: Destination,
}

/// What was said of an incident.
#[derive(Clone, Copy, Default)]
struct Told {
    /// When it was last told of.
    last_at: Option<DateTime<Utc>>,
    is_resolved: bool,
    /// In how many notices.
    times: u32,
}

/// All that was said, and is to be delivered.
pub struct Notices {
    pace: Pace,
    all: HashMap<NoticeId, Notice>,
    told: HashMap<IncidentId, Told>,
}

impl Notices {
    /// Goes on from what the store holds.
    pub fn resume(all: impl IntoIterator<Item = Notice>, pace: Pace) -> Self {
        let mut notices = Self { pace, all: HashMap::new(), told: HashMap::new() };
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|notice| notice.made_at);
        for notice in all {
            notices.add(notice);
        }
        notices
    }

    /// A notice.
    pub fn get(&self, id: NoticeId) -> Option<&Notice> {
        self.all.get(&id)
    }

    /// How many deliveries are still to be made.
    pub fn pending(&self) -> usize {
        self.all.values().flat_map(|notice| &notice.deliveries).filter(|(_, delivery)| is_pending(delivery)).count()
    }

    /// Looks at what is to be said now, and returns new notices, to be saved.
    pub fn look<'a>(
        &mut self,
        incidents: impl Iterator<Item = &'a Incident>,
        settings: &AlertingSettings,
        now: DateTime<Utc>,
    ) -> Vec<Notice> {
        let destinations = destinations(settings);
        // Whoever comes to be told later hears of what is open then.
        if destinations.is_empty() {
            return Vec::new();
        }
        let (mut opened, mut reminded, mut resolved) = (Vec::new(), Vec::new(), Vec::new());
        let reminder = TimeDelta::minutes(settings.reminder_minutes.into());
        for incident in incidents {
            match (self.told.get(&incident.id), incident.resolved_at) {
                // What may be over is not told any more.
                (None, None) if incident.cleared_at.is_none() => opened.push((incident, incident.opened_at)),
                (Some(told), Some(at)) if !told.is_resolved => resolved.push((incident, at)),
                (Some(told), None) if incident.cleared_at.is_none() && !reminder.is_zero() => {
                    let last = told.last_at.unwrap_or(now);
                    if now - last >= reminder {
                        reminded.push((incident, last));
                    }
                }
                (None | Some(_), _) => {}
            }
        }
        let mut made = Vec::new();
        for (event, incidents) in
            [(NoticeEvent::Opened, opened), (NoticeEvent::Reminded, reminded), (NoticeEvent::Resolved, resolved)]
        {
            if self.is_quiet_for_now(event, now) {
                continue;
            }
            for about in self.in_notices(incidents, now) {
                made.push(self.make(event, &about, &destinations, now));
            }
        }
        for notice in &made {
            self.add(notice.clone());
        }
        made
    }

    /// Whether so much of this was told lately that it is better to wait, and tell of more at once.
    fn is_quiet_for_now(&self, event: NoticeEvent, now: DateTime<Utc>) -> bool {
        let is_recent = |notice: &&Notice| notice.event == event && (now - notice.made_at).abs() < self.pace.quiet();
        self.all.values().filter(is_recent).count() >= MANY
    }

    /// Parts incidents among notices: one each if they are few. Nothing is told until the first has waited a while for others.
    fn in_notices<'a>(
        &self,
        mut incidents: Vec<(&'a Incident, DateTime<Utc>)>,
        now: DateTime<Utc>,
    ) -> Vec<Vec<&'a Incident>> {
        let has_waited = incidents.iter().any(|(_, since)| (now - *since).abs() >= self.pace.gather());
        if !has_waited {
            return Vec::new();
        }
        incidents.sort_by_key(|(incident, since)| (incident.kind, *since, incident.id));
        let incidents = incidents.into_iter().map(|(incident, _)| incident);
        if incidents.len() >= DIGEST_FROM {
            let incidents: Vec<_> = incidents.collect();
            incidents.chunks(AT_MOST).map(<[_]>::to_vec).collect()
        } else {
            incidents.map(|incident| vec![incident]).collect()
        }
    }

    fn make(
        &self,
        event: NoticeEvent,
        about: &[&Incident],
        destinations: &[Destination],
        now: DateTime<Utc>,
    ) -> Notice {
        let incidents: Vec<_> = about.iter().map(|incident| incident.id).collect();
        let pending = Delivery::Pending { attempts: 0, next_at: now, error: None };
        Notice {
            id: self.id_of(event, &incidents),
            event,
            incidents,
            shown: about.iter().take(SHOWN).copied().cloned().collect(),
            counts: count(about),
            made_at: now,
            deliveries: destinations.iter().map(|destination| (destination.clone(), pending.clone())).collect(),
        }
    }

    /// Made of what it says and of what was said before, so that two nodes that both believe to be the one make the same.
    fn id_of(&self, event: NoticeEvent, incidents: &[IncidentId]) -> NoticeId {
        let mut name = event.as_str().to_owned();
        for id in incidents.iter().collect::<BTreeSet<_>>() {
            let times = self.told.get(id).map_or(0, |told| told.times);
            name.extend([" ".into(), id.to_string(), " ".into(), times.to_string()]);
        }
        NoticeId(Uuid::new_v5(&NAMESPACE, name.as_bytes()))
    }

    fn add(&mut self, notice: Notice) {
        for id in &notice.incidents {
            let told = self.told.entry(*id).or_default();
            told.last_at = Some(notice.made_at);
            told.is_resolved |= notice.event == NoticeEvent::Resolved;
            told.times += 1;
        }
        self.all.insert(notice.id, notice);
    }

    /// What is to be delivered now: to each destination that is not `busy`, what it has to hear first, out of what is saved.
    ///
    /// What was tried in vain for a while is passed by: it may be this one alone that does not arrive.
    pub fn due(&self, busy: &HashSet<Destination>, unsaved: &HashSet<NoticeId>, now: DateTime<Utc>) -> Vec<Due> {
        // A time far ahead is one of a clock that was set back.
        let is_time = |next_at: DateTime<Utc>| next_at <= now || next_at - now > LONGEST_WAIT * 2;
        let mut first: HashMap<&Destination, (&Notice, bool)> = HashMap::new();
        for notice in self.all.values().filter(|notice| !unsaved.contains(&notice.id)) {
            for (destination, delivery) in &notice.deliveries {
                let Delivery::Pending { attempts, next_at, .. } = *delivery else { continue };
                let is_due = is_time(next_at);
                if busy.contains(destination) || (!is_due && attempts >= PATIENCE) {
                    continue;
                }
                let earliest = first.entry(destination).or_insert((notice, is_due));
                if (notice.made_at, notice.id) < (earliest.0.made_at, earliest.0.id) {
                    *earliest = (notice, is_due);
                }
            }
        }
        let due = first.into_iter().filter(|(_, (_, is_due))| *is_due);
        due.map(|(destination, (notice, _))| Due { notice: notice.clone(), destination: destination.clone() }).collect()
    }

    /// A delivery was tried, and has `failed` for a reason that is permanent or not; the notice is to be saved. Returns how
    /// that leaves the delivery. `chance` is drawn evenly from 0 to 1.
    pub fn tried(
        &mut self,
        id: NoticeId,
        destination: &Destination,
        failed: Option<(String, bool)>,
        now: DateTime<Utc>,
        chance: f64,
    ) -> Option<&Delivery> {
        let notice = self.all.get_mut(&id)?;
        let is_late = now - notice.made_at > GIVE_UP_AFTER;
        let (_, delivery) = notice.deliveries.iter_mut().find(|(to, _)| to == destination)?;
        let Delivery::Pending { attempts, .. } = *delivery else { return None };
        *delivery = match failed {
            None => Delivery::Delivered { at: now },
            Some((error, is_permanent)) if is_permanent || is_late => Delivery::GivenUp { at: now, error },
            Some((error, _)) => {
                let next_at = now + wait(self.pace.gather(), attempts, chance);
                Delivery::Pending { attempts: attempts + 1, next_at, error: Some(error) }
            }
        };
        Some(delivery)
    }

    /// Forgets what was said before `before` of nothing but incidents that are forgotten, and returns it.
    pub fn forget(&mut self, before: DateTime<Utc>, forgotten: &[IncidentId]) -> Vec<NoticeId> {
        for id in forgotten {
            self.told.remove(id);
        }
        let is_old =
            |notice: &&Notice| notice.made_at < before && !notice.incidents.iter().any(|id| self.told.contains_key(id));
        let old: Vec<_> = self.all.values().filter(is_old).map(|notice| notice.id).collect();
        for id in &old {
            self.all.remove(id);
        }
        old
    }
}

fn is_pending(delivery: &Delivery) -> bool {
    matches!(delivery, Delivery::Pending { .. })
}

fn destinations(settings: &AlertingSettings) -> Vec<Destination> {
    let recipients = settings.recipients.iter().map(|address| Destination::Email(address.clone()));
    recipients.chain(settings.webhooks.iter().map(|webhook| Destination::Webhook(webhook.name.clone()))).collect()
}

/// How many there are of each kind.
fn count(incidents: &[&Incident]) -> Vec<(IncidentKind, u64)> {
    let mut counts: BTreeMap<IncidentKind, u64> = BTreeMap::new();
    for incident in incidents {
        *counts.entry(incident.kind).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// Doubles with each attempt, with jitter.
fn wait(first: TimeDelta, attempts: u32, chance: f64) -> TimeDelta {
    let longest = first.checked_mul(1 << attempts.min(16)).map_or(LONGEST_WAIT, |wait| wait.min(LONGEST_WAIT));
    let longest = longest.to_std().unwrap_or_default();
    TimeDelta::from_std(longest.mul_f64(0.5 + chance / 2.0)).unwrap_or(LONGEST_WAIT)
}
