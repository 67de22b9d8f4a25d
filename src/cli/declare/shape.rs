//! The fields that a file can have: what each takes, and what it is when it is left out. Reading, comparing and
//! exporting all go by these tables.

use serde_json::{Map, Value};

use super::document::{Content, Node, Wrong, below};

/// A field.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// What it is when it is left out, as JSON; without, it can't be.
    pub(super) default: Option<&'static str>,
}

/// What a field takes.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Text,
    /// A list of texts.
    Texts,
    /// What the server never shows.
    Secret,
    /// A text that the server may have found out itself: left alone where it is left out.
    Found,
    Number,
    Flag,
    OneOf(&'static [&'static str]),
    Fields(&'static [Field]),
    /// A list of things with a name each, and these fields.
    Items(&'static [Field]),
    /// Any JSON object.
    Object,
}

const fn required(name: &'static str, takes: Takes) -> Field {
    Field { name, takes, default: None }
}

const fn field(name: &'static str, takes: Takes, default: &'static str) -> Field {
    Field { name, takes, default: Some(default) }
}

pub(super) const TARGET: &[Field] = &[
    required("name", Takes::Text),
    required("connection", Takes::Fields(CONNECTION)),
    field("pool_size", Takes::Number, "4"),
    field("limits", Takes::Fields(LIMITS), "{}"),
    field("metadata", Takes::Object, "{}"),
];

const LIMITS: &[Field] = &[
    field("max_records_per_second", Takes::Number, "null"),
    field("statement_timeout_seconds", Takes::Number, "60"),
    field("lock_timeout_seconds", Takes::Number, "10"),
    field("max_replica_lag_seconds", Takes::Number, "null"),
    field("max_connections_percent", Takes::Number, "null"),
];

/// A `url` is taken for the fields that it gives.
const CONNECTION: &[Field] = &[
    required("host", Takes::Text),
    field("port", Takes::Number, "5432"),
    required("database", Takes::Text),
    required("username", Takes::Text),
    field("password", Takes::Secret, "null"),
    field("password_file", Takes::Text, "null"),
    field("tls", Takes::Fields(TLS), "{}"),
    field("bastion", Takes::Fields(BASTION), "null"),
];

const TLS: &[Field] = &[
    field("mode", Takes::OneOf(&["disable", "prefer", "require", "verify-ca", "verify-full"]), "\"prefer\""),
    field("ca_pem", Takes::Text, "null"),
    field("client_cert_pem", Takes::Text, "null"),
    field("client_key_pem", Takes::Secret, "null"),
    field("server_name", Takes::Text, "null"),
    field("channel_binding", Takes::OneOf(&["disable", "prefer", "require"]), "\"prefer\""),
];

const BASTION: &[Field] = &[
    required("host", Takes::Text),
    field("port", Takes::Number, "22"),
    required("username", Takes::Text),
    field("private_key", Takes::Secret, "null"),
    field("passphrase", Takes::Secret, "null"),
    field("password", Takes::Secret, "null"),
    field("host_key", Takes::Found, "null"),
    field("trust_on_first_use", Takes::Flag, "false"),
];

pub(super) const CONSUMER: &[Field] = &[
    required("name", Takes::Text),
    required("target", Takes::Text),
    required("filter", Takes::Fields(FILTER)),
    required("schema", Takes::Text),
    required("table", Takes::Text),
    field("create_table", Takes::Flag, "false"),
    field("state", Takes::OneOf(&["running", "paused", "draft"]), "\"running\""),
    field("unsupported_text", Takes::OneOf(&["quarantine", "replace"]), "\"quarantine\""),
    field("lag_threshold_seconds", Takes::Number, "300"),
    field("lag_threshold_records", Takes::Number, "null"),
    field("metadata", Takes::Object, "{}"),
];

pub(super) const ALERTING: &[Field] = &[
    field("recipients", Takes::Texts, "[]"),
    field("webhooks", Takes::Items(WEBHOOK), "[]"),
    field("reminder_minutes", Takes::Number, "1440"),
];

const WEBHOOK: &[Field] = &[
    required("name", Takes::Text),
    // It stays as it is where it is left out, and can't be none.
    required("url", Takes::Secret),
    field("format", Takes::OneOf(&["cloud_events", "slack"]), "\"cloud_events\""),
    field("secret", Takes::Secret, "null"),
];

const FILTER: &[Field] = &[field("provider", Takes::Text, "null"), field("sync", Takes::Text, "null")];

impl Field {
    /// What it is when it is left out.
    pub(super) fn default(&self) -> Value {
        match (self.takes, self.default) {
            (Takes::Fields(fields), Some("{}")) => {
                fields.iter().map(|field| (field.name.to_owned(), field.default())).collect::<Map<_, _>>().into()
            }
            (_, Some(json)) => serde_json::from_str(json).expect("the tables of this file hold JSON"),
            (_, None) => Value::Null,
        }
    }

    pub(super) fn is_secret(&self) -> bool {
        matches!(self.takes, Takes::Secret)
    }

    /// A value of the document, as the API takes it. What is wrong with it is told, never shown.
    fn read(&self, node: &Node, path: &str, wrong: &mut Vec<Wrong>) -> Value {
        let mut refuse = |takes: String| {
            wrong.push(Wrong { line: node.line, path: path.to_owned(), message: takes });
            Value::Null
        };
        match (self.takes, &node.content) {
            (_, Content::Null) if self.default.is_some() => self.default(),
            (Takes::Text | Takes::Secret | Takes::Found, Content::Text(text)) => text.clone().into(),
            (Takes::Number, Content::Number(number)) if number.is_u64() => number.clone().into(),
            // As a variable gives it.
            (Takes::Number, Content::Text(text)) => match text.parse::<u64>() {
                Ok(number) => number.into(),
                Err(_) => refuse("takes a whole number".into()),
            },
            (Takes::Number, _) => refuse("takes a whole number".into()),
            (Takes::Flag, Content::Flag(flag)) => (*flag).into(),
            (Takes::Flag, Content::Text(text)) if matches!(text.as_str(), "true" | "false") => (text == "true").into(),
            (Takes::OneOf(choices), Content::Text(text)) if choices.contains(&text.as_str()) => text.clone().into(),
            (Takes::OneOf(choices), _) => refuse(format!("takes {}", choices.join(", "))),
            (Takes::Fields(fields), _) => read_fields(fields, node, path, wrong),
            (Takes::Texts, Content::List(nodes)) => read_texts(nodes, path, wrong),
            (Takes::Items(fields), Content::List(nodes)) => read_items(fields, nodes, path, wrong),
            (Takes::Texts | Takes::Items(_), other) => refuse(format!("takes a list, not {}", other.kind())),
            (Takes::Object, Content::Map(_)) => to_json(node),
            (Takes::Object, other) => refuse(format!("takes fields, not {}", other.kind())),
            (Takes::Flag, other) => refuse(format!("takes true or false, not {}", other.kind())),
            (Takes::Text | Takes::Secret | Takes::Found, scalar @ (Content::Number(_) | Content::Flag(_))) => {
                refuse(format!("takes a text, not {}: put it in quotes if it is one", scalar.kind()))
            }
            (Takes::Text | Takes::Secret | Takes::Found, other) => {
                refuse(format!("takes a text, not {}", other.kind()))
            }
        }
    }
}

/// Reads fields by their table: everything that is wrong is told, and unknown fields by their names.
pub(super) fn read_fields(fields: &'static [Field], node: &Node, path: &str, wrong: &mut Vec<Wrong>) -> Value {
    let Content::Map(given) = &node.content else {
        let message = format!("takes fields, not {}", node.content.kind());
        wrong.push(Wrong { line: node.line, path: path.to_owned(), message });
        return Value::Null;
    };
    for (line, name, _) in given {
        if !fields.iter().any(|field| field.name == name) {
            let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
            let message = format!("there is no such field; there are {}", known.join(", "));
            wrong.push(Wrong { line: *line, path: below(path, name), message });
        }
    }
    let mut object = Map::new();
    for field in fields {
        let path = below(path, field.name);
        let value = match given.iter().find(|(_, name, _)| name == field.name) {
            Some((_, _, node)) => field.read(node, &path, wrong),
            // One that is not mentioned is left alone.
            None if field.is_secret() || matches!(field.takes, Takes::Found) => continue,
            None => {
                if field.default.is_none() {
                    wrong.push(Wrong { line: node.line, path, message: "is missing".into() });
                }
                field.default()
            }
        };
        object.insert(field.name.to_owned(), value);
    }
    Value::Object(object)
}

fn read_texts(nodes: &[Node], path: &str, wrong: &mut Vec<Wrong>) -> Value {
    let texts = nodes.iter().enumerate().filter_map(|(number, node)| match &node.content {
        Content::Text(text) => Some(text.clone()),
        other => {
            let message = format!("takes a text, not {}", other.kind());
            wrong.push(Wrong { line: node.line, path: format!("{path}[{number}]"), message });
            None
        }
    });
    texts.collect()
}

/// Reads things by the table of their fields; no two have the same name.
pub(super) fn read_items(fields: &'static [Field], nodes: &[Node], path: &str, wrong: &mut Vec<Wrong>) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let item = read_fields(fields, node, &path, wrong);
        let name = item["name"].as_str().unwrap_or_default();
        if let Some(first) = items.iter().position(|other| !name.is_empty() && other["name"] == name) {
            let message = format!("{name} is in line {} already", nodes[first].line);
            wrong.push(Wrong { line: node.line, path: format!("{path}.name"), message });
        }
        items.push(item);
    }
    items.into()
}

fn to_json(node: &Node) -> Value {
    match &node.content {
        Content::Null => Value::Null,
        Content::Flag(flag) => (*flag).into(),
        Content::Number(number) => number.clone().into(),
        Content::Text(text) => text.clone().into(),
        Content::List(items) => items.iter().map(to_json).collect(),
        Content::Map(fields) => {
            fields.iter().map(|(_, name, field)| (name.clone(), to_json(field))).collect::<Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::document::read, *};

    fn target(text: &str) -> (Value, Vec<String>) {
        let Ok(root) = read(text, &|name| (name == "PORT").then(|| "6543".into())) else { panic!("no YAML") };
        let mut wrong = Vec::new();
        let value = read_fields(TARGET, &root, "targets[0]", &mut wrong);
        (value, wrong.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_left_out_is_as_the_api_has_it_but_secrets_are_left_alone() {
        let text = "name: app\nconnection: {host: h, port: \"${PORT}\", database: d, username: u, bastion: null}";
        let (value, wrong) = target(text);
        assert_eq!(wrong, [""; 0]);
        let tls = json!({"mode": "prefer", "ca_pem": null, "client_cert_pem": null});
        let connection =
            json!({"host": "h", "port": 6543, "database": "d", "username": "u", "tls": tls, "bastion": null});
        assert_eq!(value["connection"]["tls"]["mode"], "prefer");
        assert_eq!(value["connection"]["port"], connection["port"]);
        assert!(value["connection"].get("password").is_none());
        assert_eq!((&value["pool_size"], &value["metadata"]), (&json!(4), &json!({})));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_and_no_secret_with_it() {
        let text = "nam: app\nconnection:\n  host: 7\n  port: many\n  database: d\n  password: [hunter2]\n  tls: {mode: maybe}\n";
        let (_, wrong) = target(text);
        let expected = [
            "line 1: targets[0].nam: there is no such field; there are name, connection, pool_size, limits, metadata",
            "line 1: targets[0].name: is missing",
            "line 3: targets[0].connection.host: takes a text, not a number: put it in quotes if it is one",
            "line 4: targets[0].connection.port: takes a whole number",
            "line 3: targets[0].connection.username: is missing",
            "line 6: targets[0].connection.password: takes a text, not a list",
            "line 7: targets[0].connection.tls.mode: takes disable, prefer, require, verify-ca, verify-full",
        ];
        let mut sorted: Vec<&str> = expected.to_vec();
        let mut found: Vec<&str> = wrong.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, sorted);
    }

    #[test]
    fn the_tables_hold_defaults_that_can_be_read() {
        for field in TARGET
            .iter()
            .chain(CONNECTION)
            .chain(TLS)
            .chain(BASTION)
            .chain(LIMITS)
            .chain(CONSUMER)
            .chain(FILTER)
            .chain(ALERTING)
            .chain(WEBHOOK)
        {
            field.default();
        }
    }
}
