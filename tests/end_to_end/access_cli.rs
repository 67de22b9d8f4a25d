//! Tokens and the audit log, as a person at a terminal has them.

use reqwest::Method;
use serde_json::Value;

use crate::support::{api::send, cli::run, node::Node};

#[tokio::test]
async fn tokens_are_made_listed_shown_and_revoked() {
    let node = Node::start().await;
    let api = &node.api;
    let made = run(api, "token create ci --role publish --expires-in 90d").await;
    assert!(made.stderr.contains("it is not shown again"), "{made:?}");
    let facts = made.expect_done();
    let token = facts.lines().find_map(|line| line.strip_prefix("token ")).expect("the token").trim().to_owned();
    let lasts = run(api, "token show ci --output json").await.expect_json();
    let time = |value: &Value| value.as_str().and_then(|at| at.parse::<chrono::DateTime<chrono::Utc>>().ok());
    let lasts = time(&lasts["expires_at"]).expect("a time") - time(&lasts["created_at"]).expect("a time");
    assert!((lasts.num_minutes() - 90 * 24 * 60).abs() <= 1, "{lasts}");
    let published = api.anonymous(Method::POST, "/v1/records").header("content-type", "application/x-ndjson");
    send(published.bearer_auth(&token).body("")).await.expect(200);

    let other = run(api, "token create looker --role read --output json").await.expect_json();
    assert!(other["token"].as_str().is_some_and(|token| token.starts_with("sequin_")), "{other}");
    let list = run(api, "token list").await.expect_done();
    assert!(list.starts_with("TOKEN"), "{list}");
    let looker = list.lines().find(|line| line.starts_with("looker")).expect("a line");
    assert_eq!(looker.split_whitespace().take(4).collect::<Vec<_>>(), ["looker", "read", "never", "never"]);
    let shown = run(api, "token show looker").await.expect_done();
    for said in [&list, &shown] {
        assert!(!said.contains("sequin_"), "{said}");
    }
    let listed = run(api, "token list --output json").await.expect_json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2), "{listed}");

    let revoked = run(api, "token revoke ci").await;
    assert_eq!((revoked.status, revoked.stderr.as_str()), (Some(0), "token ci is revoked\n"));
    let refused = api.anonymous(Method::POST, "/v1/records").bearer_auth(&token);
    send(refused).await.expect_problem(401);
    for (arguments, status, said) in [
        ("token revoke ci", 1, "there is no token ci"),
        ("token show ci", 1, "there is no token ci"),
        ("token create looker --role read", 1, "looker is taken"),
        ("token create ci", 2, "--role"),
        ("token create ci --role read --expires-in 999999999999d", 2, "--expires-in"),
    ] {
        let failed = run(api, arguments).await;
        assert!(failed.status == Some(status) && failed.stderr.contains(said), "{arguments}: {failed:?}");
    }
}

#[tokio::test]
async fn the_audit_log_is_a_table_of_the_newest_changes() {
    let node = Node::start().await;
    let api = &node.api;
    let empty = run(api, "audit").await;
    assert_eq!((empty.status, empty.stdout.as_str(), empty.stderr.as_str()), (Some(0), "", "nothing was changed\n"));
    for name in ["a", "b", "c"] {
        run(api, &format!("token create {name} --role read")).await.expect_done();
    }
    let all = run(api, "audit").await.expect_done();
    let names: Vec<_> = all.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4)).collect();
    assert_eq!(names, ["c", "b", "a"], "{all}");
    assert!(all.starts_with("AT ") && all.contains("settings") && all.contains("127.0.0.1"), "{all}");
    let some = run(api, "audit --limit 2").await;
    assert!(some.stdout.lines().count() == 3 && some.stderr.contains("--all"), "{some:?}");
    let every = run(api, "audit --all --output json").await.expect_json();
    assert_eq!(every["data"][2]["resource"]["name"], "a", "{every}");
}
