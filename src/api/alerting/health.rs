//! Whether what people are told arrives: read off the deliveries that are kept.

use chrono::{DateTime, TimeDelta, Utc};
use sequin_actors::model::{AlertingSettings, Delivery, Destination, Notice, Reason, Severity};

use super::HealthView;

/// After how many attempts a delivery counts as failing: one may fail by the way.
const FAILING: u32 = 2;

/// For how long it counts that something was given up.
const REMEMBERED: TimeDelta = TimeDelta::days(1);

const SMTP_FIX: &str = "look at the mail server and at SEQUIN_SMTP_URL; `sequin alerting test` tries at once";
const WEBHOOK_FIX: &str =
    "look at what answers there, and set its URL again if it has moved; `sequin alerting test` tries at once";

/// Whether everybody who is to be told hears of it.
pub(super) fn health(
    settings: &AlertingSettings,
    notices: &[Notice],
    sends_mail: bool,
    now: DateTime<Utc>,
) -> HealthView {
    let mut reasons = Vec::new();
    let since = settings.updated_at.unwrap_or(now);
    // What was given up before the settings changed may be what they were changed for.
    let heeded = settings.updated_at.unwrap_or_default().max(now - REMEMBERED);
    let reason = |code: &str, severity, summary: String, since, cause, fix: &str| Reason {
        code: code.into(),
        severity,
        summary,
        since,
        cause,
        target: None,
        fix: fix.into(),
    };
    if settings.recipients.is_empty() && settings.webhooks.is_empty() {
        let summary = "nobody is told of incidents".into();
        let fix = "`sequin alerting set --recipient ops@example.com`, or --webhook NAME=URL";
        reasons.push(reason("nobody_told", Severity::Warning, summary, since, None, fix));
    }
    if !settings.recipients.is_empty() && !sends_mail {
        let summary = "there are recipients, and no mail server".into();
        let fix = "set SEQUIN_SMTP_URL and SEQUIN_ALERT_FROM on every node";
        reasons.push(reason("email_not_configured", Severity::Error, summary, since, None, fix));
    }
    if sends_mail {
        let is_recipient = |to: &Destination| matches!(to, Destination::Email(to) if settings.recipients.contains(to));
        if let Some(Failing { since, error, .. }) = failing(notices, is_recipient, heeded) {
            let summary = "mail does not arrive".into();
            reasons.push(reason("email_undeliverable", Severity::Error, summary, since, error, SMTP_FIX));
        }
    }
    for webhook in &settings.webhooks {
        let is_it = |to: &Destination| matches!(to, Destination::Webhook(name) if *name == webhook.name);
        if let Some(Failing { since, error, .. }) = failing(notices, is_it, heeded) {
            let summary = format!("webhook {} does not take what it is sent", webhook.name);
            reasons.push(reason("webhook_undeliverable", Severity::Error, summary, since, error, WEBHOOK_FIX));
        }
    }
    let is_well = reasons.iter().all(|reason| reason.severity == Severity::Warning);
    let status = if is_well { "healthy" } else { "unhealthy" };
    HealthView { status, reasons: reasons.into_iter().map(Into::into).collect(), checked_at: Some(now) }
}

struct Failing {
    /// When the oldest notice was made that has not arrived.
    since: DateTime<Utc>,
    /// When the newest was, whose error it is.
    last: DateTime<Utc>,
    error: Option<String>,
}

/// What fails on its way to some destinations, if something does: what was tried more than once and is still to arrive, and
/// what was given up since `heeded`, unless something else has arrived later.
fn failing(notices: &[Notice], is_of: impl Fn(&Destination) -> bool, heeded: DateTime<Utc>) -> Option<Failing> {
    let mut found: Option<Failing> = None;
    for notice in notices {
        for (to, delivery) in notice.deliveries.iter().filter(|(to, _)| is_of(to)) {
            let (since, error) = match delivery {
                Delivery::Pending { attempts, error, .. } if *attempts >= FAILING => (notice.made_at, error.clone()),
                Delivery::GivenUp { at, error } if *at >= heeded && !has_arrived_since(notices, to, *at) => {
                    (*at, Some(error.clone()))
                }
                _ => continue,
            };
            found = Some(match found {
                Some(earlier) if earlier.last > since => Failing { since: earlier.since.min(since), ..earlier },
                Some(earlier) => Failing { since: earlier.since.min(since), last: since, error },
                None => Failing { since, last: since, error },
            });
        }
    }
    found
}

fn has_arrived_since(notices: &[Notice], to: &Destination, time: DateTime<Utc>) -> bool {
    let mut deliveries = notices.iter().flat_map(|notice| &notice.deliveries);
    deliveries.any(|(other, delivery)| other == to && matches!(delivery, Delivery::Delivered { at } if *at > time))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use sequin_actors::model::{NoticeEvent, NoticeId, Secret, Webhook, WebhookFormat};

    use super::*;

    fn settings() -> AlertingSettings {
        let url = Secret::new("https://hooks.example.com/hunter2");
        let webhook =
            |name: &str| Webhook { name: name.into(), url: url.clone(), format: WebhookFormat::Slack, secret: None };
        AlertingSettings {
            recipients: vec!["a@example.com".into(), "b@example.com".into()],
            webhooks: vec![webhook("ops"), webhook("chat")],
            ..AlertingSettings::default()
        }
    }

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn notice(minutes: i64, deliveries: Vec<(Destination, Delivery)>) -> Notice {
        let (incidents, shown) = (Vec::new(), Vec::new());
        Notice {
            id: NoticeId::generate(),
            event: NoticeEvent::Opened,
            incidents,
            shown,
            counts: Vec::new(),
            made_at: at(minutes),
            deliveries,
        }
    }

    fn pending(attempts: u32, error: &str) -> Delivery {
        Delivery::Pending { attempts, next_at: at(99), error: Some(error.into()) }
    }

    fn given_up(minutes: i64) -> Delivery {
        Delivery::GivenUp { at: at(minutes), error: "no such user".into() }
    }

    fn mail(to: &str) -> Destination {
        Destination::Email(to.into())
    }

    fn codes(settings: &AlertingSettings, notices: &[Notice], sends_mail: bool) -> (&'static str, Vec<String>) {
        let health = health(settings, notices, sends_mail, at(100));
        (health.status, health.reasons.into_iter().map(|reason| reason.code).collect())
    }

    #[test]
    fn nobody_to_tell_is_a_warning_and_recipients_without_a_mail_server_are_an_error() {
        let nobody = AlertingSettings::default();
        assert_eq!(codes(&nobody, &[], true), ("healthy", vec!["nobody_told".into()]));
        assert_eq!(codes(&settings(), &[], true), ("healthy", Vec::new()));
        assert_eq!(codes(&settings(), &[], false), ("unhealthy", vec!["email_not_configured".into()]));
    }

    #[test]
    fn what_failed_more_than_once_is_told_with_its_last_error_and_since_when() {
        let webhook = |name: &str| Destination::Webhook(name.into());
        let notices = [
            notice(3, vec![(mail("a@example.com"), pending(2, "refused")), (webhook("ops"), pending(1, "503"))]),
            notice(1, vec![(mail("b@example.com"), pending(7, "timed out")), (webhook("chat"), pending(2, "404"))]),
            notice(2, vec![(mail("left@example.com"), pending(7, "gone")), (webhook("gone"), pending(7, "gone"))]),
        ];
        let health = health(&settings(), &notices, true, at(100));
        let told: Vec<_> =
            health.reasons.iter().map(|reason| (reason.code.as_str(), reason.cause.as_deref())).collect();
        assert_eq!(told, [("email_undeliverable", Some("refused")), ("webhook_undeliverable", Some("404"))]);
        assert_eq!((health.status, health.reasons[0].since), ("unhealthy", at(1)));
        assert!(health.reasons[1].summary.contains("webhook chat"), "{:?}", health.reasons[1]);
    }

    #[test]
    fn what_was_given_up_is_told_until_something_else_arrives_there() {
        let lost = notice(1, vec![(mail("a@example.com"), given_up(5))]);
        let arrived = |to: &str, minutes| notice(minutes, vec![(mail(to), Delivery::Delivered { at: at(minutes) })]);
        for (later, is_told) in [
            (arrived("a@example.com", 4), true),
            (arrived("b@example.com", 6), true),
            (arrived("a@example.com", 6), false),
        ] {
            let (_, codes) = codes(&settings(), &[lost.clone(), later], true);
            assert_eq!(codes.contains(&"email_undeliverable".into()), is_told);
        }
    }

    #[test]
    fn what_was_given_up_long_ago_or_under_other_settings_is_told_no_more() {
        let lost = [notice(1, vec![(mail("a@example.com"), given_up(5))])];
        let codes = |updated_at: Option<i64>, now: i64| {
            let settings = AlertingSettings { updated_at: updated_at.map(at), ..settings() };
            health(&settings, &lost, true, at(now)).reasons.len()
        };
        assert_eq!([codes(None, 100), codes(Some(5), 100), codes(Some(6), 100)], [1, 1, 0]);
        let day = 24 * 60;
        assert_eq!([codes(None, 5 + day), codes(None, 6 + day)], [1, 0]);
    }
}
