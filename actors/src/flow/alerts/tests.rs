//! What people are told of what happens.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    About,
    scene::{Scene, id, place_id, reason},
};
use crate::model::{ConsumerStatus, Delivery, Desired, IncidentKind, Lag, NoticeEvent, Resolution, RunState, Severity};
use NoticeEvent::{Opened, Reminded, Resolved};

const DAY: i64 = 86_400;

pub(super) fn halts(at: DateTime<Utc>) -> impl FnOnce(&mut ConsumerStatus) {
    move |status| {
        status.state = RunState::Halted;
        status.reasons = vec![reason("table_missing", at)];
    }
}

pub(super) fn recovers(status: &mut ConsumerStatus) {
    status.state = RunState::Live;
    status.reasons.clear();
    status.lag = Lag::default();
}

/// Its oldest record is as old as it says; it says itself what it makes of that.
pub(super) fn lags(scene: &mut Scene, number: u128, age: i64) {
    let now = scene.now;
    let oldest = now - TimeDelta::seconds(age);
    scene.reports(number, |status| {
        status.lag = Lag { records: 12_400, oldest_published_at: Some(oldest) };
        let is_behind = (age > 300).then(|| reason("behind", oldest + TimeDelta::seconds(300)));
        status.reasons = is_behind.into_iter().collect();
        status.checkpoint.0 += 1;
    });
}

fn told(event: NoticeEvent, name: &str) -> Vec<(NoticeEvent, String)> {
    vec![(event, name.into())]
}

#[test]
fn a_target_that_goes_down_is_one_notice_which_counts_its_consumers_and_so_is_its_recovery() {
    let mut scene = Scene::of(&[50, 1]);
    scene.pass(60);
    scene.is_up(1, false);
    for number in 1..=50 {
        scene.reports(number, |status| {
            status.state = RunState::Waiting;
            status.reasons = vec![reason("target_unhealthy", status.checked_at)];
        });
    }
    scene.pass(600);
    assert_eq!(scene.mails(), told(Opened, "a"));
    let incident = scene.incidents.all_open().next().expect("one").clone();
    assert_eq!((incident.kind, incident.consumers), (IncidentKind::TargetUnhealthy, 50));
    scene.is_up(1, true);
    // They do not know it yet.
    scene.pass(10);
    for number in 1..=50 {
        scene.reports(number, recovers);
    }
    scene.pass(600);
    assert_eq!(scene.mails(), told(Resolved, "a"));
    assert_eq!(scene.saved_incidents.len(), 1);
}

#[test]
fn what_is_over_before_it_has_settled_is_not_told_unless_it_comes_again_and_again() {
    for (well_for, told) in [(60, vec![]), (20, told(Opened, "a"))] {
        let mut scene = Scene::of(&[1]);
        for _ in 0..20 {
            scene.is_up(1, false);
            scene.pass(20);
            scene.is_up(1, true);
            scene.pass(well_for);
        }
        assert_eq!((scene.saved_incidents.len(), scene.mails()), (told.len(), told));
    }
}

#[test]
fn what_comes_back_before_it_was_over_is_the_same_incident_and_told_once() {
    let mut scene = Scene::of(&[1]);
    for _ in 0..20 {
        scene.is_up(1, false);
        scene.pass(45);
        scene.is_up(1, true);
        scene.pass(45);
    }
    assert_eq!((scene.mails(), scene.saved_incidents.len()), (told(Opened, "a"), 1));
    scene.pass(120);
    assert_eq!(scene.mails(), told(Resolved, "a"));
    scene.is_up(1, false);
    scene.pass(60);
    assert_eq!((scene.mails(), scene.saved_incidents.len()), (told(Opened, "a"), 2), "that is another one");
}

#[test]
fn each_thing_that_a_consumer_can_suffer_from_has_its_kind() {
    let kinds = [
        ("table_missing", RunState::Halted, IncidentKind::ConsumerHalted),
        ("internal_fault", RunState::Waiting, IncidentKind::ConsumerStalled),
        ("stalled", RunState::Waiting, IncidentKind::ConsumerStalled),
        ("backfill_stalled", RunState::Backfilling, IncidentKind::ConsumerStalled),
        ("records_quarantined", RunState::Live, IncidentKind::RecordsQuarantined),
    ];
    for (code, state, kind) in kinds {
        let mut scene = Scene::of(&[1]);
        scene.reports(1, |status| {
            (status.state, status.quarantined) = (state, 3);
            status.reasons = vec![reason(code, status.checked_at)];
        });
        scene.pass(60);
        let incidents: Vec<_> = scene.incidents.all().map(|incident| (incident.kind, incident.records)).collect();
        let records = (kind == IncidentKind::RecordsQuarantined).then_some(3);
        assert_eq!(incidents, [(kind, records)], "{code}");
        assert_eq!(scene.mails(), told(Opened, "1"), "{code}");
    }
}

#[test]
fn a_warning_is_shown_and_not_told() {
    let mut scene = Scene::of(&[1]);
    scene.reports(1, |status| {
        let warning = reason("checkpoint_not_saved", status.checked_at);
        status.reasons = vec![crate::model::Reason { severity: Severity::Warning, ..warning }];
    });
    scene.pass(600);
    assert_eq!(scene.mails(), []);
}

#[test]
fn who_is_behind_is_told_of_until_it_is_well_below_its_threshold() {
    let mut scene = Scene::of(&[1]);
    for age in [290, 310, 290, 310, 500, 290, 310, 160, 290] {
        lags(&mut scene, 1, age);
        scene.pass(60);
    }
    assert_eq!(scene.mails(), told(Opened, "1"));
    let behind = scene.incidents.all_open().next().and_then(|incident| incident.behind).expect("it is behind");
    assert_eq!(behind.records, 12_400);
    for _ in 0..20 {
        lags(&mut scene, 1, 140);
        scene.pass(5);
    }
    assert_eq!(scene.mails(), told(Resolved, "1"));
}

#[test]
fn who_catches_up_after_an_outage_is_not_behind_and_who_does_not_get_on_is() {
    let mut scene = Scene::of(&[2]);
    scene.pass(60);
    scene.is_up(1, false);
    scene.pass(1200);
    scene.is_up(1, true);
    let outage = 1200;
    for step in 0..20 {
        // One gets on with what has gathered; the other stays where it is.
        lags(&mut scene, 1, outage);
        lags(&mut scene, 2, outage + step * 30);
        scene.reports(2, |status| status.checkpoint.0 = 7);
        scene.pass(30);
    }
    assert_eq!(scene.mails(), [(Opened, "a".into()), (Resolved, "a".into()), (Opened, "2".into())]);
    // What was published since then is late by itself.
    lags(&mut scene, 1, 400);
    scene.pass(60);
    assert_eq!(scene.mails(), told(Opened, "1"));
}

#[test]
fn who_was_resumed_catches_up_too() {
    let mut scene = Scene::of(&[1]);
    scene.pass(60);
    scene.world.consumers.get_mut(&id(1)).expect("it").desired = Desired::Paused;
    scene.pass(60);
    scene.world.consumers.get_mut(&id(1)).expect("it").desired = Desired::Running;
    for _ in 0..20 {
        lags(&mut scene, 1, DAY);
        scene.pass(30);
    }
    assert_eq!(scene.mails(), []);
    for _ in 0..8 {
        lags(&mut scene, 1, DAY);
        scene.pass(600);
    }
    assert_eq!(scene.mails(), told(Opened, "1"), "not for ever");
}

#[test]
fn many_at_once_are_one_notice_and_many_after_each_other_become_one() {
    let mut scene = Scene::of(&[40]);
    for number in 1..=30 {
        let now = scene.now;
        scene.reports(number, halts(now));
    }
    scene.pass(60);
    let mails = std::mem::take(&mut scene.mails);
    assert_eq!(mails.iter().map(|(event, _, number)| (*event, *number)).collect::<Vec<_>>(), [(Opened, 30)]);
    assert_eq!(mails[0].1.len(), 25, "it shows the first");
    for number in 31..=40 {
        let now = scene.now;
        scene.reports(number, halts(now));
        scene.pass(50);
    }
    scene.pass(900);
    let numbers: Vec<_> = std::mem::take(&mut scene.mails).into_iter().map(|(_, _, number)| number).collect();
    assert_eq!(numbers.iter().sum::<usize>(), 10);
    assert!(numbers.len() <= 5, "{numbers:?}");
    for number in 1..=40 {
        scene.reports(number, recovers);
    }
    scene.pass(120);
    let mails = std::mem::take(&mut scene.mails);
    assert_eq!(mails.iter().map(|(event, _, number)| (*event, *number)).collect::<Vec<_>>(), [(Resolved, 40)]);
}

#[test]
fn what_goes_on_is_told_again_as_often_as_people_want() {
    let mut scene = Scene::of(&[1]);
    let now = scene.now;
    scene.settings.reminder_minutes = 60;
    scene.reports(1, halts(now));
    scene.pass(4 * 3600);
    let reminders = scene.mails();
    assert_eq!(reminders.iter().filter(|(event, _)| *event == Reminded).count(), 3, "{reminders:?}");
    scene.settings.reminder_minutes = 0;
    scene.pass(DAY);
    assert_eq!(scene.mails(), []);
}

#[test]
fn nothing_is_told_twice_nor_left_out_however_often_another_goes_on() {
    let mut scene = Scene::of(&[3, 3]);
    let now = scene.now;
    scene.reports(1, halts(now));
    scene.is_up(2, false);
    for _ in 0..60 {
        scene.pass(5);
        scene.move_on();
    }
    assert_eq!(scene.mails().len(), 2);
    scene.reports(1, recovers);
    scene.is_up(2, true);
    for _ in 0..60 {
        scene.pass(5);
        scene.move_on();
    }
    assert_eq!(scene.mails().into_iter().map(|(event, _)| event).collect::<Vec<_>>(), [Resolved, Resolved]);
    assert_eq!(scene.saved_incidents.len(), 2);
}

#[test]
fn who_recover_one_after_the_other_are_not_each_told_of() {
    let mut scene = Scene::of(&[60]);
    for number in 1..=60 {
        let now = scene.now;
        scene.reports(number, halts(now));
    }
    scene.pass(60);
    for number in 1..=60 {
        scene.reports(number, recovers);
        scene.pass(60);
    }
    scene.pass(1200);
    let mails = std::mem::take(&mut scene.mails);
    let resolved = mails.iter().filter(|(event, ..)| *event == Resolved).map(|(_, _, number)| number);
    assert_eq!(resolved.clone().sum::<usize>(), 60);
    assert!(resolved.count() <= 35, "{mails:?}");
}

#[test]
fn what_alone_does_not_arrive_keeps_nothing_else_from_arriving() {
    let mut scene = Scene::of(&[1]);
    let now = scene.now;
    scene.reports(1, halts(now));
    scene.refuses = Some(("451 not this one", false));
    scene.pass(3600);
    let stuck = scene.saved_notices.keys().copied().next().expect("a notice");
    scene.refuses = None;
    scene.only = Some(stuck);
    scene.reports(1, recovers);
    scene.pass(1200);
    assert_eq!(scene.mails(), told(Resolved, "1"));
}

#[test]
fn who_can_not_be_read_is_not_taken_for_deleted() {
    let mut scene = Scene::of(&[1, 1]);
    let now = scene.now;
    scene.reports(1, halts(now));
    scene.is_up(2, false);
    scene.pass(60);
    scene.move_on();
    scene.world.unreadable = HashSet::from([About::Consumer(id(1)), About::Target(place_id(2))]);
    scene.world.consumers.remove(&id(1));
    scene.world.targets.remove(&place_id(2));
    scene.pass(600);
    assert_eq!(scene.incidents.all_open().count(), 2);
}

#[test]
fn a_node_is_not_blamed_for_one_of_its_targets() {
    let mut scene = Scene::of(&[1, 1]);
    scene.world.target_statuses.get_mut(&place_id(2)).expect("it").node = "silent".into();
    scene.pass(60);
    scene.pass_but_for(300, &HashSet::from(["silent"]));
    assert_eq!(scene.mails(), told(Opened, "silent"));
    let mut scene = Scene::of(&[1, 1]);
    scene.stuck = Some(place_id(2));
    scene.pass(300);
    assert_eq!(scene.mails(), told(Opened, "b"));
}

#[test]
fn two_who_both_believe_to_be_the_one_make_the_same() {
    let (mut scene, mut other) = (Scene::of(&[8]), Scene::of(&[8]));
    for place in [&mut scene, &mut other] {
        for number in 1..=8 {
            let now = place.now;
            place.reports(number, halts(now));
        }
        place.pass(60);
    }
    assert!(!scene.saved_notices.is_empty());
    assert_eq!(scene.saved_incidents, other.saved_incidents);
    assert_eq!(scene.saved_notices.keys().collect::<HashSet<_>>(), other.saved_notices.keys().collect());
}

#[test]
fn a_node_that_falls_silent_is_one_incident_and_whoever_just_came_listens_first() {
    let mut scene = Scene::of(&[3, 2]);
    scene.pass(60);
    let silent = HashSet::from(["n1"]);
    scene.pass_but_for(60, &silent);
    scene.move_on();
    scene.pass_but_for(60, &silent);
    assert_eq!(scene.mails(), []);
    scene.pass_but_for(120, &silent);
    assert_eq!(scene.mails(), told(Opened, "n1"));
    assert_eq!(scene.incidents.all_open().map(|incident| incident.consumers).collect::<Vec<_>>(), [5]);
    scene.move_on();
    scene.pass_but_for(60, &silent);
    assert_eq!(scene.mails(), [], "it is not over because somebody else does not know it yet");
    scene.pass(120);
    assert_eq!(scene.mails(), told(Resolved, "n1"));
}

#[test]
fn a_consumer_that_falls_silent_while_its_target_reports_is_stuck() {
    let mut scene = Scene::of(&[2]);
    scene.reports(2, |status| status.node = "stuck".into());
    scene.pass_but_for(300, &HashSet::from(["stuck"]));
    assert_eq!(scene.mails(), told(Opened, "2"));
    let kinds: Vec<_> = scene.incidents.all_open().map(|incident| incident.kind).collect();
    assert_eq!(kinds, [IncidentKind::ConsumerStalled]);
}

#[test]
fn what_somebody_paused_or_deleted_is_over_at_once() {
    let mut scene = Scene::of(&[2, 1]);
    let now = scene.now;
    scene.reports(1, halts(now));
    scene.reports(2, halts(now));
    scene.is_up(2, false);
    scene.pass(60);
    assert_eq!(scene.mails().len(), 3);
    scene.world.consumers.get_mut(&id(1)).expect("it").desired = Desired::Paused;
    scene.world.consumers.remove(&id(2));
    scene.world.targets.remove(&place_id(2));
    scene.pass(30);
    let mut resolutions: Vec<_> = scene.incidents.all().map(|incident| (incident.kind, incident.resolution)).collect();
    resolutions.sort_by_key(|(kind, resolution)| (*kind, *resolution == Some(Resolution::Deleted)));
    let (paused, deleted) = (Some(Resolution::Paused), Some(Resolution::Deleted));
    let halted = IncidentKind::ConsumerHalted;
    assert_eq!(resolutions, [(IncidentKind::TargetUnhealthy, deleted), (halted, paused), (halted, deleted)]);
    assert_eq!(scene.mails().len(), 3);
}

#[test]
fn what_the_mail_server_does_not_take_is_kept_tried_ever_less_often_and_arrives_in_order() {
    let mut scene = Scene::of(&[1]);
    scene.refuses = Some(("451 try again later", false));
    scene.is_up(1, false);
    scene.pass(7200);
    scene.move_on();
    scene.is_up(1, true);
    scene.pass(7200);
    assert!((10..50).contains(&scene.attempts), "{}", scene.attempts);
    assert_eq!(scene.notices.pending(), 2);
    scene.refuses = None;
    scene.pass(1200);
    assert_eq!(scene.mails(), [(Opened, "a".into()), (Resolved, "a".into())]);
    assert!(scene.deliveries().iter().all(|delivery| matches!(delivery, Delivery::Delivered { .. })));
}

#[test]
fn what_can_never_arrive_is_given_up_at_once_and_everything_else_after_days() {
    let mut scene = Scene::of(&[1]);
    scene.refuses = Some(("550 no such user", true));
    scene.is_up(1, false);
    scene.pass(60);
    assert!(matches!(scene.deliveries()[..], [Delivery::GivenUp { error, .. }] if error == "550 no such user"));
    let mut scene = Scene::of(&[1]);
    scene.refuses = Some(("connection refused", false));
    scene.is_up(1, false);
    scene.pass(3 * DAY + 7200);
    let delivery = scene.saved_notices.values().find(|notice| notice.event == Opened).map(|notice| &notice.deliveries);
    assert!(matches!(delivery.map(Vec::as_slice), Some([(_, Delivery::GivenUp { .. })])), "{delivery:?}");
}

#[test]
fn who_is_named_later_is_told_of_what_is_still_open() {
    let mut scene = Scene::of(&[2]);
    let now = scene.now;
    let recipients = std::mem::take(&mut scene.settings.recipients);
    scene.reports(1, halts(now));
    scene.reports(2, halts(now));
    scene.pass(300);
    scene.reports(2, recovers);
    scene.pass(300);
    assert!(scene.saved_notices.is_empty());
    scene.settings.recipients = recipients;
    scene.pass(10);
    assert_eq!(scene.mails(), told(Opened, "1"));
}

#[test]
fn what_was_over_long_ago_is_forgotten_and_can_happen_again() {
    let mut scene = Scene::of(&[1]);
    for _ in 0..3 {
        scene.is_up(1, false);
        scene.pass(60);
        scene.is_up(1, true);
        scene.pass(120);
    }
    assert_eq!(scene.mails().len(), 6);
    let forgotten = scene.incidents.forget(scene.now + TimeDelta::days(1));
    assert_eq!(forgotten.len(), 2, "the next one's id is made of the last");
    assert_eq!(scene.notices.forget(scene.now + TimeDelta::days(1), &forgotten).len(), 4);
    scene.is_up(1, false);
    scene.pass(60);
    assert_eq!(scene.mails(), told(Opened, "a"));
}
