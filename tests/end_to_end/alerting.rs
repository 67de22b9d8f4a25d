//! Whom to tell of incidents, and what was wrong: over the API, from the command line and in a file.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use sequin_actors::{
    model::{
        ConsumerId, Delivery, Destination, Incident, IncidentId, IncidentKind, Notice, NoticeEvent, NoticeId, Reason,
        Severity, Subject, TargetId,
    },
    store::{Documents, Keyring, SqliteStore},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::{Answer, send},
    cli::{Running, failed, run, run_with, run_with_variables},
    eventually, holds,
    node::Node,
};

const SETTINGS: [(&str, &str); 3] = [
    ("SEQUIN_SMTP_URL", "smtp://sequin:hunter2@127.0.0.1:1"),
    ("SEQUIN_ALERT_FROM", "sequin@example.com"),
    ("SEQUIN_CONSOLE_URL", "https://sequin.example.com/"),
];

async fn node() -> Node {
    Node::start_with(tempfile::tempdir().expect("a directory"), &SETTINGS).await
}

async fn put(node: &Node, body: &Value) -> Answer {
    send(node.api.request(Method::PUT, "/v1/alerting").json(body)).await
}

fn codes(alerting: &Value) -> Vec<&str> {
    let reasons = alerting["health"]["reasons"].as_array().expect("reasons");
    reasons.iter().map(|reason| reason["code"].as_str().expect("a code")).collect()
}

#[tokio::test]
async fn whom_to_tell_is_set_as_a_whole_but_for_secrets_which_are_kept_and_never_shown() {
    let node = node().await;
    let first = node.api.get("/v1/alerting").await;
    let (etag, first) = (first.etag.clone().expect("an ETag"), first.expect(200));
    assert_eq!(
        (&first["recipients"], &first["webhooks"], &first["reminder_minutes"]),
        (&json!([]), &json!([]), &json!(1440))
    );
    assert_eq!(first["email"], json!({"configured": true, "from": "sequin@example.com"}));
    assert_eq!(
        (&first["pending"], &first["updated_at"], codes(&first)),
        (&json!(0), &Value::Null, vec!["nobody_told"])
    );
    let nobody = node.api.act("/v1/alerting/test").await;
    assert!(nobody.body["detail"].as_str().is_some_and(|detail| detail.contains("sequin alerting set")), "{nobody:?}");
    nobody.expect_problem(409);

    let url = "https://hooks.example.com/services/hunter2";
    let request = json!({
        "recipients": ["ops@example.com"], "reminder_minutes": 60,
        "webhooks": [{"name": "chat", "url": url, "format": "slack"}, {"url": url, "secret": "hunter2"}],
    });
    let if_match = |etag: &str| node.api.request(Method::PUT, "/v1/alerting").header("if-match", etag).json(&request);
    send(if_match("\"7\"")).await.expect_problem(412);
    let set = send(if_match(&etag)).await;
    assert_ne!(set.etag.as_ref(), Some(&etag));
    let set = set.expect(200);
    let shown = |name: &str, format: &str, secret_set: bool| {
        json!({"name": name, "url": null, "url_set": true, "host": "hooks.example.com", "format": format,
            "secret": null, "secret_set": secret_set})
    };
    assert_eq!(
        set["webhooks"],
        json!([shown("chat", "slack", false), shown("hooks.example.com", "cloud_events", true)])
    );
    assert_eq!((&set["recipients"], codes(&set)), (&json!(["ops@example.com"]), vec![]));
    send(if_match(&etag)).await.expect_problem(412);

    // What is not given again is kept by its name, and what is left out is as it was made.
    let kept = put(&node, &json!({"webhooks": [{"name": "hooks.example.com"}]})).await.expect(200);
    assert_eq!(kept["webhooks"], json!([shown("hooks.example.com", "cloud_events", true)]));
    assert_eq!((&kept["recipients"], &kept["reminder_minutes"]), (&json!([]), &json!(1440)));
    let ask =
        json!({"webhooks": [{"name": "hooks.example.com", "url": url, "secret": "x"}, {"name": "gone", "url": url}]});
    let compared = node.api.post("/v1/alerting/compare-secrets", &ask).await.expect(200);
    let different = ["webhooks[0].secret", "webhooks[1].url"];
    assert_eq!(compared, json!({"same": ["webhooks[0].url"], "different": different}));
    let none = put(&node, &json!({"webhooks": [{"name": "hooks.example.com", "secret": ""}]})).await.expect(200);
    assert_eq!(none["webhooks"][0]["secret_set"], false);
    let again = put(&node, &json!({"webhooks": [{"name": "hooks.example.com"}]})).await.expect(200);
    assert_eq!(again["updated_at"], none["updated_at"], "nothing has changed");

    for (wrong, field) in [
        (json!({"recipients": ["ops"]}), "recipients[0]"),
        (json!({"recipients": ["a@b.c", "A@B.C"]}), "recipients[1]"),
        (json!({"recipients": ["a@b.c\r\nBcc: x@y.z"]}), "recipients[0]"),
        (json!({"webhooks": [{"name": "new"}]}), "webhooks[0].url"),
        (json!({"webhooks": [{"url": url}, {"name": "b", "url": "file:///hunter2"}]}), "webhooks[1].url"),
        (json!({"webhooks": [{"url": url, "format": "pigeon"}]}), "webhooks[0].format"),
        (json!({"webhooks": [{"url": url, "header": 1}]}), "webhooks[0].header"),
        (json!({"webhooks": [{"url": ["hunter2"]}]}), "webhooks[0].url"),
        (json!({"reminder_minutes": 99_999}), "reminder_minutes"),
        (json!({"reminder_minutes": 14}), "reminder_minutes"),
    ] {
        let refused = put(&node, &wrong).await;
        assert!(!refused.body.to_string().contains("hunter2"), "{refused:?}");
        assert_eq!(refused.expect_problem(422), [field], "{wrong}");
    }
    let nobody = node.api.post("/v1/alerting/test", &json!({"recipient": "else@example.com"})).await;
    assert_eq!(nobody.expect_problem(422), ["recipient"]);

    let audit = node.api.get("/v1/audit?limit=1").await.expect(200);
    let entry = &audit["data"][0];
    assert_eq!((&entry["action"], &entry["resource"]["kind"]), (&json!("update"), &json!("alerting")), "{audit}");
    assert!(!node.log().contains("hunter2"), "a secret is in the log");
}

/// An incident that is over, and was opened some minutes ago.
fn incident(subject: Subject, kind: IncidentKind, minutes: i64) -> Incident {
    let opened_at = Utc::now() - TimeDelta::minutes(minutes);
    let reason = Reason {
        code: "behind".into(),
        severity: Severity::Error,
        summary: format!("wrong for {minutes} min"),
        since: opened_at,
        cause: None,
        target: None,
        fix: "wait".into(),
    };
    let over = Some(opened_at + TimeDelta::seconds(30));
    let id = IncidentId(Uuid::new_v4());
    Incident {
        id,
        kind,
        subject,
        consumers: 1,
        records: None,
        behind: None,
        reason,
        opened_at,
        cleared_at: over,
        resolved_at: over,
        resolution: None,
    }
}

/// Writes incidents, the oldest first, and what was said of that, as the node that watches does.
async fn write(node: &Node, incidents: &[Incident]) {
    let store = SqliteStore::open(&node.data().join("control.db")).await.expect("the store");
    let key = std::fs::read_to_string(node.data().join("encryption-key")).expect("a key");
    let keyring = Keyring::from_base64(key.trim()).expect("a key");
    let documents = Documents::new(Arc::new(store), Arc::new(keyring));
    for incident in incidents {
        documents.put(incident.id, incident).await.expect("written");
    }
    let at = incidents[0].opened_at;
    let delivered = Delivery::Delivered { at };
    let notice = Notice {
        id: NoticeId::generate(),
        event: NoticeEvent::Opened,
        incidents: vec![incidents[0].id],
        shown: vec![incidents[0].clone()],
        counts: Vec::new(),
        made_at: at,
        deliveries: vec![(Destination::Email("ops@example.com".into()), delivered)],
    };
    documents.put(notice.id, &notice).await.expect("written");
}

fn ids(incidents: &[Value]) -> Vec<String> {
    incidents.iter().map(|incident| incident["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_are_listed_from_the_newest_on_by_what_they_are_about_and_tell_who_was_told() {
    let mut node = node().await;
    let connection = json!({"host": "127.0.0.1", "port": 1, "database": "app", "username": "sequin"});
    let target = node.api.post("/v1/targets", &json!({"name": "app", "connection": connection})).await.expect(201);
    let target = TargetId(target["id"].as_str().and_then(|id| id.parse().ok()).expect("an id"));
    assert!(node.sigterm().await.success());
    let consumer = ConsumerId::generate();
    let incidents = [
        incident(
            Subject::Consumer { id: consumer, name: "c".into(), target: "app".into() },
            IncidentKind::ConsumerBehind,
            30,
        ),
        incident(Subject::Target { id: target, name: "before".into() }, IncidentKind::TargetUnhealthy, 20),
        incident(Subject::Node { name: "app".into() }, IncidentKind::NodeSilent, 10),
    ];
    write(&node, &incidents).await;
    node.start_again_with(&SETTINGS).await;

    let listed = async |query: &str| ids(&node.api.pages(&format!("/v1/incidents?open=false{query}")).await);
    let [behind, unhealthy, silent] = incidents.clone().map(|incident| incident.id.to_string());
    assert_eq!(listed("").await, [silent.clone(), unhealthy.clone(), behind.clone()]);
    assert_eq!(listed("&target=app").await, [unhealthy.clone(), behind.clone()]);
    assert_eq!(listed(&format!("&target={target}")).await, [unhealthy, behind.clone()]);
    for of_consumer in ["&consumer=c".into(), format!("&consumer={consumer}"), "&kind=consumer_behind".into()] {
        assert_eq!(listed(&of_consumer).await, std::slice::from_ref(&behind));
    }
    assert_eq!(listed("&consumer=nobody").await, [""; 0]);
    let open = ids(&node.api.pages("/v1/incidents?open=true").await);
    assert!(![&behind, &silent].into_iter().any(|id| open.contains(id)), "{open:?}");

    let shown = node.api.get(&format!("/v1/incidents/{behind}")).await.expect(200);
    assert_eq!((&shown["kind"], &shown["status"]), (&json!("consumer_behind"), &json!("resolved")));
    assert_eq!(shown["subject"], json!({"type": "consumer", "id": consumer.0, "name": "c"}));
    assert!(shown["title"].as_str().is_some_and(|title| title.contains('c')), "{shown}");
    assert_eq!((&shown["reason"]["code"], &shown["target"]), (&json!("behind"), &json!("app")));
    assert_eq!(shown["url"], format!("https://sequin.example.com/incidents/{behind}"));
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    assert_eq!(time(&shown["opened_at"]), Some(incidents[0].opened_at));
    let told = &shown["notices"][0];
    assert_eq!((&told["event"], &told["deliveries"][0]["state"]), (&json!("opened"), &json!("delivered")));
    assert_eq!(told["deliveries"][0]["destination"], "ops@example.com");
    for nothing in ["nobody".to_owned(), Uuid::new_v4().to_string()] {
        node.api.get(&format!("/v1/incidents/{nothing}")).await.expect_problem(404);
    }

    let listed = run(&node.api, "incident list --all --kind consumer_behind").await.expect_done();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("OPENED") && lines[1].ends_with(&behind), "{listed}");
    let none = run(&node.api, "incident list --consumer nobody").await;
    assert!(none.stderr.contains("nothing is wrong") && none.stdout.is_empty(), "{none:?}");
    let shown = run(&node.api, &format!("incident show {behind}")).await.expect_done();
    for part in ["status     resolved\n", "fix: wait", "opened, email ops@example.com: delivered\n"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    assert_eq!(run(&node.api, "incident show nobody").await.status, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_to_tell_is_set_from_the_command_line_and_shown_and_what_is_not_given_stays() {
    let node = Node::start().await;
    let api = &node.api;
    let status = run(api, "status").await.expect_done();
    assert!(status.contains("alerting:\n") && status.contains("nobody is told of incidents"), "{status}");
    let set =
        "alerting set --recipient a@example.com --recipient b@example.com --webhook ops=http://127.0.0.1:1/hunter2";
    let shown = run(api, &format!("{set} --reminder-minutes 60")).await;
    assert!(shown.stderr.contains("sequin alerting test"), "{shown:?}");
    let shown = shown.expect_done();
    assert!(!shown.contains("hunter2"), "{shown}");
    for line in [
        "recipients       a@example.com, b@example.com",
        "webhooks         ops (cloud_events at 127.0.0.1)",
        "reminders        every 1 h 0 min",
        "mail             no mail server is set",
        "health           unhealthy",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line:?} is not in\n{shown}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("key");
    std::fs::write(&key, "hunter2\n").expect("a file");
    let add = format!(
        "alerting set --webhook chat=- --webhook-format slack --webhook-secret-file {} --no-recipients",
        key.display()
    );
    let shown = run_with(api, &format!("{add} --output json"), "http://127.0.0.1:2/hunter2\n").await.expect_json();
    let webhooks: Vec<_> = shown["webhooks"].as_array().expect("a list").iter().collect();
    assert_eq!(webhooks.iter().map(|webhook| &webhook["name"]).collect::<Vec<_>>(), ["ops", "chat"]);
    assert_eq!((&webhooks[1]["format"], &webhooks[1]["secret_set"]), (&json!("slack"), &json!(true)));
    assert_eq!((&shown["recipients"], &shown["reminder_minutes"]), (&json!([]), &json!(60)));
    let secrets = json!({"webhooks": [{"name": "chat", "url": "http://127.0.0.1:2/hunter2", "secret": "hunter2"}]});
    let compared = api.post("/v1/alerting/compare-secrets", &secrets).await.expect(200);
    assert_eq!(compared["different"], json!([]));
    let shown = run(api, "alerting set --remove-webhook ops").await.expect_done();
    assert!(shown.contains("webhooks         chat (slack at 127.0.0.1, signed)\n"), "{shown}");
    assert_eq!(run(api, "alerting show").await.expect_done(), shown);
    let json = run(api, "status --output json").await.expect_json();
    assert_eq!((&json["alerting"]["webhooks"][0]["name"], &json["incidents"]), (&json!("chat"), &json!([])));

    for (wrong, status) in [
        ("alerting set", 2),
        ("alerting set --webhook http://127.0.0.1:1/", 2),
        ("alerting set --webhook-format slack", 2),
        ("alerting set --remove-webhook nobody", 2),
        ("alerting set --recipient a@b --no-recipients", 2),
        ("alerting set --recipient nobody", 1),
        ("alerting set --webhook new", 1),
        ("alerting test --recipient a@example.com", 1),
    ] {
        let ran = run(api, wrong).await;
        assert_eq!(ran.status, Some(status), "{wrong}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_sets_while_a_command_runs_is_not_undone_by_it() {
    let node = Node::start().await;
    let api = &node.api;
    // It asks what is set, and then reads the URL.
    let mut running = Running::start(api.url(), "alerting set --webhook chat=-");
    eventually("the command to have asked what is set", async || {
        let metrics = api.get("/metrics").await.expect(200);
        let is_asked = |line: &str| {
            let has = |part: &str| line.contains(part);
            has("http_server_request_duration_seconds_count") && has("http_route=\"/v1/alerting\"")
        };
        holds(metrics.as_str().is_some_and(|text| text.lines().any(is_asked)), || "it has not".into())
    })
    .await;
    put(&node, &json!({"recipients": ["ops@example.com"]})).await.expect(200);
    running.write("http://127.0.0.1:1/hunter2").await;
    failed(&running.end().await, &["somebody else has changed it", "try again"]);
    let kept = api.get("/v1/alerting").await.expect(200);
    assert_eq!((&kept["recipients"], &kept["webhooks"]), (&json!(["ops@example.com"]), &json!([])));
    run_with(api, "alerting set --webhook chat=-", "http://127.0.0.1:1/hunter2").await.expect_done();
    let both = api.get("/v1/alerting").await.expect(200);
    assert_eq!((&both["recipients"], &both["webhooks"][0]["name"]), (&json!(["ops@example.com"]), &json!("chat")));
}

const FILE: &str = "alerting:
  recipients: [ops@example.com]
  webhooks:
    - name: chat
      url: ${WEBHOOK_CHAT_URL}
      format: slack
      secret: ${WEBHOOK_CHAT_SECRET}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_says_whom_to_tell_and_another_url_is_a_change_that_shows_none() {
    let node = Node::start().await;
    let with = async |command: &str, url: &str, file: &str| {
        let variables = [("WEBHOOK_CHAT_URL", url), ("WEBHOOK_CHAT_SECRET", "hunter2-key")];
        let ran = run_with_variables(&node.api, &format!("{command} -f -"), &variables, file).await;
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{ran:?}");
        ran.expect_done()
    };
    let (url, other) = ("http://127.0.0.1:1/hunter2", "http://127.0.0.1:2/hunter2");
    let planned = with("plan", url, FILE).await;
    for line in [
        "~ alerting settings",
        "    recipients: [] → [\"ops@example.com\"]",
        "    webhooks.chat.url: (secret)",
        "    webhooks.chat.format: slack",
        "    webhooks.chat.secret: (secret)",
    ] {
        assert!(planned.lines().any(|found| found == line), "{line:?} is not in\n{planned}");
    }
    with("apply", url, FILE).await;
    let nothing = "nothing to do: everything is as the file says\n";
    assert_eq!(with("plan", url, FILE).await, nothing);
    let exported = run(&node.api, "export").await;
    assert!(exported.stderr.contains("WEBHOOK_CHAT_SECRET, WEBHOOK_CHAT_URL"), "{exported:?}");
    assert_eq!(with("plan", url, &exported.expect_done()).await, nothing);

    let planned = with("plan", other, FILE).await;
    assert!(
        planned.starts_with("~ alerting settings\n    webhooks.chat.url: (secret) → (another one)\n\n"),
        "{planned}"
    );
    with("apply", other, FILE).await;
    assert_eq!(with("plan", other, FILE).await, nothing);
    // What is not mentioned stays, and null is none.
    let lines: Vec<&str> = FILE.lines().filter(|line| !line.contains("url:")).collect();
    let without = lines.join("\n").replace("${WEBHOOK_CHAT_SECRET}", "null");
    let planned = with("plan", other, &without).await;
    assert!(planned.starts_with("~ alerting settings\n    webhooks.chat.secret: (secret) → none\n\n"), "{planned}");
    with("apply", other, &without).await;
    assert_eq!(with("plan", other, &without).await, nothing);
    let gone = with("plan", other, "alerting: {}").await;
    assert!(gone.contains("    webhooks.chat: chat → none\n"), "{gone}");
    with("apply", other, "alerting: {}").await;
    let alerting = node.api.get("/v1/alerting").await.expect(200);
    assert_eq!((&alerting["recipients"], &alerting["webhooks"]), (&json!([]), &json!([])));
}
