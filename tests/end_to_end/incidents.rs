//! People are told by mail of what goes wrong, once, and once that it is over: whatever happens to the nodes that tell them,
//! and to the server that takes the mail.

use std::collections::HashSet;

use reqwest::Method;
use sequin_actors::store::Keyring;
use serde_json::{Value, json};

use crate::support::{
    api::{Api, send},
    database::Database,
    eventually, holds,
    model::{Model, Version, contact, sync},
    nats::Nats,
    node::Node,
    setup::Setup,
    smtp::{Mail, Smtp},
};

const RECIPIENTS: [&str; 2] = ["ops@example.com", "oncall@example.com"];

/// What a node is told that sends mail, and does not wait for long.
fn settings(smtp: &Smtp) -> Vec<(&'static str, String)> {
    vec![
        ("SEQUIN_SMTP_URL", format!("smtp://127.0.0.1:{}?tls=none", smtp.port())),
        ("SEQUIN_ALERT_FROM", "sequin@example.com".into()),
        ("SEQUIN_ALERT_AFTER_SECONDS", "1".into()),
        ("SEQUIN_CONSOLE_URL", "https://sequin.example.com".into()),
    ]
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn tell(api: &Api, recipients: &[&str]) {
    let settings = json!({"recipients": recipients, "webhooks": [], "reminder_minutes": 60});
    send(api.request(Method::PUT, "/v1/alerting").json(&settings)).await.expect(200);
}

/// The subjects of what has arrived at one address, in order.
fn subjects(smtp: &Smtp, to: &str) -> Vec<String> {
    let mails = smtp.messages().into_iter().filter(|mail| mail.to == [to]);
    mails.map(|mail| mail.header("Subject").to_owned()).collect()
}

/// Waits until somebody has a mail whose subject begins so.
async fn arrives(smtp: &Smtp, to: &str, begins: &str) {
    eventually(&format!("a mail {begins:?} for {to}"), async || {
        let subjects = subjects(smtp, to);
        holds(subjects.iter().any(|subject| subject.starts_with(begins)), || format!("there are {subjects:?}"))
    })
    .await;
}

fn too_long() -> Version {
    contact(sync(1), 2, json!("longer than the table takes"))
}

async fn open_incidents(api: &Api) -> Vec<Value> {
    api.get("/v1/incidents?open=true").await.expect(200)["data"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_trouble_is_mailed_once_over_crashes_of_the_node_and_an_outage_of_the_mail_server() {
    let mut smtp = Smtp::start(&[]);
    // It wants to be asked twice, as those do that keep junk out.
    smtp.behave(&json!({"later": true}));
    let settings = settings(&smtp);
    let node = Node::start_with(tempfile::tempdir().expect("a directory"), &borrowed(&settings)).await;
    let mut setup = Setup::with(node, Database::on_own_server().await).await;
    tell(&setup.node.api, &RECIPIENTS).await;
    let mut model = Model::default();
    setup.publish(&mut model, &[contact(sync(1), 1, json!("short"))]).await;
    for name in ["halts", "refuses", "waits"] {
        setup.start(name, &json!({"provider": "hubspot"})).await;
        setup.state_is(name, "live").await;
    }
    let consumer = json!({"lag_threshold_seconds": 1});
    setup.node.api.patch("/v1/consumers/waits", &consumer).await.expect(200);
    let only_short = "alter table sequin.refuses add constraint short check (length(payload #>> '{}') < 20)";
    setup.database.run(only_short).await;
    setup.database.run("alter table sequin.halts rename to elsewhere").await;
    let others = setup.database.connect().await;
    others.batch_execute("begin; lock table sequin.waits").await.expect("a lock");
    setup.publish(&mut model, &[too_long()]).await;
    let opened = [
        "[Sequin] Consumer halts has halted: ",
        "[Sequin] Consumer refuses has 1 record in quarantine",
        "[Sequin] Consumer waits is behind: 1 record, ",
        "[Sequin] Target app is unhealthy: 3 consumers wait",
    ];
    for subject in &opened[..3] {
        for recipient in RECIPIENTS {
            arrives(&smtp, recipient, subject).await;
        }
    }
    all_is_sent(&setup.node.api).await;
    setup.node.sigkill();
    setup.node.start_again_with(&borrowed(&settings)).await;

    setup.database.crash();
    for recipient in RECIPIENTS {
        arrives(&smtp, recipient, opened[3]).await;
    }
    all_is_sent(&setup.node.api).await;
    smtp.stop();
    drop(others);
    setup.database.recover().await;
    setup.database.run("alter table sequin.elsewhere rename to halts").await;
    setup.database.run("alter table sequin.refuses drop constraint short").await;
    setup.node.sigterm().await;
    setup.node.start_again_with(&borrowed(&settings)).await;
    // What is mended is tried again sooner if somebody says so.
    setup.act("halts", "resume").await;
    setup.node.api.act("/v1/consumers/refuses/quarantine/retry").await.expect(200);
    eventually("everything to be well", async || {
        let open = open_incidents(&setup.node.api).await;
        holds(open.is_empty(), || format!("there are {open:?}"))
    })
    .await;
    eventually("alerting to be unhealthy", async || {
        let alerting = setup.node.api.get("/v1/alerting").await.expect(200);
        let is_known = alerting["health"]["reasons"][0]["code"] == "email_undeliverable";
        holds(is_known && alerting["pending"].as_u64() > Some(0), || format!("it is {alerting}"))
    })
    .await;
    setup.node.sigkill();
    smtp.start_again();
    setup.node.start_again_with(&borrowed(&settings)).await;
    all_is_sent(&setup.node.api).await;
    let alerting = setup.node.api.get("/v1/alerting").await.expect(200);
    assert_eq!(alerting["health"]["status"], "healthy", "{alerting}");

    let incidents = setup.node.api.get("/v1/incidents").await.expect(200);
    let incidents = incidents["data"].as_array().expect("a list");
    assert_eq!(incidents.len(), opened.len(), "{incidents:#?}");
    let mut notices = HashSet::new();
    for incident in incidents {
        let said: Vec<_> = incident["notices"].as_array().expect("a list").iter().collect();
        assert_eq!(
            said.iter().map(|notice| &notice["event"]).collect::<Vec<_>>(),
            ["opened", "resolved"],
            "{incident}"
        );
        notices.extend(said.iter().map(|notice| notice["id"].to_string()));
    }
    for recipient in RECIPIENTS {
        let subjects = subjects(&smtp, recipient);
        assert_eq!(subjects.len(), notices.len(), "{subjects:#?}");
        let (before, after) = subjects.split_at(opened.len());
        for opened in opened {
            assert_eq!(before.iter().filter(|subject| subject.starts_with(opened)).count(), 1, "{subjects:#?}");
        }
        assert!(after.iter().all(|subject| subject.starts_with("[Sequin] Resolved: ")), "{subjects:#?}");
    }
}

/// Waits until nothing is left to be delivered.
async fn all_is_sent(api: &Api) {
    eventually("all mail to be sent", async || {
        let alerting = api.get("/v1/alerting").await.expect(200);
        holds(alerting["pending"] == 0, || format!("{alerting}"))
    })
    .await;
}

#[tokio::test]
async fn a_mail_says_what_is_wrong_since_when_what_to_do_and_where_to_look() {
    let smtp = Smtp::start(&[]);
    let node = Node::start_with(tempfile::tempdir().expect("a directory"), &borrowed(&settings(&smtp))).await;
    let setup = Setup::with(node, Database::create().await).await;
    tell(&setup.node.api, &RECIPIENTS[..1]).await;
    setup.start_hubspot().await;
    setup.database.run("alter table sequin.hubspot drop column payload").await;
    setup.publish(&mut Model::default(), &[too_long()]).await;
    arrives(&smtp, RECIPIENTS[0], "[Sequin] Consumer hubspot has halted: ").await;
    let mails = smtp.messages();
    let [mail @ Mail { from, defects, kind, parts, text, html, .. }] = &mails[..] else {
        panic!("one mail: {mails:?}")
    };
    assert_eq!((from.as_str(), defects.len(), kind.as_str()), ("sequin@example.com", 0, "multipart/alternative"));
    assert_eq!(parts[..], ["text/plain", "text/html"]);
    assert!(!mail.encrypted && mail.login.is_none(), "the settings say so");
    let incident = &open_incidents(&setup.node.api).await[0];
    let url = incident["url"].as_str().expect("a link");
    assert!(mail.header("Subject").ends_with(incident["title"].as_str().expect("a title")), "{mail:?}");
    for says in ["payload", "app", "alter table", url] {
        assert!(text.contains(says) && html.contains(says), "{says}: {text}\n{html}");
    }
    let path = format!("/v1/incidents/{}", incident["id"].as_str().expect("an id"));
    eventually("the delivery to be noted", async || {
        let incident = setup.node.api.get(&path).await.expect(200);
        holds(incident["notices"][0]["deliveries"][0]["state"] == "delivered", || format!("it is {incident}"))
    })
    .await;
}

#[tokio::test]
async fn whichever_node_of_a_cluster_dies_or_leaves_another_goes_on_and_nothing_is_told_twice() {
    let (smtp, nats) = (Smtp::start(&[]), Nats::start());
    let mut of_all = settings(&smtp);
    of_all.extend([
        ("SEQUIN_BACKEND", nats.url()),
        ("SEQUIN_ENCRYPTION_KEY", Keyring::generate_base64()),
        ("SEQUIN_SESSION_TTL_SECONDS", "2".into()),
    ]);
    let of = |name: &str| [&of_all[..], &[("SEQUIN_NODE", name.into())]].concat();
    let (of_one, of_other) = (of("one"), of("other"));
    let start = async |settings: &[(&'static str, String)]| {
        Node::start_with(tempfile::tempdir().expect("a directory"), &borrowed(settings)).await
    };
    let mut other = start(&of_other).await;
    let mut setup = Setup::with(start(&of_one).await, Database::create().await).await;
    tell(&other.api, &RECIPIENTS[..1]).await;
    let mut model = Model::default();
    let names = ["first", "second", "third"];
    for name in names {
        setup.start(name, &json!({"provider": "hubspot"})).await;
        setup.state_is(name, "live").await;
    }
    for (number, name) in names.into_iter().enumerate() {
        match number {
            0 => {}
            1 => other.sigkill(),
            _ => {
                other.start_again_with(&borrowed(&of_other)).await;
                assert_eq!(setup.node.sigterm().await.code(), Some(0));
                setup.node.api = Api::new(other.api.url().into());
            }
        }
        setup.database.run(&format!("alter table sequin.{name} drop column payload")).await;
        setup.publish(&mut model, &[contact(sync(1), number, json!(number))]).await;
        arrives(&smtp, RECIPIENTS[0], &format!("[Sequin] Consumer {name} has halted: ")).await;
        all_is_sent(&setup.node.api).await;
    }
    let subjects = subjects(&smtp, RECIPIENTS[0]);
    assert_eq!(subjects.len(), names.len(), "{subjects:#?}");
}
