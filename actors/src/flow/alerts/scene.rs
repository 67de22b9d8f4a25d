//! A scene to play alerting in: a world, a store, and a mail server, without any of them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Due, Incidents, Notices, Pace, World};
use crate::model::{
    AlertingSettings, Applied, Connection, Consumer, ConsumerId, ConsumerStatus, Delivery, Desired, Filter, Idx,
    Incident, IncidentId, Lag, Limits, Metadata, Notice, NoticeEvent, NoticeId, Provider, Reason, Rewind, RunState,
    Severity, Subject, TableName, Target, TargetId, TargetState, TargetStatus, Tls, UnsupportedText,
};

pub(super) const PACE: Pace = Pace { settle: TimeDelta::seconds(30) };

/// How often it is looked; less often in a long time.
const STEP: i64 = 5;
const STEPS_AT_MOST: i64 = 500;

/// What has arrived: what happened to whom, and how many incidents it was about.
pub(super) type Mail = (NoticeEvent, Vec<String>, usize);

/// Where one can die without saying anything twice, or leaving it out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Point {
    /// Nothing of what was decided is saved.
    Decided,
    /// The incidents are saved, and not what is to be said of them.
    IncidentsSaved,
    /// Everything is saved, and nothing delivered.
    Delivering,
}

pub(super) struct Scene {
    pub(super) now: DateTime<Utc>,
    pub(super) world: World,
    pub(super) incidents: Incidents,
    pub(super) notices: Notices,
    pub(super) settings: AlertingSettings,
    pub(super) saved_incidents: HashMap<IncidentId, Incident>,
    pub(super) saved_notices: HashMap<NoticeId, Notice>,
    /// What the mail server says to whatever is sent, if it does not take it.
    pub(super) refuses: Option<(&'static str, bool)>,
    /// Where whoever alerts dies, the next time that he comes there.
    pub(super) dies_at: Option<Point>,
    /// A notice that never arrives.
    pub(super) only: Option<NoticeId>,
    /// A target that nobody reports on.
    pub(super) stuck: Option<TargetId>,
    pub(super) attempts: usize,
    pub(super) mails: Vec<Mail>,
}

impl Scene {
    /// A scene with consumers `1`, `2`, … of targets `a`, `b`, …, as many as it says for each.
    pub(super) fn of(consumers: &[u128]) -> Self {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let settings = AlertingSettings { recipients: vec!["ops@example.com".into()], ..AlertingSettings::default() };
        let mut scene = Self {
            now,
            world: World::new(now),
            incidents: Incidents::resume([], PACE),
            notices: Notices::resume([], PACE),
            settings,
            saved_incidents: HashMap::new(),
            saved_notices: HashMap::new(),
            refuses: None,
            dies_at: None,
            only: None,
            stuck: None,
            attempts: 0,
            mails: Vec::new(),
        };
        let mut number = 0;
        for (place, &of_target) in (1..).zip(consumers) {
            let target = target(place, now);
            for _ in 0..of_target {
                number += 1;
                scene.world.consumers.insert(id(number), consumer(number, target.id, now));
                scene.world.consumer_statuses.insert(id(number), status(now));
            }
            let healthy = TargetStatus {
                state: TargetState::Healthy,
                reason: None,
                checked_at: now,
                consumers_seen: HashMap::new(),
                node: "n1".into(),
            };
            scene.world.target_statuses.insert(target.id, healthy);
            scene.world.targets.insert(target.id, target);
        }
        scene
    }

    /// Changes what a consumer reports.
    pub(super) fn reports(&mut self, number: u128, change: impl FnOnce(&mut ConsumerStatus)) {
        change(self.world.consumer_statuses.get_mut(&id(number)).expect("a consumer"));
    }

    /// A target goes down, or comes up.
    pub(super) fn is_up(&mut self, place: u128, is_up: bool) {
        let reason = (!is_up).then(|| reason("target_unhealthy", self.now));
        let status = self.world.target_statuses.get_mut(&place_id(place)).expect("a target");
        (status.state, status.reason) = (if is_up { TargetState::Healthy } else { TargetState::Unhealthy }, reason);
    }

    /// Time passes, in which everybody reports who is not of a silent node.
    pub(super) fn pass(&mut self, seconds: i64) {
        self.pass_but_for(seconds, &HashSet::new());
    }

    pub(super) fn pass_but_for(&mut self, seconds: i64, silent: &HashSet<&str>) {
        let step = STEP.max(seconds / STEPS_AT_MOST);
        for _ in 0..seconds / step {
            self.now += TimeDelta::seconds(step);
            for (id, status) in &mut self.world.target_statuses {
                if !silent.contains(status.node.as_str()) && self.stuck != Some(*id) {
                    status.checked_at = self.now;
                }
            }
            for status in self.world.consumer_statuses.values_mut().filter(|s| !silent.contains(s.node.as_str())) {
                status.checked_at = self.now;
            }
            self.look();
            self.deliver();
        }
    }

    pub(super) fn look(&mut self) {
        let incidents = self.incidents.look(&mut self.world, self.now);
        let notices = self.notices.look(self.incidents.all(), &self.settings, self.now);
        if self.survives(Point::Decided) {
            self.saved_incidents.extend(incidents.into_iter().map(|incident| (incident.id, incident)));
            if self.survives(Point::IncidentsSaved) {
                self.saved_notices.extend(notices.into_iter().map(|notice| (notice.id, notice)));
            }
        }
    }

    /// Whoever alerts may be meant to die here.
    fn survives(&mut self, point: Point) -> bool {
        let dies = self.dies_at.take_if(|at| *at == point).is_some();
        if dies {
            self.move_on();
        }
        !dies
    }

    pub(super) fn deliver(&mut self) {
        for Due { notice, destination } in self.notices.due(&HashSet::new(), &HashSet::new(), self.now) {
            if !self.survives(Point::Delivering) {
                return;
            }
            self.attempts += 1;
            let refuses = self.refuses.or((self.only == Some(notice.id)).then_some(("451 not this one", false)));
            if refuses.is_none() {
                let names = notice.shown.iter().map(|incident| name(&incident.subject)).collect();
                self.mails.push((notice.event, names, notice.incidents.len()));
            }
            let failed = refuses.map(|(error, is_permanent)| (error.to_owned(), is_permanent));
            self.notices.tried(notice.id, &destination, failed, self.now, 1.0);
            self.saved_notices.extend(self.notices.get(notice.id).map(|notice| (notice.id, notice.clone())));
        }
    }

    /// Whoever alerted is gone, and another goes on from what is saved.
    pub(super) fn move_on(&mut self) {
        self.incidents = Incidents::resume(self.saved_incidents.values().cloned(), PACE);
        self.notices = Notices::resume(self.saved_notices.values().cloned(), PACE);
        let World { targets, consumers, target_statuses, consumer_statuses, .. } =
            std::mem::replace(&mut self.world, World::new(self.now));
        let world = &mut self.world;
        (world.targets, world.consumers) = (targets, consumers);
        (world.target_statuses, world.consumer_statuses) = (target_statuses, consumer_statuses);
    }

    /// What has arrived since this was last asked.
    pub(super) fn mails(&mut self) -> Vec<(NoticeEvent, String)> {
        let mails = std::mem::take(&mut self.mails);
        mails.into_iter().map(|(event, names, _)| (event, names.join(" "))).collect()
    }

    pub(super) fn deliveries(&self) -> Vec<&Delivery> {
        self.saved_notices.values().flat_map(|notice| &notice.deliveries).map(|(_, delivery)| delivery).collect()
    }
}

pub(super) fn name(subject: &Subject) -> String {
    match subject {
        Subject::Target { name, .. } | Subject::Consumer { name, .. } | Subject::Node { name } => name.clone(),
    }
}

pub(super) fn id(number: u128) -> ConsumerId {
    ConsumerId(uuid::Uuid::from_u128(number))
}

pub(super) fn place_id(place: u128) -> TargetId {
    TargetId(uuid::Uuid::from_u128(place))
}

pub(super) fn reason(code: &str, since: DateTime<Utc>) -> Reason {
    let (summary, fix) = (format!("it is {code}"), "mend it".into());
    Reason { code: code.into(), severity: Severity::Error, summary, since, cause: None, target: None, fix }
}

fn target(place: u128, now: DateTime<Utc>) -> Target {
    let connection = Connection {
        host: "localhost".into(),
        port: 5432,
        database: "app".into(),
        username: "sequin".into(),
        password: None,
        password_file: None,
        tls: Tls::default(),
        bastion: None,
    };
    let letter = u8::try_from(place).expect("few") - 1 + b'a';
    Target {
        id: place_id(place),
        name: char::from(letter).into(),
        connection,
        pool_size: 4,
        limits: Limits::default(),
        metadata: Metadata::new(),
        created_at: now,
        updated_at: now,
    }
}

fn consumer(number: u128, target: TargetId, now: DateTime<Utc>) -> Consumer {
    Consumer {
        id: id(number),
        name: number.to_string(),
        target,
        filter: Filter::Provider(Provider::parse("hubspot").expect("a provider")),
        table: TableName { schema: "sequin".into(), table: "all".into() },
        unsupported_text: UnsupportedText::default(),
        lag_threshold_seconds: 300,
        lag_threshold_records: None,
        metadata: Metadata::new(),
        desired: Desired::Running,
        attempt: 1,
        rewind: Rewind::default(),
        created_at: now,
        updated_at: now,
    }
}

fn status(now: DateTime<Utc>) -> ConsumerStatus {
    ConsumerStatus {
        state: RunState::Live,
        reasons: Vec::new(),
        checked_at: now,
        backfill: None,
        checkpoint: Idx(1),
        lag: Lag::default(),
        eta_seconds: None,
        records_per_second: 0.0,
        applied: Applied::default(),
        quarantined: 0,
        node: "n1".into(),
    }
}
