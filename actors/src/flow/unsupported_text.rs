//! Text that PostgreSQL can't hold, and U+FFFD in its place.
//!
//! `jsonb` takes neither `\u0000` nor half of a surrogate pair
//! (<https://www.postgresql.org/docs/current/datatype-json.html>), and `text` no U+0000. U+FFFD is what Unicode
//! replaces by: <https://www.unicode.org/versions/latest/core-spec/chapter-23/#G24272>.

use std::borrow::Cow;

use crate::model::Record;

const REPLACEMENT: &str = "\u{FFFD}";

/// An escape takes as many bytes: `\u` and four digits.
const ESCAPED_REPLACEMENT: &[u8; ESCAPE] = br"\ufffd";
const ESCAPE: usize = 6;

/// What is written of a record in which text was replaced.
pub struct ReplacedText<'a> {
    record: &'a Record<'a>,
    sync_external_id: Option<Cow<'a, str>>,
    sync_metadata: Cow<'a, str>,
    collection_id: Cow<'a, str>,
    upstream_id: Cow<'a, str>,
    payload: Cow<'a, str>,
}

impl<'a> ReplacedText<'a> {
    /// Replaces what can't be held; `None` if all of the record can.
    pub fn of(record: &'a Record<'a>) -> Option<Self> {
        let replaced = Self {
            record,
            sync_external_id: record.sync_external_id.map(in_text),
            sync_metadata: in_json(record.sync_metadata),
            collection_id: in_text(record.collection_id),
            upstream_id: in_text(record.upstream_id),
            payload: in_json(record.payload),
        };
        let is_changed = |text: &Cow<'_, str>| matches!(text, Cow::Owned(_));
        let texts = [&replaced.sync_metadata, &replaced.collection_id, &replaced.upstream_id, &replaced.payload];
        let changed = texts.into_iter().chain(&replaced.sync_external_id).any(is_changed);
        changed.then_some(replaced)
    }

    /// The record as it is written.
    pub fn record(&self) -> Record<'_> {
        Record {
            sync_external_id: self.sync_external_id.as_deref(),
            sync_metadata: &self.sync_metadata,
            collection_id: &self.collection_id,
            upstream_id: &self.upstream_id,
            payload: &self.payload,
            ..self.record.clone()
        }
    }
}

fn in_text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', REPLACEMENT)) } else { Cow::Borrowed(text) }
}

/// Replaces escapes in a JSON text, which keeps its length: a backslash stands in strings alone.
fn in_json(json: &str) -> Cow<'_, str> {
    let mut replaced: Option<Vec<u8>> = None;
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\\') {
        at += found;
        at += match code_unit(bytes, at) {
            // Another escape: the backslash, and what it escapes.
            None => 2,
            Some(0xD800..=0xDBFF) if matches!(code_unit(bytes, at + ESCAPE), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE,
            Some(0 | 0xD800..=0xDFFF) => {
                let replaced = replaced.get_or_insert_with(|| bytes.to_vec());
                replaced[at..at + ESCAPE].copy_from_slice(ESCAPED_REPLACEMENT);
                ESCAPE
            }
            Some(_) => ESCAPE,
        };
    }
    match replaced {
        Some(replaced) => Cow::Owned(String::from_utf8(replaced).expect("ASCII replaced ASCII")),
        None => Cow::Borrowed(json),
    }
}

/// The UTF-16 code unit that the escape at `at` stands for, if there is such an escape.
fn code_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + ESCAPE)?.strip_prefix(br"\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_and_halves_of_surrogate_pairs_are_replaced_and_nothing_else() {
        let cases = [
            (r#"{"a":"x\u0000y"}"#, r#"{"a":"x\ufffdy"}"#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\uDE00\ud83d\ud83D\uDE00""#, r#""\ufffd\ufffd\ud83D\uDE00""#),
            (r#""\\u0000 \\\u0000""#, r#""\\u0000 \\\ufffd""#),
            (r#""\ud83d\n""#, r#""\ufffd\n""#),
        ];
        for (json, expected) in cases {
            assert_eq!(in_json(json), expected);
        }
        for json in [r#""\ud83d\ude00 \u0001 \"\\""#, "{}", "1e9", r#""é""#] {
            assert!(matches!(in_json(json), Cow::Borrowed(_)), "{json}");
        }
        assert_eq!(in_text("a\0b"), "a\u{FFFD}b");
    }

    proptest! {
        #[test]
        fn what_is_left_is_json_that_any_reader_takes(units in prop::collection::vec(any::<u16>(), 0..20), text in ".*") {
            let escapes = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
            let quoted = serde_json::to_string(&text).expect("JSON");
            let json = format!("[{quoted},\"{escapes}\"]");
            let replaced = in_json(&json);
            let parsed: Vec<String> = serde_json::from_str(&replaced).expect("no lone surrogates are left");
            prop_assert_eq!(replaced.len(), json.len());
            prop_assert_eq!(&parsed[0], &text.replace('\0', REPLACEMENT));
            let expected: String = char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{FFFD}')).collect();
            prop_assert_eq!(&parsed[1], &expected.replace('\0', REPLACEMENT));
        }
    }
}
