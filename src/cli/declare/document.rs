//! A YAML document with the places of everything in it, and the variables of the environment in their places.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::variables::expand;

/// Something in a file that can't be used, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: u64,
    /// The path of the field (`targets[0].connection.host`).
    pub(super) path: String,
    pub(super) message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A part of the document. It may hold secrets: there is no `Debug`.
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) content: Content,
}

pub(super) enum Content {
    Null,
    Flag(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    /// With the line of each key.
    Map(Vec<(u64, String, Node)>),
}

impl Content {
    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "fields",
        }
    }
}

/// Reads a document, and puts the variables' values in their places: in texts, once they are texts, so that no value
/// can change what the document is.
pub(super) fn read(text: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Node, Vec<Wrong>> {
    let options = serde_saphyr::options! { with_snippet: false };
    let mut root: Node = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        // Of what is said, not the line itself: it may hold a secret.
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        vec![Wrong { line, path: String::new(), message }]
    })?;
    let mut wrong = Vec::new();
    root.expand(String::new(), variable, &mut wrong);
    if wrong.is_empty() { Ok(root) } else { Err(wrong) }
}

impl Node {
    fn expand(&mut self, path: String, variable: &impl Fn(&str) -> Option<String>, wrong: &mut Vec<Wrong>) {
        match &mut self.content {
            Content::Text(text) => match expand(text, variable) {
                Ok(expanded) => *text = expanded,
                Err(message) => wrong.push(Wrong { line: self.line, path, message }),
            },
            Content::List(items) => {
                for (number, item) in items.iter_mut().enumerate() {
                    item.expand(format!("{path}[{number}]"), variable, wrong);
                }
            }
            Content::Map(fields) => {
                for (_, name, field) in fields {
                    field.expand(below(&path, name), variable, wrong);
                }
            }
            Content::Null | Content::Flag(_) | Content::Number(_) => {}
        }
    }
}

/// The path of a field of what is at `path`.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Content, E> {
        Ok(Content::Flag(flag))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Content, E> {
        Ok(Content::Number(number.into()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Content, E> {
        Ok(Content::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Content, E> {
        serde_json::Number::from_f64(number).map(Content::Number).ok_or_else(|| E::custom("takes no such number"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = fields.next_entry::<Spanned<String>, Node>()? {
            map.push((key.referenced.line(), key.value, value));
        }
        Ok(Content::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let variable = |name: &str| (name == "SET").then(|| "a: [b".to_owned());
        read(text, &variable).err().expect("wrong").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_part_knows_its_line() {
        let Ok(root) = read("a: 1\nb:\n  - x\n  -\n    c: yes\n", &|_| None) else { panic!("no document") };
        let Content::Map(fields) = root.content else { panic!("no fields") };
        assert_eq!(
            fields.iter().map(|(line, name, _)| (*line, name.as_str())).collect::<Vec<_>>(),
            [(1, "a"), (2, "b")]
        );
        let Content::List(items) = &fields[1].2.content else { panic!("no list") };
        assert_eq!((items[0].line, items[1].line), (3, 5));
    }

    #[test]
    fn a_variable_that_is_not_set_is_told_with_its_place_and_so_is_each_of_them() {
        let text = "a: ${ONE}\nb:\n- ${SET}\n- c: x ${TWO} y\n";
        let found = wrong(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("line 1: a: ") && found[0].contains("ONE"), "{found:?}");
        assert!(found[1].starts_with("line 4: b[1].c: ") && found[1].contains("TWO"), "{found:?}");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line_and_without_what_stands_there() {
        for text in ["a: 1\nb: [hunter2", "a: 1\na: hunter2", "a: 1\n\thunter2: x", "a: 1\n---\nb: hunter2"] {
            let found = wrong(text);
            assert!(found.len() == 1 && !found[0].contains("hunter2"), "{found:?}");
        }
        assert!(wrong("a: 1\nb: x: y\n")[0].starts_with("line 2: "), "{:?}", wrong("a: 1\nb: x: y\n"));
    }
}
