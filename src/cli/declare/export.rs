//! `sequin export`: what is there, as a file that `plan` and `apply` read.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use super::{
    difference::items,
    plan::started_state,
    shape::{ALERTING, CONSUMER, Field, TARGET, Takes},
    variables::escape,
};

/// A file, and the variables that it needs.
pub(super) struct Exported {
    pub(super) yaml: String,
    pub(super) variables: BTreeSet<String>,
}

/// A value whose fields stand in the order of the tables.
enum Ordered {
    Value(Value),
    List(Vec<Ordered>),
    Fields(Vec<(&'static str, Ordered)>),
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::List(items) => items.serialize(serializer),
            Self::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, field)| map.serialize_entry(name, field))?;
                map.end()
            }
        }
    }
}

/// Writes the file. What is as it would be without being mentioned is not.
pub(super) fn export(mut targets: Vec<Value>, mut consumers: Vec<Value>, alerting: &Value) -> anyhow::Result<Exported> {
    let by_name = |a: &Value, b: &Value| a["name"].as_str().cmp(&b["name"].as_str());
    targets.sort_by(by_name);
    consumers.sort_by(by_name);
    let mut variables = BTreeSet::new();
    let targets = targets.iter().map(|target| {
        let prefix = format!("TARGET_{}", as_variable(target["name"].as_str().unwrap_or_default()));
        fields(TARGET, target, &prefix, &mut variables)
    });
    let targets = Ordered::List(targets.collect());
    let consumers = consumers.into_iter().map(|mut consumer| {
        consumer["target"] = consumer["target"]["name"].take();
        let state = started_state(&consumer);
        // Where the file is applied, there may be none. A draft's may not be here either.
        consumer["create_table"] = (state != "draft").into();
        consumer["state"] = state.into();
        fields(CONSUMER, &consumer, "", &mut variables)
    });
    let mut sections = vec![("targets", targets), ("consumers", Ordered::List(consumers.collect()))];
    let alerting = fields(ALERTING, alerting, "", &mut variables);
    if !matches!(&alerting, Ordered::Fields(none) if none.is_empty()) {
        sections.push(("alerting", alerting));
    }
    let file = Ordered::Fields(sections);
    let options = serde_saphyr::ser_options! { prefer_block_scalars: true };
    Ok(Exported { yaml: serde_saphyr::to_string_with_options(&file, options)?, variables })
}

fn fields(table: &'static [Field], shown: &Value, prefix: &str, variables: &mut BTreeSet<String>) -> Ordered {
    let mut found = Vec::new();
    for field in table {
        let value = &shown[field.name];
        let ordered = match field.takes {
            Takes::Secret if shown[format!("{}_set", field.name)] == true => {
                let variable = free(format!("{prefix}_{}", as_variable(field.name)), variables);
                let reference = format!("${{{variable}}}");
                variables.insert(variable);
                Ordered::Value(reference.into())
            }
            Takes::Secret => continue,
            Takes::Fields(inner) if !value.is_null() => match fields(inner, value, &of(prefix, field), variables) {
                Ordered::Fields(none) if none.is_empty() => continue,
                ordered => ordered,
            },
            _ if field.default.is_some() && field.default() == *value => continue,
            Takes::Items(inner) => {
                let each = items(value).iter().map(|item| {
                    let prefix = format!("WEBHOOK_{}", as_variable(item["name"].as_str().unwrap_or_default()));
                    self::fields(inner, item, &prefix, variables)
                });
                Ordered::List(each.collect())
            }
            _ => Ordered::Value(escaped(value)),
        };
        found.push((field.name, ordered));
    }
    Ordered::Fields(found)
}

/// A bastion has a password as well.
fn of(prefix: &str, field: &Field) -> String {
    if field.name == "bastion" { format!("{prefix}_BASTION") } else { prefix.to_owned() }
}

/// A name that no other secret has: targets may differ in what no variable can have.
fn free(name: String, taken: &BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name)
}

fn as_variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn escaped(value: &Value) -> Value {
    match value {
        Value::String(text) => escape(text).into(),
        Value::Array(items) => items.iter().map(escaped).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, field)| (name.clone(), escaped(field))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::wanted::parse, *};

    #[test]
    fn what_is_exported_reads_back_as_it_was() {
        let strange = "${VAR} $${ yes: [no] # \"quoted\" 'twice'\nand\ttwo lines: \\";
        let tls = json!({"mode": "verify-full", "ca_pem": "-----BEGIN\nx\n-----END\n", "client_cert_pem": null, "client_key_pem": null,
            "client_key_pem_set": true, "server_name": null, "channel_binding": "prefer"});
        let bastion = json!({"host": "b", "port": 22, "username": "u", "private_key": null, "private_key_set": true, "passphrase": null,
            "passphrase_set": false, "password": null, "password_set": true, "host_key": "ssh-ed25519 AAAA", "trust_on_first_use": true});
        let limits = json!({"max_records_per_second": 7, "statement_timeout_seconds": 60});
        let target = |name: &str| {
            json!({
                "id": "1", "name": name, "pool_size": 4, "metadata": {"note": strange, "list": [1, null, "no", "1", ""]},
                "connection": {"host": "h", "port": 5432, "database": "on", "username": "007", "password": null,
                    "password_set": true, "password_file": null, "tls": tls, "bastion": bastion},
                "limits": limits,
            })
        };
        let consumer = json!({
            "name": "c", "target": {"id": "1", "name": "a-b"}, "filter": {"provider": "hubspot"}, "schema": "${S}",
            "table": "null", "state": "paused", "lag_threshold_seconds": 300, "metadata": {}, "unsupported_text": "quarantine",
        });
        let webhook = json!({"name": "on-call", "url": null, "url_set": true, "host": "h", "format": "slack",
            "secret": null, "secret_set": false});
        let alerting = json!({"recipients": ["${A}@b"], "webhooks": [webhook], "reminder_minutes": 1440, "pending": 0});
        let exported = export(vec![target("a.b"), target("a-b")], vec![consumer], &alerting).expect("a file");
        assert_eq!(
            Vec::from_iter(&exported.variables),
            [
                "TARGET_A_B_BASTION_PASSWORD",
                "TARGET_A_B_BASTION_PASSWORD_2",
                "TARGET_A_B_BASTION_PRIVATE_KEY",
                "TARGET_A_B_BASTION_PRIVATE_KEY_2",
                "TARGET_A_B_CLIENT_KEY_PEM",
                "TARGET_A_B_CLIENT_KEY_PEM_2",
                "TARGET_A_B_PASSWORD",
                "TARGET_A_B_PASSWORD_2",
                "WEBHOOK_ON_CALL_URL",
            ]
        );
        assert!(
            exported.yaml.contains("password: ${TARGET_A_B_PASSWORD}")
                || exported.yaml.contains("${TARGET_A_B_PASSWORD}"),
            "{}",
            exported.yaml
        );
        let read =
            parse(&exported.yaml, &|name| Some(format!("the value of {name}"))).map_err(|wrong| format!("{wrong:?}"));
        let wanted = read.unwrap_or_else(|wrong| panic!("{wrong}\n{}", exported.yaml));
        let (read, written) = (&wanted.targets[0].fields, target("a-b"));
        assert_eq!(
            (&read["metadata"], &read["connection"]["username"]),
            (&written["metadata"], &json!("007")),
            "{}",
            exported.yaml
        );
        assert_eq!(read["connection"]["tls"]["ca_pem"], tls["ca_pem"]);
        assert_eq!(read["connection"]["password"], "the value of TARGET_A_B_PASSWORD");
        let of_bastion = &read["connection"]["bastion"];
        assert_eq!(of_bastion["private_key"], "the value of TARGET_A_B_BASTION_PRIVATE_KEY");
        assert_eq!((&of_bastion["host_key"], of_bastion.get("passphrase")), (&json!("ssh-ed25519 AAAA"), None));
        assert_eq!(read["limits"]["max_records_per_second"], 7);
        let read = &wanted.consumers[0].fields;
        assert_eq!(
            (&read["schema"], &read["table"], &read["state"]),
            (&json!("${S}"), &json!("null"), &json!("paused"))
        );
        assert_eq!((&read["create_table"], &read["target"]), (&json!(true), &json!("a-b")));
        let webhook = json!({"name": "on-call", "url": "the value of WEBHOOK_ON_CALL_URL", "format": "slack"});
        let expected = json!({"recipients": ["${A}@b"], "webhooks": [webhook], "reminder_minutes": 1440});
        assert_eq!(wanted.alerting.map(|item| item.fields), Some(expected));
    }
}
