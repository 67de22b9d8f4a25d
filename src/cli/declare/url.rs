//! A connection that a file gives as a `postgres://` URL: as if its fields stood there.

use sequin_actors::model::{ChannelBinding, TlsMode};

use super::document::{Content, Node, Wrong, below};
use crate::postgres_url::PostgresUrl;

/// The fields of a map, with the line of each.
type Fields = Vec<(u64, String, Node)>;

/// Puts what the URLs of `targets` say in their places; what stands beside them has to be the same.
pub(super) fn take_urls(targets: &mut Node, section: &str, wrong: &mut Vec<Wrong>) {
    let Content::List(targets) = &mut targets.content else { return };
    for (number, target) in targets.iter_mut().enumerate() {
        let Content::Map(fields) = &mut target.content else { continue };
        let Some((_, name, connection)) = fields.iter_mut().find(|(_, name, _)| name == "connection") else { continue };
        let path = below(&format!("{section}[{number}]"), name);
        if let Content::Map(fields) = &mut connection.content {
            take_url(fields, &path, wrong);
        }
    }
}

fn take_url(fields: &mut Fields, path: &str, wrong: &mut Vec<Wrong>) {
    let Some(place) = fields.iter().position(|(_, name, _)| name == "url") else { return };
    let (line, _, node) = fields.remove(place);
    let url = match &node.content {
        Content::Null => return,
        Content::Text(text) => text.parse().and_then(refuse_what_is_not_taken),
        other => Err(format!("takes a text, not {}", other.kind())),
    };
    let url = match url {
        Ok(url) => url,
        Err(message) => {
            wrong.push(Wrong { line, path: below(path, "url"), message });
            // So that what it would have said is not missed as well.
            let unknown = ["host", "database", "username"].map(|name| (name, Some(String::new())));
            return take(unknown, line, fields, path, &mut Vec::new());
        }
    };
    let is_there = |name: &str| fields.iter().any(|(_, other, _)| other == name);
    let database = (url.database.is_some() || !is_there("database")).then(|| url.database().to_owned());
    let said = [
        ("host", Some(url.host)),
        ("port", url.port.map(|port| port.to_string())),
        ("database", database),
        ("username", Some(url.username)),
        ("password", url.password.map(|password| password.reveal().to_owned())),
    ];
    take(said, line, fields, path, wrong);
    let of_tls = [
        ("mode", url.tls_mode.map(|mode: TlsMode| mode.as_str().to_owned())),
        ("channel_binding", url.channel_binding.map(|binding: ChannelBinding| binding.as_str().to_owned())),
    ];
    if of_tls.iter().all(|(_, said)| said.is_none()) {
        return;
    }
    if !fields.iter().any(|(_, name, _)| name == "tls") {
        fields.push((line, "tls".into(), Node { line, content: Content::Map(Vec::new()) }));
    }
    let Some((_, _, tls)) = fields.iter_mut().find(|(_, name, _)| name == "tls") else { return };
    // Where nothing is said, nothing is said otherwise.
    if let Content::Null = tls.content {
        tls.content = Content::Map(Vec::new());
    }
    if let Content::Map(tls) = &mut tls.content {
        take(of_tls, line, tls, &below(path, "tls"), wrong);
    }
}

fn refuse_what_is_not_taken(url: PostgresUrl) -> Result<PostgresUrl, String> {
    match (url.files.any(), url.ignored.as_slice()) {
        (Some(parameter), _) => Err(format!("names a file as {parameter}: give what is in it as a field of tls")),
        (None, []) => Ok(url),
        (None, ignored) => Err(format!("has parameters that mean nothing here: {}", ignored.join(", "))),
    }
}

/// Adds what the URL says and the fields don't.
fn take<const N: usize>(
    said: [(&str, Option<String>); N],
    line: u64,
    fields: &mut Fields,
    path: &str,
    wrong: &mut Vec<Wrong>,
) {
    for (name, said) in said {
        let Some(said) = said else { continue };
        match fields.iter().find(|(_, other, _)| other == name) {
            None => fields.push((line, name.to_owned(), Node { line, content: Content::Text(said) })),
            Some((line, _, node)) => {
                let is_same = match &node.content {
                    Content::Text(text) => *text == said,
                    Content::Number(number) => number.to_string() == said,
                    _ => false,
                };
                if !is_same {
                    let message = "is not as url says: leave it out, or make them the same".into();
                    wrong.push(Wrong { line: *line, path: below(path, name), message });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::wanted::parse;

    fn connection(fields: &str) -> Result<Value, Vec<String>> {
        let text = format!("targets:\n- name: app\n  connection:\n{fields}");
        let variable = |name: &str| (name == "URL").then(|| "postgres://u:hunter2@h:6543/d?sslmode=require".to_owned());
        match parse(&text, &variable) {
            Ok(mut wanted) => Ok(wanted.targets.remove(0).fields["connection"].take()),
            Err(wrong) => Err(wrong.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_url_stands_for_the_fields_that_it_gives() {
        let by_url =
            connection("    url: ${URL}\n    port: 6543\n    tls: { server_name: db }\n").expect("a connection");
        let by_fields = "    host: h\n    port: 6543\n    database: d\n    username: u\n    password: hunter2\n    tls: { mode: require, server_name: db }\n";
        assert_eq!(by_url, connection(by_fields).expect("a connection"));
        for nothing in ["", "    tls:\n", "    tls: null\n", "    tls: {}\n"] {
            let found = connection(&format!("    url: ${{URL}}\n{nothing}")).expect("a connection");
            assert_eq!(found["tls"]["mode"], "require", "{nothing:?}");
        }
        let several = connection("    url: postgres://u@a:1,b:2\n").expect("a connection");
        assert_eq!(
            (&several["host"], &several["port"], &several["database"]),
            (&json!("a:1,b:2"), &json!(5432), &json!("u"))
        );
    }

    #[test]
    fn what_a_url_says_otherwise_or_can_not_say_is_refused_by_its_line_and_without_the_password() {
        for (fields, expected) in [
            ("    url: ${URL}\n    host: g\n", "line 5: targets[0].connection.host: is not as url says"),
            ("    url: ${URL}\n    password: x\n", "line 5: targets[0].connection.password: is not as url says"),
            (
                "    url: ${URL}\n    tls:\n      mode: prefer\n",
                "line 6: targets[0].connection.tls.mode: is not as url",
            ),
            (
                "    url: postgres://u:hunter2@h?sslcert=c\n",
                "line 4: targets[0].connection.url: names a file as sslcert",
            ),
            ("    url: postgres://u:hunter2@h?x=y\n", "line 4: targets[0].connection.url: has parameters"),
            ("    url: postgres://u:hunter2@\n", "line 4: targets[0].connection.url: names no host"),
            ("    url: 7\n", "line 4: targets[0].connection.url: takes a text, not a number"),
        ] {
            let wrong = connection(fields).expect_err(fields);
            assert!(wrong.len() == 1 && wrong[0].starts_with(expected), "{wrong:?}");
            assert!(!wrong[0].contains("hunter2"), "{wrong:?}");
        }
    }
}
