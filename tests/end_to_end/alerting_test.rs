//! Trying whether those who are to be told of incidents hear of it.

use axum::{Router, body::Bytes, http::StatusCode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::support::{api::send, cli::run, node::Node};

/// A webhook that answers with `status`, and passes on what it is sent.
async fn webhook(status: StatusCode) -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let take = move |body: Bytes| {
        // Nobody listens any more when the test is over.
        let _ = sender.send(body);
        async move { status }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/hunter2", listener.local_addr().expect("its address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
    (url, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_at_once_that_it_is_a_test_and_whoever_does_not_hear_is_named_with_the_reason() {
    let node = Node::start().await;
    let (takes, mut taken) = webhook(StatusCode::OK).await;
    let (refuses, _refused) = webhook(StatusCode::NOT_FOUND).await;
    let webhooks = json!([{"name": "takes", "url": takes, "format": "slack"}, {"name": "refuses", "url": refuses}]);
    let set = node.api.request(Method::PUT, "/v1/alerting").json(&json!({"webhooks": webhooks}));
    send(set).await.expect(200);

    let tested = node.api.act("/v1/alerting/test").await.expect(200);
    assert_eq!(tested["ok"], false);
    let takes = json!({"channel": "webhook", "destination": "takes", "ok": true, "error": null});
    assert_eq!(tested["deliveries"][0], takes);
    let refuses = &tested["deliveries"][1];
    assert_eq!((&refuses["destination"], &refuses["ok"]), (&json!("refuses"), &json!(false)));
    assert!(refuses["error"].as_str().is_some_and(|error| error.contains("404")), "{tested}");
    assert!(!tested.to_string().contains("hunter2"), "{tested}");
    let sent: Value = serde_json::from_slice(&taken.recv().await.expect("what was sent")).expect("JSON");
    assert!(sent["text"].is_string(), "{sent}");

    let one = node.api.post("/v1/alerting/test", &json!({"webhook": "takes"})).await.expect(200);
    assert_eq!(one, json!({"ok": true, "deliveries": [takes]}));
    assert_eq!(run(&node.api, "alerting test --webhook takes").await.expect_done(), "webhook takes: ok\n");
    let all = run(&node.api, "alerting test").await;
    assert!(all.status == Some(1) && all.stdout.contains("webhook refuses: failed: "), "{all:?}");
    // What is only a test is no incident, and nothing is left of it to be delivered.
    let alerting = node.api.get("/v1/alerting").await.expect(200);
    assert_eq!((&alerting["pending"], &alerting["health"]["reasons"]), (&json!(0), &json!([])));
    assert!(!node.log().contains("hunter2"), "a URL is in the log");
}
