//! What a file says that there should be.

use serde_json::Value;
use uuid::Uuid;

use super::{
    document::{Content, Node, Wrong, read},
    shape::{ALERTING, CONSUMER, Field, TARGET, read_fields, read_items},
    url::take_urls,
};

/// Everything that there should be. It may hold secrets: there is no `Debug`.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) targets: Vec<Item>,
    pub(super) consumers: Vec<Item>,
    /// Whom to tell, if the file says that.
    pub(super) alerting: Option<Item>,
    /// Whether the file says which there should be.
    pub(super) has_targets: bool,
    pub(super) has_consumers: bool,
}

/// A target or a consumer, or whom to tell.
pub(super) struct Item {
    /// Where it stands in the file.
    pub(super) line: u64,
    pub(super) path: String,
    pub(super) name: String,
    /// All of its fields but secrets that the file does not mention.
    pub(super) fields: Value,
}

/// Reads a file; everything that is wrong with it is told at once.
pub(super) fn parse(text: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Wanted, Vec<Wrong>> {
    let mut root = read(text, variable)?;
    let mut wrong = Vec::new();
    if let Content::Map(sections) = &mut root.content {
        let targets = sections.iter_mut().filter(|(_, name, _)| name == "targets");
        targets.for_each(|(_, name, node)| take_urls(node, name, &mut wrong));
    }
    let wanted = sections(&root, &mut wrong);
    if wrong.is_empty() { Ok(wanted) } else { Err(wrong) }
}

fn sections(root: &Node, wrong: &mut Vec<Wrong>) -> Wanted {
    let mut wanted = Wanted::default();
    let Content::Map(sections) = &root.content else {
        let message = "takes targets, consumers and alerting; if there should be none, write `targets: []`".into();
        wrong.push(Wrong { line: root.line.max(1), path: String::new(), message });
        return wanted;
    };
    for (line, name, node) in sections {
        let refuse = |message: &str| Wrong { line: *line, path: name.clone(), message: message.into() };
        match name.as_str() {
            "targets" => (wanted.has_targets, wanted.targets) = (true, items(name, TARGET, node, wrong)),
            "consumers" => (wanted.has_consumers, wanted.consumers) = (true, items(name, CONSUMER, node, wrong)),
            "alerting" => {
                let (path, fields) = (name.clone(), read_fields(ALERTING, node, name, wrong));
                wanted.alerting = Some(Item { line: *line, path, name: "settings".into(), fields });
            }
            _ => wrong.push(refuse("there is no such field; there are targets, consumers, alerting")),
        }
    }
    for consumer in &mut wanted.consumers {
        check_filter(consumer, wrong);
    }
    for target in &mut wanted.targets {
        drop_counterparts(&mut target.fields["connection"]);
    }
    wanted
}

/// A secret that is left out stays as it is, unless what the file says has no place for it.
fn drop_counterparts(connection: &mut Value) {
    let has_file = !connection["password_file"].is_null();
    if let Some(connection) = connection.as_object_mut().filter(|_| has_file) {
        connection.entry("password").or_insert(Value::Null);
    }
    let shows_certificate = !connection["tls"]["client_cert_pem"].is_null();
    if let Some(tls) = connection["tls"].as_object_mut().filter(|_| !shows_certificate) {
        tls.entry("client_key_pem").or_insert(Value::Null);
    }
}

fn items(section: &str, fields: &'static [Field], node: &Node, wrong: &mut Vec<Wrong>) -> Vec<Item> {
    let nodes = match &node.content {
        Content::List(nodes) => nodes.as_slice(),
        Content::Null => &[],
        other => {
            let message = format!("takes a list, not {}", other.kind());
            wrong.push(Wrong { line: node.line, path: section.into(), message });
            &[]
        }
    };
    let Value::Array(items) = read_items(fields, nodes, section, wrong) else { return Vec::new() };
    let items = items.into_iter().zip(nodes).enumerate().map(|(number, (fields, node))| Item {
        line: node.line,
        path: format!("{section}[{number}]"),
        name: fields["name"].as_str().unwrap_or_default().to_owned(),
        fields,
    });
    items.collect()
}

/// One of both, as the server shows it: what is null is not there, and a uuid has one way to be written.
fn check_filter(consumer: &mut Item, wrong: &mut Vec<Wrong>) {
    let Some(filter) = consumer.fields["filter"].as_object_mut() else { return };
    filter.retain(|_, value| !value.is_null());
    let filters = filter.len();
    let message = match filter.get_mut("sync") {
        _ if filters != 1 => "takes either a provider or a sync",
        Some(sync) => match sync.as_str().map(Uuid::parse_str) {
            Some(Ok(uuid)) => {
                *sync = uuid.to_string().into();
                return;
            }
            _ => "takes the uuid of a sync",
        },
        None => return,
    };
    let path = format!("{}.filter", consumer.path);
    // An error in one of them was told already.
    if !wrong.iter().any(|wrong| wrong.path.starts_with(&path)) {
        wrong.push(Wrong { line: consumer.line, path, message: message.into() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        parse(text, &|_| None).err().map_or(Vec::new(), |wrong| wrong.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_file_that_says_nothing_is_no_file_that_wants_nothing() {
        for nothing in ["", "# targets: []\n", "null", "[]", "text"] {
            assert_eq!(wrong(nothing).len(), 1, "{nothing:?}");
        }
        for none in ["targets: []", "targets:\nconsumers:\n", "{}"] {
            assert_eq!(wrong(none), [""; 0], "{none:?}");
        }
    }

    #[test]
    fn a_section_that_is_not_there_is_refused_by_its_name() {
        let told = "line 1: target: there is no such field; there are targets, consumers, alerting";
        assert_eq!(wrong("target: []"), [told]);
        assert_eq!(wrong("targets: {}"), ["line 1: targets: takes a list, not fields"]);
    }

    #[test]
    fn a_name_stands_once() {
        let consumer = "{name: a, target: t, filter: {provider: p}, schema: s, table: t}";
        let found = wrong(&format!("consumers:\n- {consumer}\n- {consumer}\n"));
        assert_eq!(found, ["line 3: consumers[1].name: a is in line 2 already"]);
    }

    #[test]
    fn whom_to_tell_is_all_that_is_said_and_the_rest_as_it_is_by_default() {
        let text = "alerting:\n  recipients: [\"${OPS}\"]\n  webhooks:\n  - {name: ops, url: \"${OPS}\", format: slack, secret: null}\n";
        let Ok(wanted) = parse(text, &|_| Some("a@b".into())) else { panic!("no file") };
        let webhook = json!({"name": "ops", "url": "a@b", "format": "slack", "secret": null});
        let expected = json!({"recipients": ["a@b"], "webhooks": [webhook], "reminder_minutes": 1440});
        assert_eq!(wanted.alerting.map(|item| item.fields), Some(expected));
        for (text, expected) in [
            ("alerting:", "line 1: alerting: takes fields, not nothing"),
            ("alerting: {recipients: ops}", "line 1: alerting.recipients: takes a list, not a text"),
            ("alerting: {recipients: [7]}", "line 1: alerting.recipients[0]: takes a text, not a number"),
            ("alerting: {webhooks: [{url: u}]}", "line 1: alerting.webhooks[0].name: is missing"),
            (
                "alerting: {webhooks: [{name: a, url: null}]}",
                "line 1: alerting.webhooks[0].url: takes a text, not nothing",
            ),
            (
                "alerting: {webhooks: [{name: a}, {name: a}]}",
                "line 1: alerting.webhooks[1].name: a is in line 1 already",
            ),
        ] {
            assert_eq!(wrong(text), [expected]);
        }
    }

    #[test]
    fn a_secret_that_has_no_place_any_more_is_to_go_and_others_stay() {
        for (fields, password, key) in [
            ("", None, Some(Value::Null)),
            ("tls: {client_cert_pem: PEM}", None, None),
            ("tls: {client_key_pem: PEM}", None, Some(json!("PEM"))),
            ("password_file: app", Some(Value::Null), Some(Value::Null)),
            ("password_file: app, password: x", Some(json!("x")), Some(Value::Null)),
        ] {
            let text = format!("targets:\n- {{name: a, connection: {{host: h, database: d, username: u, {fields}}}}}");
            let Ok(wanted) = parse(&text, &|_| None) else { panic!("no file: {text}") };
            let connection = &wanted.targets[0].fields["connection"];
            let found = (connection.get("password"), connection["tls"].get("client_key_pem"));
            assert_eq!(found, (password.as_ref(), key.as_ref()), "{fields}");
        }
    }

    #[test]
    fn a_filter_is_one_of_both() {
        let consumer =
            |filter: &str| format!("consumers:\n- {{name: a, target: t, filter: {filter}, schema: s, table: t}}");
        let sync = "0DEA6E4E-64B9-4B1C-AC03-2E6B25795C18";
        for filter in
            ["{}", &format!("{{provider: p, sync: {sync}}}"), "{sync: acme}", "{provider: 7}", "{colour: red}", "all"]
        {
            assert_eq!(wrong(&consumer(filter)).len(), 1, "{filter}: {:?}", wrong(&consumer(filter)));
        }
        let Ok(wanted) = parse(&consumer(&format!("{{sync: {sync}}}")), &|_| None) else { panic!("no file") };
        assert_eq!(wanted.consumers[0].fields["filter"]["sync"], sync.to_lowercase());
    }
}
