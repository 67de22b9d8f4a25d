//! Whatever happens, in whatever order, and whoever dies where: everything is told once, and nothing is left out.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{
    Cause,
    scene::{Point, Scene, id, name, reason},
    tests::{halts, lags, recovers},
};
use crate::model::{Delivery, Desired, NoticeEvent, RunState};

const CONSUMERS: [u128; 3] = [2, 1, 3];

#[derive(Clone, Debug)]
enum Happening {
    Halts(u128),
    Lags(u128, i64),
    IsRefused(u128),
    Recovers(u128),
    IsPaused(u128, bool),
    IsUp(u128, bool),
    MailIsTaken(bool),
    Dies(Point),
    MovesOn,
    Passes(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let consumer = 1..=CONSUMERS.iter().sum::<u128>();
    let place = 1..=CONSUMERS.len() as u128;
    let point = prop_oneof![Just(Point::Decided), Just(Point::IncidentsSaved), Just(Point::Delivering)];
    prop_oneof![
        1 => consumer.clone().prop_map(Happening::Halts),
        1 => (consumer.clone(), 200..700_i64).prop_map(|(number, age)| Happening::Lags(number, age)),
        1 => consumer.clone().prop_map(Happening::IsRefused),
        2 => consumer.clone().prop_map(Happening::Recovers),
        1 => (consumer, any::<bool>()).prop_map(|(number, is_paused)| Happening::IsPaused(number, is_paused)),
        3 => (place, any::<bool>()).prop_map(|(place, is_up)| Happening::IsUp(place, is_up)),
        1 => any::<bool>().prop_map(Happening::MailIsTaken),
        3 => point.prop_map(Happening::Dies),
        1 => Just(Happening::MovesOn),
        8 => prop_oneof![Just(5_i64), Just(35), Just(70), Just(400)].prop_map(Happening::Passes),
    ]
}

fn happens(scene: &mut Scene, happening: &Happening) {
    let now = scene.now;
    match *happening {
        Happening::Halts(number) => scene.reports(number, halts(now)),
        Happening::Lags(number, age) => lags(scene, number, age),
        Happening::IsRefused(number) => scene.reports(number, |status| {
            (status.state, status.quarantined) = (RunState::Live, 1);
            status.reasons = vec![reason("records_quarantined", now)];
        }),
        Happening::Recovers(number) => scene.reports(number, recovers),
        Happening::IsPaused(number, is_paused) => {
            let consumer = scene.world.consumers.get_mut(&id(number)).expect("a consumer");
            consumer.desired = if is_paused { Desired::Paused } else { Desired::Running };
            consumer.updated_at = now;
        }
        Happening::IsUp(place, is_up) => scene.is_up(place, is_up),
        Happening::MailIsTaken(is_taken) => scene.refuses = (!is_taken).then_some(("421 not now", false)),
        Happening::Dies(point) => scene.dies_at = Some(point),
        Happening::MovesOn => scene.move_on(),
        Happening::Passes(seconds) => scene.pass(seconds),
    }
}

/// Nothing was said twice, and nothing of what was not said before.
fn is_told_well(scene: &Scene) {
    let mut notices: Vec<_> = scene.saved_notices.values().collect();
    notices.sort_by_key(|notice| notice.made_at);
    let mut told: HashMap<_, Vec<_>> = HashMap::new();
    for notice in notices {
        for incident in &notice.incidents {
            told.entry(incident).or_default().push(notice.event);
        }
    }
    for (incident, events) in &told {
        let expected = [NoticeEvent::Opened, NoticeEvent::Resolved];
        assert!(expected.starts_with(events), "{incident}: {events:?}");
    }
    let open = scene.saved_incidents.values().filter(|incident| incident.resolved_at.is_none());
    let mut causes = HashSet::new();
    for incident in open {
        assert!(causes.insert(Cause::of(incident)), "there are two of {:?}", incident.subject);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_told_once_and_nothing_is_left_out(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut scene = Scene::of(&CONSUMERS);
        scene.settings.reminder_minutes = 0;
        for happening in &happenings {
            happens(&mut scene, happening);
            is_told_well(&scene);
        }
        // In the end everything is well, and then one is not, for longer than people are left in peace.
        scene.dies_at = None;
        scene.refuses = None;
        for number in 1..=CONSUMERS.iter().sum() {
            scene.reports(number, recovers);
        }
        for place in 1..=CONSUMERS.len() as u128 {
            scene.is_up(place, true);
        }
        scene.world.consumers.get_mut(&id(1)).expect("it").desired = Desired::Running;
        scene.pass(600);
        let now = scene.now;
        scene.reports(1, halts(now));
        for _ in 0..4 {
            scene.pass(600);
        }
        is_told_well(&scene);
        let open: Vec<_> = scene.incidents.all_open().map(|incident| (name(&incident.subject), incident.id)).collect();
        prop_assert_eq!(open.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["1"]);
        let is_told = |event| {
            let of_event = scene.saved_notices.values().filter(move |notice| notice.event == event);
            of_event.flat_map(|notice| notice.incidents.clone()).collect::<HashSet<_>>()
        };
        prop_assert!(is_told(NoticeEvent::Opened).contains(&open[0].1), "it was left out");
        let still_open = &is_told(NoticeEvent::Opened) - &is_told(NoticeEvent::Resolved);
        prop_assert_eq!(still_open, HashSet::from([open[0].1]), "people believe that something is wrong");
        let has_arrived = |delivery: &&Delivery| matches!(delivery, Delivery::Delivered { .. });
        prop_assert!(scene.deliveries().iter().all(has_arrived));
        // What died before it delivered has delivered nothing, so each has arrived once.
        prop_assert_eq!(scene.mails.len(), scene.saved_notices.len());
    }
}
