//! The description of the API: it is the one that is checked in, and every call is as it says.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::{
    api::{Api, send},
    node::{Node, sequin},
};

/// What is checked in, so that a change of the contract is seen in a review.
const CHECKED_IN: &str = include_str!("../openapi.json");

/// A call that is described.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// The path as it is described, with the names of its parameters.
    pub(crate) template: String,
    /// The path, with a name that nothing has in place of its parameters.
    pub(crate) path: String,
    pub(crate) operation: Value,
}

impl Call {
    fn is_open(&self) -> bool {
        self.operation["security"].is_array()
    }

    pub(crate) fn takes_body(&self) -> bool {
        self.operation["requestBody"].is_object()
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Value> {
        self.operation["parameters"].as_array().into_iter().flatten()
    }

    /// A body that the call takes, as the description has it.
    pub(crate) fn example(&self) -> Value {
        let schema = &self.operation["requestBody"]["content"]["application/json"]["schema"];
        let pointer = schema["$ref"].as_str().expect("a schema").trim_start_matches('#');
        document().pointer(pointer).expect("what it refers to")["example"].clone()
    }
}

const METHODS: [Method; 5] = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE];

fn document() -> Value {
    serde_json::from_str(CHECKED_IN).expect("JSON")
}

pub(crate) fn calls() -> Vec<Call> {
    let document = document();
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in METHODS {
            let operation = &item[method.as_str().to_lowercase()];
            if operation.is_object() {
                let (template, operation) = (path.clone(), operation.clone());
                calls.push(Call { method, template, path: filled_in(path), operation });
            }
        }
    }
    calls
}

fn filled_in(path: &str) -> String {
    let segment = |segment: &str| if segment.starts_with('{') { "nobody".into() } else { segment.to_owned() };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

async fn text(api: &Api, path: &str) -> (reqwest::header::HeaderMap, String) {
    let answer = api.anonymous(Method::GET, path).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{path}");
    (answer.headers().clone(), answer.text().await.expect("text"))
}

#[tokio::test]
async fn the_description_of_the_api_is_the_one_that_is_checked_in() {
    let how = "if it was meant to change: `cargo run -- openapi > tests/openapi.json`, and look at what changed";
    let node = Node::start().await;
    let (headers, served) = text(&node.api, "/openapi.json").await;
    assert_eq!(headers["content-type"], "application/json");
    let difference = served.lines().zip(CHECKED_IN.lines()).find(|(served, checked_in)| served != checked_in);
    assert!(served == CHECKED_IN, "the description is another than tests/openapi.json, as in {difference:?}; {how}");
    let printed = sequin().arg("openapi").output().expect("the program");
    assert_eq!((printed.status.code(), String::from_utf8_lossy(&printed.stdout)), (Some(0), served.into()));
}

#[test]
fn every_call_says_what_it_does_and_what_it_may_answer() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for Call { method, path, operation, .. } in calls() {
        let what = format!("{method} {path}");
        let id = operation["operationId"].as_str().expect("an id");
        assert!(ids.insert(id.to_owned()), "{what}: there is another {id}");
        assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{what} has no summary");
        let tags = document["tags"].as_array().expect("tags");
        assert!(tags.iter().any(|tag| tag["name"] == operation["tags"][0]), "{what} has no tag that is described");
        let answers = operation["responses"].as_object().expect("answers");
        assert!(answers.keys().any(|status| status.starts_with('2')), "{what} never succeeds");
        for (status, answer) in answers.iter().filter(|(status, _)| !status.starts_with('2')) {
            let reference = answer["$ref"].as_str().unwrap_or_else(|| panic!("{what}: {status} is no problem"));
            let problem = document.pointer(reference.trim_start_matches('#')).expect("what it refers to");
            assert!(problem["content"]["application/problem+json"].is_object(), "{what}: {status}");
        }
    }
}

#[tokio::test]
async fn every_call_that_is_described_is_there_and_no_other_method_of_its_path() {
    let node = Node::start().await;
    let calls = calls();
    for call in &calls {
        let what = format!("{} {}", call.method, call.path);
        let without = send(node.api.anonymous(call.method.clone(), &call.path)).await;
        if call.is_open() {
            without.expect(200);
            continue;
        }
        assert!(without.expect_problem(401).is_empty(), "{what}");
        if !call.path.contains("nobody") {
            continue;
        }
        if !call.takes_body() {
            send(node.api.request(call.method.clone(), &call.path)).await.expect_problem(404);
        }
        let no_text = call.path.replace("nobody", "%FF");
        send(node.api.request(call.method.clone(), &no_text)).await.expect_problem(404);
    }
    let paths: BTreeSet<_> = calls.iter().map(|call| call.path.as_str()).collect();
    for path in paths {
        let methods: Vec<_> = calls.iter().filter(|call| call.path == path).map(|call| call.method.clone()).collect();
        for method in METHODS.into_iter().filter(|method| !methods.contains(method)) {
            let answer = node.api.request(method.clone(), path).send().await.expect("an answer");
            let allowed = answer.headers().get("allow").map(|allowed| allowed.to_str().expect("text").to_owned());
            let allowed: Vec<_> = allowed.iter().flat_map(|allowed| allowed.split(',')).collect();
            assert!(methods.iter().all(|one| allowed.contains(&one.as_str())), "{method} {path}: {allowed:?}");
            send(node.api.request(method, path)).await.expect_problem(405);
        }
    }
}

#[tokio::test]
async fn the_docs_show_every_call_and_load_nothing_from_elsewhere() {
    let node = Node::start().await;
    let (headers, page) = text(&node.api, "/docs").await;
    let header = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert!(header("content-type").starts_with("text/html"));
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    for elsewhere in ["<script", "<link", "<img", "src=", "@import", "url(", "href='http"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    for call in calls() {
        let id = call.operation["operationId"].as_str().expect("an id").to_owned();
        assert!(page.contains(&format!("<article id='{id}'>")), "{id} is not shown");
    }
    let anchors: BTreeSet<_> = page.split(" id='").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
    let links = page.split("href='#").skip(1).filter_map(|rest| rest.split('\'').next());
    let dead: Vec<_> = links.filter(|link| !["top", "schemas"].contains(link) && !anchors.contains(link)).collect();
    assert!(dead.is_empty(), "these lead nowhere: {dead:?}");
}
