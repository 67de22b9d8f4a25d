//! Singer's messages: what each line of a tap says.
//!
//! As in the specification, version 0.2.0 (<https://github.com/singer-io/getting-started/blob/master/docs/SPEC.md>), with
//! what taps have come to write besides: versions, `ACTIVATE_VERSION`, `BATCH` and `_sdc_deleted_at`.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

/// Says, not being null, since when a record is gone.
const DELETED_AT: &str = "_sdc_deleted_at";

/// What a tap says. Records are kept as they came.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Schema {
        stream: Cow<'a, str>,
        key_properties: Vec<String>,
    },
    Record {
        stream: Cow<'a, str>,
        record: &'a RawValue,
        version: Option<u64>,
    },
    State {
        value: &'a RawValue,
    },
    ActivateVersion {
        stream: Cow<'a, str>,
        version: u64,
    },
    Batch {
        stream: Cow<'a, str>,
    },
    /// Something that the specification permits, and knows nothing of.
    Other {
        kind: String,
    },
}

/// A message whose fields are only read as far as its type has them.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_properties: Option<&'a RawValue>,
    #[serde(borrow, default)]
    record: Option<&'a RawValue>,
    #[serde(borrow, default)]
    version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads a line; `Err` says what is wrong with it.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, String> {
        let fields: Fields<'a> =
            serde_json::from_slice(line).map_err(|error| format!("this is no Singer message: {error}"))?;
        Ok(match fields.kind.to_ascii_uppercase().as_str() {
            "SCHEMA" => {
                let key_properties = fields.key_properties.map(|names| field("key_properties", names)).transpose()?;
                Self::Schema { stream: fields.stream()?, key_properties: key_properties.unwrap_or_default() }
            }
            "RECORD" => Self::Record {
                stream: fields.stream()?,
                record: fields.record.ok_or("a RECORD needs a record")?,
                version: fields.version.map(|version| field("version", version)).transpose()?,
            },
            "STATE" => Self::State { value: fields.value.ok_or("a STATE needs a value")? },
            "ACTIVATE_VERSION" => Self::ActivateVersion {
                stream: fields.stream()?,
                version: field("version", fields.version.ok_or("an ACTIVATE_VERSION needs a version")?)?,
            },
            "BATCH" => Self::Batch { stream: fields.stream()? },
            _ => Self::Other { kind: fields.kind.into_owned() },
        })
    }
}

impl<'a> Fields<'a> {
    fn stream(&self) -> Result<Cow<'a, str>, String> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let stream = self.stream.ok_or_else(|| format!("a {} needs a stream", self.kind))?;
        field::<Text<'_>>("stream", stream).map(|text| text.0)
    }
}

fn field<'a, T: Deserialize<'a>>(name: &str, value: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(value.get()).map_err(|error| format!("{name} is not as it should be: {error}"))
}

/// A record's properties, each as it came.
pub(super) struct Properties<'a>(HashMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Properties<'a> {
    pub(super) fn of(record: &'a RawValue) -> Result<Self, String> {
        let read = serde_json::from_str(record.get());
        read.map(Self).map_err(|error| format!("the record is no JSON object: {error}"))
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.0.get(DELETED_AT).is_some_and(|value| value.get() != "null")
    }

    /// The id that the record has by its keys: the text of the only one, or of several a JSON array.
    ///
    /// Numbers stay as they came, and texts are written in one way only: the id of a record has to be the same whoever
    /// wrote the message.
    pub(super) fn id(&self, keys: &[String]) -> Result<String, String> {
        match keys {
            [] => Err("it has no key".into()),
            [key] => match self.scalar(key)? {
                Scalar::Null => Err(format!("its key {key} is null")),
                Scalar::Text(text) => Ok(text.into_owned()),
                Scalar::Other(text) => Ok(text.into()),
            },
            keys => {
                let written = |key: &String| {
                    Ok(match self.scalar(key)? {
                        Scalar::Null => "null".into(),
                        Scalar::Text(text) => serde_json::to_string(&text).expect("text is JSON"),
                        Scalar::Other(text) => text.to_owned(),
                    })
                };
                let parts: Vec<String> = keys.iter().map(written).collect::<Result<_, String>>()?;
                Ok(format!("[{}]", parts.join(",")))
            }
        }
    }

    fn scalar(&self, key: &str) -> Result<Scalar<'a>, String> {
        let value: &'a RawValue = self.0.get(key).ok_or_else(|| format!("its key {key} is missing"))?;
        match value.get() {
            "null" => Ok(Scalar::Null),
            text if text.starts_with('"') => field(key, value).map(|text| Scalar::Text(Cow::Owned(text))),
            text if text.starts_with(['{', '[']) => Err(format!("its key {key} is neither text nor a number")),
            text => Ok(Scalar::Other(text)),
        }
    }
}

enum Scalar<'a> {
    Null,
    Text(Cow<'a, str>),
    /// A number, `true` or `false`.
    Other(&'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Message<'_>, String> {
        Message::parse(line.as_bytes())
    }

    fn id(record: &str, keys: &[&str]) -> Result<String, String> {
        let record: &RawValue = serde_json::from_str(record).expect("JSON");
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        Properties::of(record)?.id(&keys)
    }

    #[test]
    fn types_are_read_in_any_case_and_unknown_ones_are_no_error() {
        let schema = parse(r#"{"type":"schema","stream":"users","schema":{},"key_properties":["id"]}"#);
        assert!(
            matches!(schema, Ok(Message::Schema { stream, key_properties }) if stream == "users" && key_properties == ["id"])
        );
        assert!(
            matches!(parse(r#"{"type":"LOG","version":"1.0","stream":7}"#), Ok(Message::Other { kind }) if kind == "LOG")
        );
        let batch = parse(r#"{"type":"BATCH","stream":"users","manifest":["file:///x"]}"#);
        assert!(matches!(batch, Ok(Message::Batch { .. })));
    }

    #[test]
    fn a_record_is_kept_as_it_came() {
        let line =
            r#"{"type":"RECORD","stream":"a\u0062","record":{"id": 1.50e1 ,"x":"\u00e9"},"version":null,"more":1}"#;
        match parse(line) {
            Ok(Message::Record { stream, record, version: None }) => {
                assert_eq!((&*stream, record.get()), ("ab", r#"{"id": 1.50e1 ,"x":"\u00e9"}"#));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_message_says_what_it_lacks() {
        for (line, lacks) in [
            ("INFO starting", "no Singer message"),
            ("{}", "type"),
            (r#"{"type":"RECORD","record":{}}"#, "needs a stream"),
            (r#"{"type":"RECORD","stream":"s"}"#, "needs a record"),
            (r#"{"type":"RECORD","stream":7,"record":{}}"#, "stream"),
            (r#"{"type":"SCHEMA","stream":"s","key_properties":"id"}"#, "key_properties"),
            (r#"{"type":"STATE"}"#, "needs a value"),
            (r#"{"type":"ACTIVATE_VERSION","stream":"s"}"#, "needs a version"),
            (r#"{"type":"ACTIVATE_VERSION","stream":"s","version":-1}"#, "version"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(lacks), "{line}: {error}");
        }
    }

    #[test]
    fn one_key_is_its_text_and_several_are_an_array() {
        assert_eq!(id(r#"{"id":"a\u0062"}"#, &["id"]), Ok("ab".into()));
        assert_eq!(id(r#"{"id":12345678901234567890}"#, &["id"]), Ok("12345678901234567890".into()));
        assert_eq!(id(r#"{"id":true}"#, &["id"]), Ok("true".into()));
        assert_eq!(id(r#"{"a":1,"b":"\u00e9\""}"#, &["b", "a"]), Ok(r#"["é\"",1]"#.into()));
        assert_eq!(id(r#"{"a":null,"b":"x,y"}"#, &["a", "b"]), Ok(r#"[null,"x,y"]"#.into()));
        for (record, keys) in [
            (r#"{"id":null}"#, &["id"][..]),
            (r#"{"no":1}"#, &["id"]),
            (r#"{"id":[1]}"#, &["id"]),
            (r#"{"a":{},"b":1}"#, &["a", "b"]),
            ("[1]", &["id"]),
            (r#"{"id":1}"#, &[]),
        ] {
            assert!(id(record, keys).is_err(), "{record}");
        }
    }

    #[test]
    fn a_record_is_deleted_if_it_says_since_when() {
        let is_deleted = |record: &str| {
            let record: &RawValue = serde_json::from_str(record).expect("JSON");
            Properties::of(record).expect("an object").is_deleted()
        };
        assert!(is_deleted(r#"{"id":1,"_sdc_deleted_at":"2024-01-01T00:00:00Z"}"#));
        assert!(!is_deleted(r#"{"id":1,"_sdc_deleted_at":null}"#) && !is_deleted(r#"{"id":1}"#));
    }
}
