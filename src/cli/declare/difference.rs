//! How two descriptions of a resource differ, field by field; and the request that makes one of the other.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{
    document::below,
    shape::{Field, Takes},
};

/// A field that is to change. A secret's value is in the request only.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Changed {
    pub(super) path: String,
    pub(super) how: How,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum How {
    Value { from: Value, to: Value },
    Secret { is_set: bool, is_wanted: bool },
}

/// What is to change to make `wanted` of `shown`, which is null where there is nothing yet. A secret that is set changes
/// if `differs` says so of its path.
pub(super) fn difference(
    fields: &'static [Field],
    path: &str,
    wanted: &Value,
    shown: &Value,
    differs: &impl Fn(&str) -> bool,
) -> Vec<Changed> {
    let mut changes = Vec::new();
    for field in fields {
        let path = below(path, field.name);
        // What is not mentioned is left alone.
        let Some(to) = wanted.get(field.name) else { continue };
        let from = &shown[field.name];
        match field.takes {
            Takes::Secret => {
                let is_set = shown[format!("{}_set", field.name)] == true;
                let is_wanted = !to.is_null();
                if is_set != is_wanted || (is_set && differs(&path)) {
                    changes.push(Changed { path, how: How::Secret { is_set, is_wanted } });
                }
            }
            Takes::Items(fields) => changes.extend(difference_of_items(fields, &path, to, from, differs)),
            Takes::Fields(fields) if !to.is_null() => changes.extend(difference(fields, &path, to, from, differs)),
            // What is made needs no mention of what would be so anyway.
            _ if shown.is_null() && field.default.is_some() && field.default() == *to => {}
            _ if from == to => {}
            _ => changes.push(Changed { path, how: How::Value { from: from.clone(), to: to.clone() } }),
        }
    }
    changes
}

/// How two lists differ, by the names of what is in them.
fn difference_of_items(
    fields: &'static [Field],
    path: &str,
    wanted: &Value,
    shown: &Value,
    differs: &impl Fn(&str) -> bool,
) -> Vec<Changed> {
    let (wanted, shown) = (items(wanted), items(shown));
    let find = |among: &'_ [Value], item: &Value| among.iter().position(|other| other["name"] == item["name"]);
    let mut changes = Vec::new();
    for item in wanted {
        let from = find(shown, item).map_or(&Value::Null, |place| &shown[place]);
        changes.extend(difference(
            fields,
            &below(path, item["name"].as_str().unwrap_or_default()),
            item,
            from,
            differs,
        ));
    }
    for gone in shown.iter().filter(|item| find(wanted, item).is_none()) {
        let from = gone["name"].clone();
        let path = below(path, from.as_str().unwrap_or_default());
        changes.push(Changed { path, how: How::Value { from, to: Value::Null } });
    }
    changes
}

/// What is in a list; nothing, where there is none.
pub(super) fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// What a request says to make these changes: of what is wanted, the fields that change.
pub(super) fn patch(wanted: &Value, changes: &[Changed]) -> Value {
    let mut patch = Value::Object(Map::new());
    for Changed { path, .. } in changes {
        let (mut from, mut to) = (wanted, &mut patch);
        for name in path.split('.') {
            from = &from[name];
            to = &mut to[name];
            // These are replaced as a whole.
            if name == "filter" {
                break;
            }
        }
        *to = from.clone();
    }
    patch
}

/// What a request says to make something that is not there: what is null is left out.
pub(super) fn without_nulls(wanted: &Value) -> Value {
    match wanted {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields
                .map(|(name, value)| {
                    // Notes may hold whatever they do.
                    let value = if name == "metadata" { value.clone() } else { without_nulls(value) };
                    (name.clone(), value)
                })
                .collect::<Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

/// `connection.port: 5432 → 6543`
impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.how {
            How::Value { from: Value::Null, to } => write!(f, "{path}: {}", short(to)),
            How::Value { from, to } => write!(f, "{path}: {} → {}", short(from), short(to)),
            How::Secret { is_set: false, .. } => write!(f, "{path}: (secret)"),
            How::Secret { is_wanted: true, .. } => write!(f, "{path}: (secret) → (another one)"),
            How::Secret { .. } => write!(f, "{path}: (secret) → none"),
        }
    }
}

/// As a person would write it, on one line.
fn short(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if !text.is_empty() && !text.contains(char::is_control) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

impl Serialize for Changed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("field", &self.path)?;
        match &self.how {
            How::Value { from, to } => {
                map.serialize_entry("from", from)?;
                map.serialize_entry("to", to)?;
            }
            How::Secret { is_set, is_wanted } => {
                map.serialize_entry("secret", &true)?;
                map.serialize_entry("was_set", is_set)?;
                map.serialize_entry("is_set", is_wanted)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::shape::TARGET, *};

    fn wanted() -> Value {
        let tls = json!({"mode": "prefer", "ca_pem": null, "client_cert_pem": null});
        let connection = json!({
            "host": "new", "port": 5432, "database": "d", "username": "u", "password": "hunter2", "tls": tls, "bastion": null,
        });
        json!({"name": "app", "connection": connection, "pool_size": 4, "metadata": {"team": "data"}})
    }

    fn shown(password_set: bool) -> Value {
        let tls = json!({"mode": "prefer", "ca_pem": "PEM", "client_cert_pem": null, "client_key_pem": null});
        let connection = json!({
            "host": "old", "port": 5432, "database": "d", "username": "u", "password": null, "password_set": password_set,
            "tls": tls, "bastion": null,
        });
        json!({"id": "1", "name": "app", "connection": connection, "pool_size": 4, "metadata": {"team": "data"}})
    }

    fn told(wanted: &Value, shown: &Value, rotated: bool) -> Vec<String> {
        difference(TARGET, "", wanted, shown, &|_| rotated).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_differs_is_told_and_no_secret_with_it() {
        let others = ["connection.host: old → new", "connection.tls.ca_pem: PEM → none"];
        let with = |secret| [others[0], secret, others[1]];
        assert_eq!(told(&wanted(), &shown(true), false), others);
        assert_eq!(told(&wanted(), &shown(true), true), with("connection.password: (secret) → (another one)"));
        assert_eq!(told(&wanted(), &shown(false), false), with("connection.password: (secret)"));
        let mut without = wanted();
        without["connection"]["password"] = Value::Null;
        assert_eq!(told(&without, &shown(true), false), with("connection.password: (secret) → none"));
        without["connection"].as_object_mut().expect("fields").remove("password");
        assert_eq!(told(&without, &shown(true), true), others);
    }

    #[test]
    fn a_request_says_what_changes_and_nothing_else() {
        let changes = difference(TARGET, "", &wanted(), &shown(true), &|_| true);
        let expected = json!({"connection": {"host": "new", "password": "hunter2", "tls": {"ca_pem": null}}});
        assert_eq!(patch(&wanted(), &changes), expected);
        assert!(!format!("{changes:?}{}", serde_json::to_string(&changes).expect("JSON")).contains("hunter2"));
    }

    #[test]
    fn a_filter_is_replaced_as_a_whole() {
        let wanted = json!({"filter": {"provider": "hubspot"}});
        let how = How::Value { from: Value::Null, to: "hubspot".into() };
        let gone = How::Value { from: "uuid".into(), to: Value::Null };
        let changes =
            [("filter.provider", how), ("filter.sync", gone)].map(|(path, how)| Changed { path: path.into(), how });
        assert_eq!(patch(&wanted, &changes), wanted);
    }

    #[test]
    fn what_is_made_is_made_of_what_is_given() {
        let made = without_nulls(&json!({"a": null, "b": {"c": null, "d": 1}, "metadata": {"e": null}}));
        assert_eq!(made, json!({"b": {"d": 1}, "metadata": {"e": null}}));
    }
}
