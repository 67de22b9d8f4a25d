//! Calling webhooks: what is sent, how it is signed, and what each answer means, over a real connection.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{
    super::{
        Limits, Notifier, NotifierSettings,
        samples::{digest, incident, notice, resolved},
    },
    *,
};
use crate::model::{AlertingSettings, Destination, IncidentKind, NoticeEvent};

/// A request as it came: its head, in which hyper writes names in lower case, and its body.
struct Received {
    head: String,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{}: ", name.to_lowercase())));
        line.unwrap_or_else(|| panic!("no {name}:\n{}", self.head))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Takes one request, and answers with this status line; with none, it says nothing until the caller has left.
async fn receiver(status: Option<&'static str>) -> (u16, JoinHandle<Received>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let task = tokio::spawn(async move {
        let (mut caller, _) = listener.accept().await.expect("a caller");
        let mut bytes = Vec::new();
        let (head, body) = loop {
            assert_ne!(caller.read_buf(&mut bytes).await.expect("a request"), 0, "half a request");
            let text = str::from_utf8(&bytes).expect("text");
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let mut lengths = head.lines().filter_map(|line| line.strip_prefix("content-length: "));
            let length: usize = lengths.next().expect("a length").parse().expect("a number");
            if body.len() == length {
                break (head.to_owned(), body.to_owned());
            }
        };
        match status {
            Some(status) => {
                let answer = format!("HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
                caller.write_all(answer.as_bytes()).await.expect("an answer");
            }
            None => assert_eq!(caller.read(&mut [0]).await.unwrap_or(0), 0, "the caller speaks on"),
        }
        Received { head, body }
    });
    (port, task)
}

fn webhook(url: String, format: WebhookFormat, secret: Option<&str>) -> AlertingSettings {
    let webhook = Webhook { name: "ops".into(), url: Secret::new(url), format, secret: secret.map(Secret::new) };
    AlertingSettings { webhooks: vec![webhook], ..AlertingSettings::default() }
}

fn notifier() -> Notifier {
    let console_url = Some("https://c.example.com".into());
    let limits = Limits { webhook: Duration::from_secs(10), ..Limits::default() };
    Notifier::with_limits(
        NotifierSettings { console_url, cluster: "east".into(), ..NotifierSettings::default() },
        limits,
    )
    .expect("settings")
}

async fn call(notice: &Notice, alerting: &AlertingSettings) -> Result<(), DeliveryError> {
    notifier().deliver(notice, &Destination::Webhook("ops".into()), alerting).await
}

/// What a receiver that is content gets of a notice.
async fn received(notice: &Notice, format: WebhookFormat, secret: Option<&str>) -> Received {
    let (port, task) = receiver(Some("204 No Content")).await;
    call(notice, &webhook(format!("http://127.0.0.1:{port}/in?key=1"), format, secret)).await.expect("it arrives");
    task.await.expect("a request")
}

#[tokio::test]
async fn an_event_says_what_it_is_of_and_shows_each_incident() {
    let notice = notice(NoticeEvent::Opened, vec![incident(IncidentKind::ConsumerBehind)]);
    let received = received(&notice, WebhookFormat::CloudEvents, None).await;
    assert!(received.head.starts_with("POST /in?key=1 HTTP/1.1"), "{}", received.head);
    assert!(received.header("content-type").starts_with("application/cloudevents+json"), "{}", received.head);
    assert!(!received.head.contains("webhook-signature"), "{}", received.head);
    let mut event = received.json();
    let text = event["data"]["text"].take();
    let expected = json!({
        "specversion": "1.0", "id": notice.id.to_string(), "source": "/sequin/east",
        "type": "dev.sequin.incident.opened", "subject": "consumers/00000000-0000-0000-0000-0000000000c0",
        "time": "2026-11-22T23:04:00.000Z", "datacontenttype": "application/json",
        "data": {
            "title": "Consumer hubspot-to-app is behind: 12,400 records, 6 min", "text": null, "total": 1,
            "url": "https://c.example.com/incidents/00000000-0000-0000-0000-00000000001d",
            "incidents": [{
                "id": "00000000-0000-0000-0000-00000000001d", "kind": "consumer_behind", "status": "open",
                "title": "Consumer hubspot-to-app is behind: 12,400 records, 6 min",
                "subject": {"type": "consumer", "id": "00000000-0000-0000-0000-0000000000c0", "name": "hubspot-to-app"},
                "target": "app", "consumers": 1, "records": null,
                "behind": {"records": 12_400, "seconds": 360.0, "eta_seconds": 540},
                "reason": {"code": "behind", "severity": "error", "since": "2026-11-22T22:57:00Z", "target": null,
                           "summary": "12,400 records wait, the oldest for 6 min; the threshold is 5 min",
                           "cause": "more is published than the table takes, or the database is slow",
                           "fix": "look at the target's load; raise its pool_size if the server has connections to spare"},
                "opened_at": "2026-11-22T23:02:00Z", "cleared_at": null, "resolved_at": null, "resolution": null,
                "url": "https://c.example.com/incidents/00000000-0000-0000-0000-00000000001d",
            }],
        },
    });
    assert_eq!(event, expected);
    let text = text.as_str().expect("a text").to_owned();
    assert!(text.contains("Since: 2026-11-22 22:57 UTC (7 min)\n") && text.contains("What to do: look at"), "{text}");
}

#[tokio::test]
async fn a_host_in_a_denied_network_is_not_called_whatever_its_name() {
    let denied = "127.0.0.0/8,::1".parse().expect("networks");
    let notifier = Notifier::new(NotifierSettings { denied, ..NotifierSettings::default() }).expect("settings");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "localhost"] {
        let url = format!("http://{host}:{port}/in?key=1");
        let alerting = webhook(url, WebhookFormat::Slack, None);
        let notice = Notifier::test_notice(Utc::now());
        let error = notifier.deliver(&notice, &Destination::Webhook("ops".into()), &alerting).await.expect_err(host);
        assert!(error.message.contains("may not be connected to"), "{host}: {error}");
    }
    let called = listener.accept();
    assert!(tokio::time::timeout(Duration::ZERO, called).await.is_err(), "nobody was called");
}

#[tokio::test]
async fn each_event_has_its_type_and_many_incidents_are_counted() {
    for (sent, kind, total) in [
        (notice(NoticeEvent::Resolved, vec![resolved(incident(IncidentKind::NodeSilent))]), "resolved", 1),
        (digest(NoticeEvent::Reminded), "reminded", 214),
        (Notifier::test_notice(Utc::now()), "test", 0),
    ] {
        let event = received(&sent, WebhookFormat::CloudEvents, None).await.json();
        assert_eq!(event["type"], format!("dev.sequin.incident.{kind}"));
        assert_eq!(event["data"]["total"], total, "{event}");
        assert_eq!(event["data"]["incidents"].as_array().map(Vec::len), Some(sent.shown.len()));
    }
}

#[tokio::test]
async fn what_is_signed_can_be_verified_with_the_key_and_with_no_other() {
    let notice = notice(NoticeEvent::Opened, vec![incident(IncidentKind::TargetUnhealthy)]);
    let key = b"a key that both of us know";
    let encoded = format!("whsec_{}", BASE64_STANDARD.encode(key));
    for secret in [str::from_utf8(key).expect("text"), &encoded] {
        let received = received(&notice, WebhookFormat::CloudEvents, Some(secret)).await;
        let (id, timestamp) = (received.header("webhook-id"), received.header("webhook-timestamp"));
        assert_eq!(id, notice.id.to_string());
        let signed = received.header("webhook-signature").strip_prefix("v1,").expect("the version");
        let signed = BASE64_STANDARD.decode(signed).expect("base64");
        let verifies = |key: &[u8], body: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
            mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
            mac.verify_slice(&signed).is_ok()
        };
        assert!(verifies(key, &received.body));
        assert!(!verifies(b"another key", &received.body) && !verifies(key, &received.body.replace("app", "abb")));
    }
}

/// As the reference implementation of Standard Webhooks signs it.
#[test]
fn a_signature_is_that_of_the_scheme() {
    let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
    let signature = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[tokio::test]
async fn slack_is_sent_a_text_in_which_nobody_is_called_and_nothing_links() {
    let mut halted = incident(IncidentKind::ConsumerHalted);
    halted.reason.summary = "<!channel> & <https://evil.example.com|click>".into();
    halted.reason.fix = "drop table a; -- ``` <@U1>;".into();
    let received = received(&notice(NoticeEvent::Opened, vec![halted]), WebhookFormat::Slack, None).await;
    assert_eq!(received.header("content-type"), "application/json");
    let message = received.json();
    let text = message["text"].as_str().expect("a text");
    let title = "*[Sequin east] Consumer hubspot-to-app has halted: &lt;!channel&gt; &amp; &lt;https://evil.example.com|click&gt;*";
    assert!(text.starts_with(title), "{text}");
    assert!(text.contains("```\ndrop table a; -- ''' &lt;@U1&gt;;\n```"), "{text}");
    let link = "<https://c.example.com/incidents/00000000-0000-0000-0000-00000000001d|Open in the console>";
    assert_eq!(text.matches('<').count(), 1, "{text}");
    assert!(text.ends_with(link), "{text}");
}

#[tokio::test]
async fn slack_is_told_of_many_incidents_in_a_list() {
    let received = received(&digest(NoticeEvent::Resolved), WebhookFormat::Slack, None).await.json();
    let text = received["text"].as_str().expect("a text").to_owned();
    let title =
        "*[Sequin east] Resolved: 214 incidents (3 targets unhealthy, 211 consumers behind)*\n• Target app is healthy";
    assert!(text.starts_with(title) && text.contains("• and 189 more\n"), "{text}");
}

#[tokio::test]
async fn an_answer_says_whether_to_try_again() {
    let notice = notice(NoticeEvent::Opened, vec![incident(IncidentKind::TargetUnhealthy)]);
    for (status, is_permanent) in [
        ("200 OK", None),
        ("202 Accepted", None),
        ("302 Found", Some(true)),
        ("400 Bad Request", Some(true)),
        ("404 Not Found", Some(true)),
        ("410 Gone", Some(true)),
        ("408 Request Timeout", Some(false)),
        ("429 Too Many Requests", Some(false)),
        ("500 Internal Server Error", Some(false)),
        ("503 Service Unavailable", Some(false)),
    ] {
        let (port, task) = receiver(Some(status)).await;
        let alerting = webhook(format!("http://127.0.0.1:{port}/hunter2"), WebhookFormat::Slack, Some("hunter2"));
        let answer = call(&notice, &alerting).await;
        task.await.expect("a request");
        assert_eq!(answer.as_ref().err().map(|error| error.is_permanent), is_permanent, "{status}: {answer:?}");
        assert!(!format!("{answer:?}").contains("hunter2"), "{answer:?}");
    }
}

#[tokio::test]
async fn who_does_not_answer_is_called_again_and_the_url_is_told_to_nobody() {
    let notice = notice(NoticeEvent::Opened, vec![incident(IncidentKind::TargetUnhealthy)]);
    let (port, task) = receiver(None).await;
    let silent = webhook(format!("http://127.0.0.1:{port}/hunter2"), WebhookFormat::Slack, None);
    let limits = Limits { webhook: Duration::from_millis(300), ..Limits::default() };
    let impatient = Notifier::with_limits(NotifierSettings::default(), limits).expect("settings");
    let late = impatient.deliver(&notice, &Destination::Webhook("ops".into()), &silent).await.expect_err("no answer");
    task.await.expect("a request");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port").local_addr().expect("an address");
    let nobody = webhook(format!("http://al:hunter2@{free}/hunter2?hunter2"), WebhookFormat::Slack, None);
    let refused = call(&notice, &nobody).await.expect_err("nobody is there");
    // It speaks no TLS.
    let (port, task) = receiver(Some("200 OK")).await;
    let insecure = webhook(format!("https://127.0.0.1:{port}/hunter2"), WebhookFormat::Slack, None);
    let not_tls = call(&notice, &insecure).await.expect_err("no TLS");
    task.abort();
    for (error, says) in [(late, "in time"), (refused, "refused"), (not_tls, "127.0.0.1")] {
        assert!(!error.is_permanent && error.message.contains(says), "{error:?}");
        assert!(!error.message.contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_webhook_that_was_taken_away_is_called_no_more() {
    let notice = notice(NoticeEvent::Opened, vec![incident(IncidentKind::TargetUnhealthy)]);
    let without = AlertingSettings { updated_at: Some(Utc::now()), ..AlertingSettings::default() };
    let error = call(&notice, &without).await.expect_err("it is not there");
    assert!(error.is_permanent && error.message.contains("ops"), "{error:?}");
    let unknown = call(&notice, &AlertingSettings::default()).await.expect_err("the settings are not known");
    assert!(!unknown.is_permanent, "{unknown:?}");
}

#[test]
fn a_url_is_one_of_http_and_a_key_is_what_it_says_it_is() {
    for good in ["https://hooks.slack.com/services/T0/B0/x", "http://127.0.0.1:9/a?b=c", "https://u:p@example.com"] {
        assert_eq!(check_webhook_url("url", good), Ok(()), "{good}");
    }
    let long = format!("https://example.com/{}", "a".repeat(2048));
    for wrong in
        ["", "example.com", "ftp://example.com", "https://", "https://example.com/#a", "file:///etc/passwd", &long]
    {
        assert!(check_webhook_url("url", wrong).is_err(), "{wrong}");
    }
    for (secret, is_key) in
        [("anything", true), ("whsec_aGk=", true), ("", false), ("whsec_", false), ("whsec_?", false)]
    {
        assert_eq!(check_webhook_secret("secret", secret).is_ok(), is_key, "{secret}");
    }
}
