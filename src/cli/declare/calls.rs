//! What a plan does: one call after the other, up to the first that fails.

use std::fmt;

use serde_json::{Value, json};

use super::super::{
    client::{Answer, Client, ClientError},
    output::{Output, note, print},
};

/// One call to the server. Its body may hold secrets: there is no `Debug`.
pub(super) struct Call {
    kind: &'static str,
    name: String,
    verb: Verb,
}

enum Verb {
    Create(Value),
    Change(Value),
    Delete,
    /// All of it is as this says.
    Set {
        body: Value,
        /// The state that this was made of.
        before: Option<String>,
    },
    /// `start`, `pause`, …
    Act(&'static str),
}

/// `start consumer hubspot`
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, verb } = self;
        match verb {
            Verb::Create(_) => write!(f, "create {kind} {name}"),
            Verb::Change(_) | Verb::Set { .. } => write!(f, "change {kind} {name}"),
            Verb::Delete => write!(f, "delete {kind} {name}"),
            Verb::Act("create-table") => write!(f, "make the table of {kind} {name}"),
            Verb::Act(act) => write!(f, "{act} {kind} {name}"),
        }
    }
}

impl Call {
    pub(super) fn create(kind: &'static str, name: &str, body: Value) -> Self {
        Self { kind, name: name.into(), verb: Verb::Create(body) }
    }

    pub(super) fn change(kind: &'static str, name: &str, body: Value) -> Self {
        Self { kind, name: name.into(), verb: Verb::Change(body) }
    }

    /// Sets something of which there is one, if it is still what the plan was made of.
    pub(super) fn set(kind: &'static str, name: &str, body: Value, before: Option<String>) -> Self {
        Self { kind, name: name.into(), verb: Verb::Set { body, before } }
    }

    pub(super) fn delete(kind: &'static str, name: &str) -> Self {
        Self { kind, name: name.into(), verb: Verb::Delete }
    }

    /// Something that a consumer is told to do.
    pub(super) fn act(act: &'static str, consumer: &str) -> Self {
        Self { kind: "consumer", name: consumer.into(), verb: Verb::Act(act) }
    }

    async fn make(&self, client: &Client) -> Result<Answer, ClientError> {
        let collection = if self.kind == "target" { "targets" } else { "consumers" };
        match &self.verb {
            Verb::Create(body) => client.post_json(&[collection], body).await,
            Verb::Change(body) => client.patch_json(&[collection, &self.name], body).await,
            Verb::Set { body, before } => client.put_json_at(&[self.kind], body, before.as_deref()).await,
            Verb::Delete => client.delete(&[collection, &self.name]).await,
            Verb::Act(act) => client.post(&[collection, &self.name, act]).await,
        }
    }
}

/// A call that failed; those after it were not made.
#[derive(Debug, thiserror::Error)]
#[error("{failed}: {cause}\ndone before that: {}\nnot done: {}\napply again goes on from here", listed(.done), listed(.not_done))]
pub(super) struct Stopped {
    failed: String,
    cause: ClientError,
    done: Vec<String>,
    not_done: Vec<String>,
}

fn listed(calls: &[String]) -> String {
    if calls.is_empty() { "nothing".into() } else { calls.join(", ") }
}

/// Makes the calls, and says of each that it is done.
pub(super) async fn make(client: &Client, output: Output, calls: &[Call]) -> anyhow::Result<()> {
    let all: Vec<String> = calls.iter().map(ToString::to_string).collect();
    for (number, call) in calls.iter().enumerate() {
        match call.make(client).await {
            Ok(_) => note(format_args!("done: {call}")),
            Err(cause) => {
                let (done, not_done) = (all[..number].to_vec(), all[number..].to_vec());
                if output == Output::Json {
                    print(json!({"done": done, "not_done": not_done}))?;
                }
                return Err(Stopped { failed: call.to_string(), cause, done, not_done }.into());
            }
        }
    }
    match output {
        Output::Json => print(json!({"done": all, "not_done": []})),
        Output::Table => Ok(()),
    }
}
