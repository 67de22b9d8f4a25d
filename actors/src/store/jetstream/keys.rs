//! Keys as subjects: what NATS takes in a subject is less than what a key may hold.
//!
//! Each part of a key, between its slashes, is a token of the subject. Letters, digits, `-` and `_` stand for themselves,
//! any other byte is written as `=` and two hexadecimal digits, and an empty part as `=` alone. So every key has one
//! subject, and every such subject one key; and what begins with `kind/` is what begins with the token `kind`.

use std::fmt::Write as _;

/// What stands for an empty part.
const EMPTY: &str = "=";

/// The subject of a key, below `root`.
pub(super) fn subject_of(root: &str, key: &str) -> String {
    let mut subject = root.to_owned();
    for part in key.split('/') {
        subject.push('.');
        push_part(&mut subject, part);
    }
    subject
}

/// The narrowest filter that passes every key that begins with `prefix`. It passes others too if that does not end with a slash.
pub(super) fn filter_of(root: &str, prefix: &str) -> String {
    let whole_parts = prefix.rsplit_once('/').map(|(whole, _)| subject_of(root, whole));
    whole_parts.unwrap_or_else(|| root.to_owned()) + ".>"
}

/// The key of a subject; `None` if it is no subject of a key.
pub(super) fn key_of(root: &str, subject: &str) -> Option<String> {
    let tokens = subject.strip_prefix(root)?.strip_prefix('.')?;
    let mut key = Vec::with_capacity(tokens.len());
    for (number, token) in tokens.split('.').enumerate() {
        if number > 0 {
            key.push(b'/');
        }
        push_bytes(&mut key, token)?;
    }
    String::from_utf8(key).ok()
}

fn push_part(subject: &mut String, part: &str) {
    if part.is_empty() {
        subject.push_str(EMPTY);
    }
    for byte in part.bytes() {
        if is_plain(byte) {
            subject.push(char::from(byte));
        } else {
            write!(subject, "={byte:02X}").expect("writing to memory can't fail");
        }
    }
}

fn push_bytes(key: &mut Vec<u8>, token: &str) -> Option<()> {
    if token == EMPTY {
        return Some(());
    }
    if token.is_empty() {
        return None;
    }
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'=' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            plain if is_plain(plain) => plain,
            _ => return None,
        });
    }
    Some(())
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Only as it is written: a key must not have two subjects.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const ROOT: &str = "$KV.c-control";

    #[test]
    fn a_key_is_written_so_that_people_can_read_most_of_it() {
        assert_eq!(subject_of(ROOT, "target/0a-1_B"), "$KV.c-control.target.0a-1_B");
        assert_eq!(subject_of(ROOT, "target-name/My Target.é="), "$KV.c-control.target-name.My=20Target=2E=C3=A9=3D");
        assert_eq!(subject_of(ROOT, ""), "$KV.c-control.=");
        assert_eq!(subject_of(ROOT, "a//"), "$KV.c-control.a.=.=");
    }

    #[test]
    fn a_subject_that_no_key_has_is_no_key() {
        for token in ["a=", "=4", "=e9", "=GG", "a b", "é", "==", "=FF", ""] {
            assert_eq!(key_of(ROOT, &format!("{ROOT}.{token}")), None, "{token}");
        }
        for subject in ["$KV.c-control", "$KV.other.a", "$KV.c-control2.a"] {
            assert_eq!(key_of(ROOT, subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn every_key_has_a_subject_that_nats_takes_and_that_leads_back_to_it(key in "[a./*> =é\u{0}\u{1F980}]{0,8}|\\PC{0,20}") {
            let subject = subject_of(ROOT, &key);
            let tokens = subject.strip_prefix(ROOT).expect("the root").split('.').skip(1);
            for token in tokens {
                prop_assert!(!token.is_empty() && token.bytes().all(|byte| is_plain(byte) || byte == b'='), "{}", subject);
            }
            prop_assert_eq!(key_of(ROOT, &subject), Some(key));
        }

        #[test]
        fn the_filter_of_a_prefix_passes_every_key_that_begins_with_it(prefix in "[a/ ]{0,4}", rest in "[a/ ]{1,4}") {
            let filter = filter_of(ROOT, &prefix);
            let subject = subject_of(ROOT, &format!("{prefix}{rest}"));
            prop_assert!(subject.starts_with(filter.strip_suffix('>').expect("all below")), "{} {}", filter, subject);
        }
    }
}
