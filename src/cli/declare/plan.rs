//! The plan: what it takes to make what is there what a file says.

use std::fmt;

use anyhow::bail;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    super::{answers::List, client::Client, problem::indented},
    alerting,
    calls::Call,
    difference::{Changed, How, difference, patch, without_nulls},
    document::Wrong,
    shape::{CONSUMER, Field, TARGET, Takes},
    wanted::{Item, Wanted},
};

/// Everything that is to change, in the order in which it is done.
#[derive(Default, Serialize)]
pub(super) struct Plan {
    pub(super) changes: Vec<Step>,
    /// What is there, and not in the file, and is left as it is.
    not_in_file: Vec<Other>,
    #[serde(skip)]
    pub(super) calls: Vec<Call>,
}

/// What is to become of one resource.
#[derive(Serialize)]
pub(super) struct Step {
    kind: &'static str,
    name: String,
    action: Action,
    fields: Vec<Changed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Create,
    Change,
    Delete,
}

#[derive(Serialize)]
struct Other {
    kind: &'static str,
    name: String,
}

/// What is there.
struct Present {
    targets: Vec<Value>,
    consumers: Vec<Value>,
}

/// Compares what is there with what there should be. What can't be had at all is told with its place in the file.
pub(super) async fn plan(client: &Client, wanted: Wanted, prune: bool) -> anyhow::Result<Result<Plan, Vec<Wrong>>> {
    let targets = client.list(&["targets"], &[]).await?.read::<List<Value>>()?;
    let consumers = client.list(&["consumers"], &[]).await?.read::<List<Value>>()?;
    if prune && !(targets.unreadable.is_empty() && consumers.unreadable.is_empty()) {
        bail!("what the server can't show can't be compared with the file: mend that first, or go without --prune");
    }
    let present = Present { targets: targets.data, consumers: consumers.data };
    let mut plan = Plan::default();
    let mut wrong = Vec::new();
    let (gone_targets, gone_consumers) =
        (not_in(&present.targets, &wanted.targets), not_in(&present.consumers, &wanted.consumers));
    // A section that the file does not have says nothing of what there should be.
    let (prune_targets, prune_consumers) = (prune && wanted.has_targets, prune && wanted.has_consumers);
    if prune_consumers {
        // First, so that no table has two consumers meanwhile.
        for name in &gone_consumers {
            plan.delete("consumer", name);
        }
    }
    for item in &wanted.targets {
        plan.target(client, item, find(&present.targets, &item.name)).await?;
    }
    for item in wanted.consumers {
        let target = item.fields["target"].as_str().unwrap_or_default();
        let is_there = find(&present.targets, target).is_some()
            && !(prune_targets && gone_targets.iter().any(|gone| gone == target));
        if !is_there && !wanted.targets.iter().any(|item| item.name == target) {
            wrong.push(
                item.wrong("target", &format!("there will be no target {target}: the file has none of that name")),
            );
        }
        let shown = find(&present.consumers, &item.name).cloned();
        wrong.extend(plan.consumer(client, item, shown).await?);
    }
    if prune_targets {
        for name in &gone_targets {
            plan.delete("target", name);
        }
    }
    let others = |kind, names: Vec<String>, is_pruned: bool| {
        names.into_iter().filter(move |_| !is_pruned).map(move |name| Other { kind, name })
    };
    if let Some(item) = &wanted.alerting {
        plan.alerting(client, item).await?;
    }
    plan.not_in_file = others("target", gone_targets, prune_targets)
        .chain(others("consumer", gone_consumers, prune_consumers))
        .collect();
    Ok(if wrong.is_empty() { Ok(plan) } else { Err(wrong) })
}

fn find<'a>(present: &'a [Value], name: &str) -> Option<&'a Value> {
    present.iter().find(|shown| shown["name"] == name)
}

/// The names of what is there, and not in the file.
fn not_in(present: &[Value], wanted: &[Item]) -> Vec<String> {
    let names = present.iter().filter_map(|shown| shown["name"].as_str());
    names.filter(|name| !wanted.iter().any(|item| item.name == **name)).map(ToOwned::to_owned).collect()
}

impl Item {
    fn wrong(&self, field: &str, message: &str) -> Wrong {
        Wrong { line: self.line, path: format!("{}.{field}", self.path), message: message.into() }
    }
}

impl Plan {
    /// Whether a target of this name goes to another database.
    fn moves(&self, target: &str) -> bool {
        let is_place = |field: &Changed| {
            matches!(field.path.as_str(), "connection.host" | "connection.port" | "connection.database")
        };
        self.changes.iter().any(|step| step.kind == "target" && step.name == target && step.fields.iter().any(is_place))
    }

    /// Nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn delete(&mut self, kind: &'static str, name: &str) {
        self.changes.push(Step { kind, name: name.into(), action: Action::Delete, fields: Vec::new() });
        self.calls.push(Call::delete(kind, name));
    }

    async fn target(&mut self, client: &Client, item: &Item, shown: Option<&Value>) -> anyhow::Result<()> {
        let name = &item.name;
        let Some(shown) = shown else {
            let fields = difference(TARGET, "", &item.fields, &Value::Null, &|_| true);
            self.changes.push(Step { kind: "target", name: name.clone(), action: Action::Create, fields });
            self.calls.push(Call::create("target", name, without_nulls(&item.fields)));
            return Ok(());
        };
        let different = different_secrets(client, name, &item.fields, shown).await?;
        let fields = difference(TARGET, "", &item.fields, shown, &|path| different.iter().any(|field| field == path));
        if !fields.is_empty() {
            self.calls.push(Call::change("target", name, trusting_anew(patch(&item.fields, &fields), &item.fields)));
            self.changes.push(Step { kind: "target", name: name.clone(), action: Action::Change, fields });
        }
        Ok(())
    }

    async fn alerting(&mut self, client: &Client, item: &Item) -> anyhow::Result<()> {
        let (fields, before) = alerting::changes(client, &item.fields).await?;
        if !fields.is_empty() {
            self.calls.push(Call::set("alerting", &item.name, alerting::request(&item.fields), before));
            self.changes.push(Step { kind: "alerting", name: item.name.clone(), action: Action::Change, fields });
        }
        Ok(())
    }

    async fn consumer(
        &mut self,
        client: &Client,
        mut item: Item,
        shown: Option<Value>,
    ) -> anyhow::Result<Option<Wrong>> {
        // What the API does not know as fields.
        let mut take =
            |field: &str| item.fields.as_object_mut().and_then(|fields| fields.remove(field)).unwrap_or_default();
        let (state, wants_table) = (take("state"), take("create_table") == true);
        let state = state.as_str().unwrap_or("running");
        let Some(mut shown) = shown else {
            self.new_consumer(&item, state, wants_table);
            return Ok(None);
        };
        shown["target"] = shown["target"]["name"].take();
        let is = started_state(&shown);
        if shown["target"] != item.fields["target"] {
            let (from, to) = (&shown["target"], &item.fields["target"]);
            let message = format!("can't be changed from {from} to {to}: a consumer of another name can have it");
            return Ok(Some(item.wrong("target", &message)));
        }
        if state == "draft" && is != "draft" {
            let message = format!("it is {is}, and what was started is no draft again: write paused");
            return Ok(Some(item.wrong("state", &message)));
        }
        self.present_consumer(client, item, &shown, (is, state), wants_table).await?;
        Ok(None)
    }

    fn new_consumer(&mut self, item: &Item, state: &str, wants_table: bool) {
        let name = &item.name;
        let mut fields = difference(CONSUMER, "", &item.fields, &Value::Null, &|_| true);
        self.calls.push(Call::create("consumer", name, without_nulls(&item.fields)));
        if wants_table {
            fields.push(table_is_made(&item.fields));
            self.calls.push(Call::act("create-table", name));
        }
        fields.push(state_change(Value::Null, state));
        if state == "running" {
            self.calls.push(Call::act("start", name));
        }
        self.changes.push(Step { kind: "consumer", name: name.clone(), action: Action::Create, fields });
    }

    async fn present_consumer(
        &mut self,
        client: &Client,
        Item { name, fields: wanted, .. }: Item,
        shown: &Value,
        (is, state): (&str, &str),
        wants_table: bool,
    ) -> anyhow::Result<()> {
        let mut fields = difference(CONSUMER, "", &wanted, shown, &|_| true);
        if !fields.is_empty() {
            self.calls.push(Call::change("consumer", &name, patch(&wanted, &fields)));
        }
        let is_another_table = fields.iter().any(|field| matches!(field.path.as_str(), "schema" | "table"))
            || self.moves(wanted["target"].as_str().unwrap_or_default());
        let makes_table = wants_table && (is_another_table || lacks_table(client, shown).await?);
        if makes_table {
            fields.push(table_is_made(&wanted));
            self.calls.push(Call::act("create-table", &name));
        }
        let act = match (is, state) {
            ("draft", "running") => Some("start"),
            ("paused", "running") => Some("resume"),
            ("running", "paused") => Some("pause"),
            // It was halted for want of its table.
            ("running", "running") if makes_table => Some("resume"),
            // A draft forwards nothing, as what is paused.
            _ => None,
        };
        match act {
            // First of all, so that it does not begin with what changes here.
            Some(pause @ "pause") => self.calls.insert(0, Call::act(pause, &name)),
            act => self.calls.extend(act.map(|act| Call::act(act, &name))),
        }
        if act.is_some() && is != state {
            fields.push(state_change(is.into(), state));
        }
        if !fields.is_empty() {
            self.changes.push(Step { kind: "consumer", name, action: Action::Change, fields });
        }
        Ok(())
    }
}

/// A request that moves a bastion says again that whoever answers there is to be trusted, if the file says so.
fn trusting_anew(mut patch: Value, wanted: &Value) -> Value {
    let is_trusted = wanted["connection"]["bastion"]["trust_on_first_use"] == true;
    if let Some(Value::Object(bastion)) = patch.pointer_mut("/connection/bastion")
        && is_trusted
        && (bastion.contains_key("host") || bastion.contains_key("port"))
    {
        bastion.insert("trust_on_first_use".into(), true.into());
    }
    patch
}

/// What a consumer was told to do, as a file says it.
pub(super) fn started_state(shown: &Value) -> &'static str {
    match shown["state"].as_str() {
        Some("draft") => "draft",
        Some("paused") => "paused",
        _ => "running",
    }
}

fn state_change(from: Value, to: &str) -> Changed {
    Changed { path: "state".into(), how: How::Value { from, to: to.into() } }
}

fn table_is_made(consumer: &Value) -> Changed {
    let table = format!(
        "{}.{}",
        consumer["schema"].as_str().unwrap_or_default(),
        consumer["table"].as_str().unwrap_or_default()
    );
    Changed { path: "create_table".into(), how: How::Value { from: Value::Null, to: table.into() } }
}

/// Whether the table of a consumer is not there. One that is written to is.
async fn lacks_table(client: &Client, shown: &Value) -> anyhow::Result<bool> {
    if matches!(shown["state"].as_str(), Some("live" | "backfilling")) {
        return Ok(false);
    }
    let name = shown["name"].as_str().unwrap_or_default();
    let verified: Value = client.post(&["consumers", name, "verify"]).await?.read()?;
    let findings = verified["findings"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(findings.iter().any(|finding| matches!(finding["code"].as_str(), Some("table_missing" | "schema_missing"))))
}

/// The paths of those secrets that are others than those that the server has.
async fn different_secrets(
    client: &Client,
    target: &str,
    wanted: &Value,
    shown: &Value,
) -> anyhow::Result<Vec<String>> {
    let secrets = secrets_to_compare(TARGET, wanted, shown);
    if secrets.is_null() {
        return Ok(Vec::new());
    }
    let answer: Value = client.post_json(&["targets", target, "compare-secrets"], &secrets).await?.read()?;
    let different = answer["different"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(different.iter().filter_map(|path| path.as_str().map(ToOwned::to_owned)).collect())
}

/// The secrets that are both in the file and on the server; null if there are none.
fn secrets_to_compare(fields: &'static [Field], wanted: &Value, shown: &Value) -> Value {
    let mut secrets = Map::new();
    for Field { name, takes, .. } in fields {
        let (wanted, shown_field) = (&wanted[name], &shown[name]);
        let secret = match takes {
            Takes::Secret if shown[format!("{name}_set")] == true => wanted.clone(),
            Takes::Fields(fields) => secrets_to_compare(fields, wanted, shown_field),
            _ => Value::Null,
        };
        if !secret.is_null() {
            secrets.insert((*name).to_owned(), secret);
        }
    }
    if secrets.is_empty() { Value::Null } else { json!(secrets) }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { kind, name, action, fields } in &self.changes {
            match action {
                Action::Create => writeln!(f, "+ {kind} {name}")?,
                Action::Change => writeln!(f, "~ {kind} {name}")?,
                Action::Delete if *kind == "consumer" => writeln!(f, "- {kind} {name} (its table stays as it is)")?,
                Action::Delete => writeln!(f, "- {kind} {name}")?,
            }
            fields.iter().try_for_each(|field| writeln!(f, "{}", indented(indented(field))))?;
        }
        if self.is_empty() {
            writeln!(f, "nothing to do: everything is as the file says")?;
        } else {
            let count = |action| self.changes.iter().filter(|step| step.action == action).count();
            let (create, change, delete) = (count(Action::Create), count(Action::Change), count(Action::Delete));
            writeln!(f, "\n{create} to create, {change} to change, {delete} to delete")?;
        }
        if !self.not_in_file.is_empty() {
            let others: Vec<String> =
                self.not_in_file.iter().map(|Other { kind, name }| format!("{kind} {name}")).collect();
            writeln!(f, "not in the file, and left as they are (--prune deletes them): {}", others.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bastion_that_moves_is_trusted_anew_where_the_file_says_so() {
        let wanted = |trusts: bool| json!({"connection": {"bastion": {"trust_on_first_use": trusts}}});
        let moved = json!({"connection": {"bastion": {"port": 2222}}});
        let trusted = json!({"connection": {"bastion": {"port": 2222, "trust_on_first_use": true}}});
        assert_eq!(trusting_anew(moved.clone(), &wanted(true)), trusted);
        assert_eq!(trusting_anew(moved.clone(), &wanted(false)), moved);
        for other in [json!({"pool_size": 5}), json!({"connection": {"bastion": {"username": "u"}}})] {
            assert_eq!(trusting_anew(other.clone(), &wanted(true)), other);
        }
    }
}
