//! Sending mail to a real server: in clear and encrypted, with a password and without, and through each way in which servers fail.

use std::{collections::HashSet, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::{
    super::{
        Limits, Notifier, NotifierSettings,
        mail_server::{Mail, Smtp as Server},
        samples::{incident, notice},
    },
    *,
};
use crate::model::{AlertingSettings, Destination, IncidentKind, Notice, NoticeEvent, Secret};

fn settings(url: &str, ca_pem: Option<&str>) -> NotifierSettings {
    let smtp =
        SmtpSettings { url: Secret::new(url), from: "alerts@example.com".into(), ca_pem: ca_pem.map(Into::into) };
    NotifierSettings {
        smtp: Some(smtp),
        console_url: Some("https://c.example.com".into()),
        cluster: "east".into(),
        ..NotifierSettings::default()
    }
}

/// Sends to a server, which has so long for each answer.
fn notifier(url: &str, ca_pem: Option<&str>, limit: Duration) -> Notifier {
    let limits = Limits { smtp_step: limit, smtp_verdict: limit, ..Limits::default() };
    Notifier::with_limits(settings(url, ca_pem), limits).expect("good settings")
}

const AMPLE: Duration = Duration::from_secs(10);

fn in_clear(server: &Server) -> Notifier {
    notifier(&format!("smtp://127.0.0.1:{}?tls=none", server.port()), None, AMPLE)
}

async fn mail(notifier: &Notifier, notice: &Notice, to: &str) -> Result<(), DeliveryError> {
    notifier.deliver(notice, &Destination::Email(to.into()), &telling(&[to])).await
}

/// Settings that somebody made.
fn telling(recipients: &[&str]) -> AlertingSettings {
    let recipients = recipients.iter().map(ToString::to_string).collect();
    AlertingSettings { recipients, updated_at: Some(chrono::Utc::now()), ..AlertingSettings::default() }
}

fn opened(kind: IncidentKind) -> Notice {
    notice(NoticeEvent::Opened, vec![incident(kind)])
}

fn will_pass(refused: Result<(), DeliveryError>, says: &str) {
    let error = refused.expect_err("it is not delivered");
    assert!(!error.is_permanent && error.message.contains(says), "{error:?}");
}

fn is_final(refused: Result<(), DeliveryError>, says: &str) {
    let error = refused.expect_err("it is not delivered");
    assert!(error.is_permanent && error.message.contains(says), "{error:?}");
}

#[tokio::test]
async fn a_mail_arrives_in_two_forms_under_a_subject_that_says_all() {
    let server = Server::start(&[]);
    let notifier = in_clear(&server);
    assert!(notifier.sends_mail() && !Notifier::default().sends_mail());
    mail(&notifier, &opened(IncidentKind::ConsumerBehind), "ops@example.com").await.expect("it arrives");
    let test = Notifier::test_notice(chrono::Utc::now());
    mail(&notifier, &test, "ops@example.com").await.expect("it arrives");
    let [behind, test] = &server.messages()[..] else { panic!("not two: {:?}", server.messages()) };
    assert_eq!((behind.from.as_str(), &behind.to[..]), ("alerts@example.com", &["ops@example.com".to_owned()][..]));
    assert_eq!(behind.header("Subject"), "[Sequin east] Consumer hubspot-to-app is behind: 12,400 records, 6 min");
    assert_eq!(behind.header("From"), "Sequin <alerts@example.com>");
    assert_eq!(behind.header("To"), "ops@example.com");
    assert_eq!(behind.header("Auto-Submitted"), "auto-generated");
    assert!(behind.header("Message-ID").ends_with("@example.com>") && !behind.header("Date").is_empty());
    assert_eq!(behind.header("References"), behind.header("In-Reply-To"));
    assert_eq!((behind.kind.as_str(), &behind.defects[..]), ("multipart/alternative", &[][..]));
    assert_eq!(behind.parts, ["text/plain", "text/html"]);
    for form in [&behind.text, &behind.html] {
        assert!(form.contains("in 9 min") && form.contains("https://c.example.com/incidents/"), "{form}");
    }
    assert_eq!(test.header("Subject"), "[Sequin east] Test: notices of incidents arrive here");
}

#[tokio::test]
async fn nothing_that_others_wrote_becomes_a_header_a_recipient_or_a_part() {
    let server = Server::start(&[]);
    let notifier = in_clear(&server);
    let plain = opened(IncidentKind::ConsumerHalted);
    mail(&notifier, &plain, "ops@example.com").await.expect("it arrives");
    let attempts = [
        "x\r\nBcc: all@example.com\r\nX-Evil: 1\r\n\r\nbody",
        "x\nBcc: all@example.com\n.\nRCPT TO:<all@example.com>\n",
        "x\rBcc: all@example.com\r.\r\n",
        "=?utf-8?q?x=0D=0ABcc:_all@example.com?= =?utf-8?b?QmNjOiBhbGxAZXhhbXBsZS5jb20=?=",
        "schlüssel „größe“ 鍵 🔑\u{2028}Bcc: all@example.com\u{85}Bcc: b",
        &format!(".\r\n..\r\n--\r\n{}\r\n.\r\n", "ä long text ".repeat(900)),
    ];
    for attempt in attempts {
        let mut notice = plain.clone();
        let reason = &mut notice.shown[0].reason;
        (reason.summary, reason.fix, reason.cause) = (attempt.into(), attempt.into(), Some(attempt.into()));
        mail(&notifier, &notice, "ops@example.com").await.expect("it arrives");
    }
    let messages = server.messages();
    assert_eq!(messages.len(), 1 + attempts.len());
    let names = |mail: &Mail| mail.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    for (mail, attempt) in messages[1..].iter().zip(attempts) {
        assert_eq!(names(mail), names(&messages[0]), "{attempt}");
        assert_eq!((&mail.to[..], &mail.defects[..]), (&["ops@example.com".to_owned()][..], &[][..]), "{attempt}");
        assert_eq!(mail.parts, ["text/plain", "text/html"], "{attempt}");
        let subject = mail.header("Subject");
        assert!(!subject.contains(char::is_control), "{subject:?}");
        assert!(subject.starts_with("[Sequin east] Consumer hubspot-to-app has halted: "), "{subject}");
    }
    let unicode = messages[5].header("Subject");
    assert!(unicode.ends_with("schlüssel „größe“ 鍵 🔑 Bcc: all@example.com Bcc: b"), "{unicode}");
    assert!(messages[4].header("Subject").contains("= ?utf-8?q?"), "{}", messages[4].header("Subject"));
    assert!(messages[6].text.contains("ä long text ä long text"), "{}", messages[6].text);
}

#[tokio::test]
async fn what_the_server_refuses_for_good_is_final_and_what_it_puts_off_is_not() {
    let server = Server::start(&[]);
    let notifier = in_clear(&server);
    let notice = opened(IncidentKind::TargetUnhealthy);
    server.behave(&json!({"refuse": "gone@example.com"}));
    is_final(mail(&notifier, &notice, "gone@example.com").await, "550");
    mail(&notifier, &notice, "ops@example.com").await.expect("it arrives");
    server.behave(&json!({"refuse": "*"}));
    is_final(mail(&notifier, &notice, "ops@example.com").await, "554");
    server.behave(&json!({"later": true}));
    will_pass(mail(&notifier, &notice, "new@example.com").await, "451");
    mail(&notifier, &notice, "new@example.com").await.expect("it arrives");
    is_final(mail(&notifier, &notice, "a@example.com\r\nBcc: b@example.com").await, "not an address");
    let arrived: Vec<String> = server.messages().into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(arrived, ["ops@example.com", "new@example.com"]);
}

#[tokio::test]
async fn a_server_that_falls_silent_holds_nobody_up_and_is_asked_again() {
    let server = Server::start(&[]);
    let url = format!("smtp://127.0.0.1:{}?tls=none", server.port());
    let impatient = notifier(&url, None, Duration::from_millis(300));
    let notice = opened(IncidentKind::TargetUnhealthy);
    for step in ["CONNECT", "RCPT", "DATA"] {
        server.behave(&json!({"hang": step}));
        will_pass(mail(&impatient, &notice, "ops@example.com").await, "no answer within");
    }
    let limits = Limits { delivery: Duration::from_millis(300), ..Limits::default() };
    let in_all = Notifier::with_limits(settings(&url, None), limits).expect("good settings");
    will_pass(mail(&in_all, &notice, "ops@example.com").await, "it took more than");
    assert_eq!(server.messages().len(), 0);
    server.behave(&json!({}));
    mail(&in_clear(&server), &notice, "ops@example.com").await.expect("it arrives");
}

/// As one does that looks for viruses before it answers.
#[tokio::test]
async fn a_server_that_thinks_about_the_message_for_longer_than_any_other_step_takes_is_waited_for() {
    let server = Server::start(&[]);
    server.behave(&json!({"late": 1.5}));
    let url = format!("smtp://127.0.0.1:{}?tls=none", server.port());
    let limits = Limits { smtp_step: Duration::from_secs(1), ..Limits::default() };
    let notifier = Notifier::with_limits(settings(&url, None), limits).expect("good settings");
    mail(&notifier, &opened(IncidentKind::TargetUnhealthy), "ops@example.com").await.expect("it arrives");
    assert_eq!(server.messages().len(), 1);
    let Limits { smtp_step, smtp_verdict, delivery, .. } = Limits::default();
    assert!(delivery > 6 * smtp_step + smtp_verdict + PARTING, "what was taken would be sent again");
}

#[tokio::test]
async fn a_recipient_who_was_taken_away_gets_nothing_more() {
    let server = Server::start(&[]);
    let (notifier, notice) = (in_clear(&server), opened(IncidentKind::TargetUnhealthy));
    let gone = Destination::Email("gone@example.com".into());
    is_final(notifier.deliver(&notice, &gone, &telling(&["ops@example.com"])).await, "no longer");
    is_final(notifier.deliver(&notice, &gone, &telling(&[])).await, "gone@example.com");
    will_pass(notifier.deliver(&notice, &gone, &AlertingSettings::default()).await, "not known yet");
    assert_eq!(server.messages().len(), 0);
}

#[tokio::test]
async fn what_breaks_off_is_sent_again_and_a_repeat_can_be_told_by_its_id() {
    let mut server = Server::start(&[]);
    let notifier = in_clear(&server);
    let notice = opened(IncidentKind::TargetUnhealthy);
    server.behave(&json!({"die": "before"}));
    will_pass(mail(&notifier, &notice, "ops@example.com").await, "the message");
    assert_eq!(server.messages().len(), 0);
    server.behave(&json!({"die": "after"}));
    will_pass(mail(&notifier, &notice, "ops@example.com").await, "the message");
    server.behave(&json!({}));
    server.stop();
    will_pass(mail(&notifier, &notice, "ops@example.com").await, "connecting");
    server.start_again();
    mail(&notifier, &notice, "ops@example.com").await.expect("it arrives");
    let ids: Vec<String> = server.messages().iter().map(|mail| mail.header("Message-ID").to_owned()).collect();
    assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (2, 1), "{ids:?}");
}

/// An authority, and the files of a server that it vouches for.
fn certificates() -> (String, Vec<(&'static str, String)>) {
    let key = || KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
    let server_key = key();
    let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address");
    let certificate = params.signed_by(&server_key, &authority).expect("a certificate");
    (authority.pem(), vec![("server.pem", certificate.pem()), ("server-key.pem", server_key.serialize_pem())])
}

const LOGIN: &str = "al:p@ss/w%rd";
const LOGIN_IN_URL: &str = "al:p%40ss%2Fw%25rd";

#[tokio::test]
async fn starttls_is_used_with_a_server_that_is_known_and_the_password_is_sent_after_it() {
    let (authority, files) = certificates();
    let server = Server::start_with(&["--tls", "starttls", "--login", LOGIN], &files);
    let url = |login: &str, tls: &str| format!("smtp://{login}@127.0.0.1:{}{tls}", server.port());
    let to = |url: &str, ca: &str| notifier(url, Some(ca), AMPLE);
    let notice = opened(IncidentKind::TargetUnhealthy);
    for tls in ["", "?tls=required", "?tls=opportunistic"] {
        let notifier = to(&url(LOGIN_IN_URL, tls), &authority);
        mail(&notifier, &notice, "ops@example.com").await.expect("it arrives");
    }
    let messages = server.messages();
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|mail| mail.encrypted && mail.login.as_deref() == Some("al")), "{messages:?}");
    // A password can be mended, and so can an authority; neither is told.
    let wrong = to(&url("al:hunter2", ""), &authority);
    let refused = mail(&wrong, &notice, "ops@example.com").await;
    assert!(!format!("{refused:?} {wrong:?}").contains("hunter2"), "{refused:?} {wrong:?}");
    will_pass(refused, "the user or the password (535)");
    let (stranger, _) = certificates();
    will_pass(mail(&to(&url(LOGIN_IN_URL, ""), &stranger), &notice, "ops@example.com").await, "certificate");
    let system = notifier(&url(LOGIN_IN_URL, ""), None, AMPLE);
    will_pass(mail(&system, &notice, "ops@example.com").await, "certificate");
    let without = to(&format!("smtp://127.0.0.1:{}", server.port()), &authority);
    will_pass(mail(&without, &notice, "ops@example.com").await, "530");
    assert_eq!(server.messages().len(), 3);
}

#[tokio::test]
async fn tls_from_the_first_byte_is_spoken_when_the_url_says_so() {
    let (authority, files) = certificates();
    let server = Server::start_with(&["--tls", "implicit", "--login", LOGIN], &files);
    let notifier = notifier(&format!("smtps://{LOGIN_IN_URL}@127.0.0.1:{}", server.port()), Some(&authority), AMPLE);
    mail(&notifier, &opened(IncidentKind::NodeSilent), "ops@example.com").await.expect("it arrives");
    let messages = server.messages();
    assert!(messages.len() == 1 && messages[0].login.as_deref() == Some("al"), "{messages:?}");
}

#[tokio::test]
async fn nothing_goes_in_clear_unless_that_is_wanted_and_no_password_unless_that_is() {
    let server = Server::start(&["--login", LOGIN]);
    let to = |login: &str, tls: &str| notifier(&format!("smtp://{login}127.0.0.1:{}{tls}", server.port()), None, AMPLE);
    let login = format!("{LOGIN_IN_URL}@");
    let notice = opened(IncidentKind::TargetUnhealthy);
    for tls in ["", "?tls=required"] {
        will_pass(mail(&to("", tls), &notice, "ops@example.com").await, "nothing is sent in clear");
    }
    will_pass(
        mail(&to(&login, "?tls=opportunistic"), &notice, "ops@example.com").await,
        "no password is sent in clear",
    );
    will_pass(mail(&to("", "?tls=opportunistic"), &notice, "ops@example.com").await, "530");
    mail(&to(&login, "?tls=none"), &notice, "ops@example.com").await.expect("it arrives");
    let logins: Vec<Option<String>> = server.messages().into_iter().map(|mail| mail.login).collect();
    assert_eq!(logins, [Some("al".to_owned())]);
}

#[tokio::test]
async fn without_a_mail_server_mail_waits_for_the_setting_that_is_named() {
    let notice = opened(IncidentKind::TargetUnhealthy);
    will_pass(mail(&Notifier::default(), &notice, "ops@example.com").await, "SEQUIN_SMTP_URL");
}

#[test]
fn settings_that_can_not_be_meant_are_refused_without_being_repeated() {
    let refused = |settings: NotifierSettings| Notifier::new(settings).expect_err("wrong settings").to_string();
    for url in [
        "mail.example.com",
        "http://mail.example.com",
        "smtp://",
        "smtps://h?tls=none",
        "smtp://h?tls=maybe",
        "smtp://h?x=1",
        "smtp://hunter2@h",
        "smtp://:hunter2@h",
        "smtp://al:%FFhunter2@h",
        "smtp://al:hunter2@h/path",
        "smtp://h:hunter2",
    ] {
        let said = refused(settings(url, None));
        assert!(said.starts_with("the URL of the mail server: ") && !said.contains("hunter2"), "{url}: {said}");
    }
    for from in ["", "nobody", "ö@example.com", "a@example.com, b@example.com"] {
        let mut settings = settings("smtp://h", None);
        settings.smtp.as_mut().expect("a server").from = from.into();
        let said = refused(settings);
        assert!(said.starts_with("the sender: "), "{from}: {said}");
    }
    let said = refused(settings("smtp://h", Some("no certificate")));
    assert!(said.starts_with("the certificates: "), "{said}");
}

#[test]
fn ports_are_those_of_submission_and_a_host_may_be_an_address() {
    let name = |url: &str| Smtp::new(&settings(url, None).smtp.expect("a server")).expect("good settings").name();
    assert_eq!(name("smtp://mail.example.com"), "mail.example.com:587");
    assert_eq!(name("smtps://mail.example.com/"), "mail.example.com:465");
    assert_eq!(name("smtp://[::1]:25?tls=none"), "::1:25");
}
