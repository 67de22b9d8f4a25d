//! The words, of each kind of incident and at each of its ends.

use super::{
    super::samples::{ago, digest, incident, notice, now, resolved},
    *,
};
use crate::model::{Behind, Reason};

fn titles(event: NoticeEvent, change: impl Fn(Incident) -> Incident) -> Vec<String> {
    IncidentKind::ALL.map(|kind| title(&notice(event, vec![change(incident(kind))]))).into()
}

#[test]
fn what_has_begun_is_said_with_how_much_it_is() {
    let expected = [
        "Target app is unhealthy: 500 consumers wait",
        "Consumer hubspot-to-app is behind: 12,400 records, 6 min",
        "Consumer hubspot-to-app has halted: table sequin.hubspot lacks the column upstream_updated_at (timestamptz)",
        "Consumer hubspot-to-app makes no progress: 12,400 records, 6 min",
        "Consumer hubspot-to-app has 3 records in quarantine",
        "Node sequin-2 is silent: 180 consumers wait",
    ];
    assert_eq!(titles(NoticeEvent::Opened, |incident| incident), expected);
    assert_eq!(IncidentKind::ALL.map(|kind| headline(&incident(kind), now())), expected);
}

#[test]
fn what_still_is_is_said_with_how_long() {
    let older = |incident: Incident| {
        let reason = Reason { since: ago(2 * 24 * 60), ..incident.reason };
        Incident { reason, ..incident }
    };
    let expected = [
        "Still: target app has been unhealthy for 2 days: 500 consumers wait",
        "Still: consumer hubspot-to-app has been behind for 2 days: 12,400 records",
        "Still: consumer hubspot-to-app has been halted for 2 days: table sequin.hubspot lacks the column \
         upstream_updated_at (timestamptz)",
        "Still: consumer hubspot-to-app has made no progress for 2 days: 12,400 records",
        "Still: consumer hubspot-to-app has had 3 records in quarantine for 2 days",
        "Still: node sequin-2 has been silent for 2 days: 180 consumers wait",
    ];
    assert_eq!(titles(NoticeEvent::Reminded, older), expected);
}

#[test]
fn what_is_over_is_said_with_how_long_it_lasted_until_it_cleared() {
    let expected = [
        "Resolved: target app is healthy again, after 5 min",
        "Resolved: consumer hubspot-to-app has caught up, after 5 min",
        "Resolved: consumer hubspot-to-app is no longer halted, after 5 min",
        "Resolved: consumer hubspot-to-app makes progress again, after 5 min",
        "Resolved: consumer hubspot-to-app has no more records in quarantine, after 5 min",
        "Resolved: node sequin-2 is back, or others have taken over, after 5 min",
    ];
    assert_eq!(titles(NoticeEvent::Resolved, resolved), expected);
    assert_eq!(IncidentKind::ALL.map(|kind| headline(&resolved(incident(kind)), now())), expected);
}

#[test]
fn one_is_singular_and_nobody_is_not_mentioned() {
    let target = incident(IncidentKind::TargetUnhealthy);
    let with = |consumers| headline(&Incident { consumers, ..target.clone() }, now());
    assert_eq!([with(0), with(1)], ["Target app is unhealthy", "Target app is unhealthy: 1 consumer waits"]);
    let behind = Some(Behind { records: 1, oldest_published_at: None, eta_seconds: None });
    let behind = Incident { behind, ..incident(IncidentKind::ConsumerBehind) };
    assert_eq!(headline(&behind, now()), "Consumer hubspot-to-app is behind: 1 record");
    let quarantined = Incident { records: Some(1), ..incident(IncidentKind::RecordsQuarantined) };
    assert_eq!(headline(&quarantined, now()), "Consumer hubspot-to-app has 1 record in quarantine");
}

#[test]
fn a_backfill_that_does_not_get_on_is_called_one() {
    let behind = incident(IncidentKind::ConsumerBehind).behind;
    let mut backfill = Incident { behind, ..incident(IncidentKind::ConsumerStalled) };
    backfill.reason.code = "backfill_stalled".into();
    let said = headline(&backfill, now());
    assert_eq!(said, "Consumer hubspot-to-app makes no progress with its backfill: 12,400 records, 6 min");
}

#[test]
fn what_was_paused_or_deleted_has_not_recovered() {
    let halted = resolved(incident(IncidentKind::ConsumerHalted));
    for (resolution, said) in [(Resolution::Paused, "was paused"), (Resolution::Deleted, "was deleted")] {
        let over = Incident { resolution: Some(resolution), ..halted.clone() };
        assert!(headline(&over, now()).starts_with(&format!("Resolved: consumer hubspot-to-app {said}, after ")));
    }
}

#[test]
fn what_a_database_said_is_cut_and_is_one_line() {
    let mut halted = incident(IncidentKind::ConsumerHalted);
    halted.reason.summary = format!("duplicate key\r\nBcc: all@example.com\r\n\r\n{}", "x".repeat(10_000));
    let said = headline(&halted, now());
    assert!(said.starts_with("Consumer hubspot-to-app has halted: duplicate key Bcc: all@example.com xxx"), "{said}");
    assert!(said.ends_with("x…") && said.chars().count() < 160 && !said.contains(char::is_control), "{said}");
}

#[test]
fn many_are_counted_by_kind_whether_they_are_shown_or_not() {
    let said = [NoticeEvent::Opened, NoticeEvent::Reminded, NoticeEvent::Resolved].map(|event| title(&digest(event)));
    let expected = [
        "214 incidents: 3 targets unhealthy, 211 consumers behind",
        "Still: 214 incidents (3 targets unhealthy, 211 consumers behind)",
        "Resolved: 214 incidents (3 targets unhealthy, 211 consumers behind)",
    ];
    assert_eq!(said, expected);
}

#[test]
fn what_an_earlier_release_did_not_count_is_counted_as_far_as_it_is_shown() {
    let uncounted = Notice { counts: Vec::new(), ..digest(NoticeEvent::Opened) };
    assert_eq!(title(&uncounted), "214 incidents: 3 targets unhealthy, 22 consumers behind, 189 more");
}

#[test]
fn a_cluster_that_has_a_name_of_its_own_is_named() {
    assert_eq!([tag("sequin"), tag(""), tag("east")], ["[Sequin]", "[Sequin]", "[Sequin east]"]);
}
