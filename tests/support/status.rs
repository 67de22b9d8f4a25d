//! What targets and consumers say of themselves, and must say of whatever is not as it should be.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    api::Api,
    eventually, eventually_within, holds,
    model::{HUBSPOT, Model, compare},
    setup::Setup,
};

/// How soon a consumer to which nothing happened has what is published: far sooner than whatever others wait for.
const SOON: Duration = Duration::from_secs(10);

/// The reasons that a target or a consumer gives for its health.
pub(crate) fn reasons(shown: &Value) -> &[Value] {
    shown["health"]["reasons"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a target or a consumer gives a reason of this code, with these words in its summary.
pub(crate) fn says(shown: &Value, code: &str, words: &str) -> bool {
    let has_words = |reason: &Value| reason["summary"].as_str().is_some_and(|summary| summary.contains(words));
    reasons(shown).iter().any(|reason| reason["code"] == code && has_words(reason))
}

/// The reason of this code, which must say what is wrong, since when, and what to do.
#[track_caller]
pub(crate) fn reason<'v>(shown: &'v Value, code: &str) -> &'v Value {
    let reason = reasons(shown).iter().find(|reason| reason["code"] == code);
    let reason = reason.unwrap_or_else(|| panic!("no reason is {code} in {shown}"));
    for member in ["summary", "fix"] {
        assert!(is_said(reason, member), "{member} of {reason}");
    }
    assert!(matches!(reason["severity"].as_str(), Some("error" | "warning")), "{reason}");
    assert!(since(reason) <= Utc::now(), "{reason}");
    if reason["severity"] == "error" {
        assert_eq!(shown["health"]["status"], "unhealthy", "{shown}");
    }
    reason
}

/// The same, and it must say why such a thing happens.
#[track_caller]
pub(crate) fn reason_with_cause<'v>(shown: &'v Value, code: &str) -> &'v Value {
    let reason = reason(shown, code);
    assert!(is_said(reason, "cause"), "the cause of {reason}");
    reason
}

fn is_said(reason: &Value, member: &str) -> bool {
    reason[member].as_str().is_some_and(|text| !text.is_empty())
}

/// Since when a reason is there.
#[track_caller]
pub(crate) fn since(reason: &Value) -> DateTime<Utc> {
    let since = reason["since"].as_str().and_then(|since| since.parse().ok());
    since.unwrap_or_else(|| panic!("since when is not said by {reason}"))
}

impl Api {
    /// The target of this name as it is now.
    pub(crate) async fn target(&self, name: &str) -> Value {
        self.get(&format!("/v1/targets/{name}")).await.expect(200)
    }

    /// The consumer of this name as it is now.
    pub(crate) async fn consumer(&self, name: &str) -> Value {
        self.get(&format!("/v1/consumers/{name}")).await.expect(200)
    }

    /// Waits until a target is as `is` wants it; `what` says how that is.
    pub(crate) async fn target_is(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("target {name} to be {what}"), async || {
            let target = self.target(name).await;
            holds(is(&target), || format!("it is {target}")).map(|()| target)
        })
        .await
    }

    /// Waits until a target is in a state.
    pub(crate) async fn target_state_is(&self, name: &str, state: &str) -> Value {
        self.target_is(name, state, |target| target["state"] == state).await
    }

    /// Waits until a consumer is as `is` wants it; `what` says how that is.
    pub(crate) async fn consumer_is(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("consumer {name} to be {what}"), async || {
            let consumer = self.consumer(name).await;
            holds(is(&consumer), || format!("it is {consumer}")).map(|()| consumer)
        })
        .await
    }

    /// Waits until a consumer is live, and nothing is wrong with it.
    pub(crate) async fn is_well(&self, name: &str) -> Value {
        let is_well = |consumer: &Value| consumer["state"] == "live" && consumer["health"]["status"] == "healthy";
        self.consumer_is(name, "live and healthy", is_well).await
    }
}

impl Setup {
    /// The consumer `hubspot`, to which nothing happens, has everything, and soon, and has nothing to complain of.
    pub(crate) async fn hubspot_is_undisturbed(&self, model: &Model) {
        let expected = model.of_provider(HUBSPOT);
        eventually_within(SOON, "the consumer to which nothing happens to have everything", async || {
            let consumer = self.consumer(HUBSPOT).await;
            assert!(reasons(&consumer).is_empty(), "something happened to it after all: {consumer}");
            assert_eq!(consumer["state"], "live", "{consumer}");
            compare(&self.database.table(HUBSPOT).await, &expected)
        })
        .await;
    }
}
