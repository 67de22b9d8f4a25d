//! What it costs to open a private key by its passphrase. Whoever made the key has chosen that, and may have chosen years.

use base64::{Engine, prelude::BASE64_STANDARD};
use russh::keys::{PrivateKey, ssh_key::Kdf};
use x509_cert::{
    der::{self, Decode, Reader, SliceReader, asn1::AnyRef, asn1::ObjectIdentifier, asn1::OctetStringRef},
    spki::AlgorithmIdentifierRef,
};

/// The most rounds of bcrypt, as `ssh-keygen -a` has them: some seconds.
const MOST_ROUNDS: u32 = 256;

/// The most iterations of PBKDF2: about a second.
const MOST_ITERATIONS: u32 = 1_000_000;

const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const PBKDF2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.12");

/// Whether opening this key is known to take no more than a while.
pub(super) fn is_bearable(text: &str) -> bool {
    let mut begins = text.lines().filter(|line| line.contains("-----BEGIN "));
    let (Some(begin), None) = (begins.next(), begins.next()) else { return false };
    // One that has no such cost: a passphrase is hashed once.
    if begin == "-----BEGIN RSA PRIVATE KEY-----" {
        return true;
    }
    let Some(body) = body(text) else { return false };
    if begin == "-----BEGIN OPENSSH PRIVATE KEY-----" {
        return PrivateKey::from_bytes(&body).is_ok_and(|key| match key.kdf() {
            Kdf::Bcrypt { rounds, .. } => *rounds <= MOST_ROUNDS,
            _ => false,
        });
    }
    iterations(&body).is_ok_and(|iterations| iterations <= MOST_ITERATIONS)
}

/// What is between the lines that enclose it.
fn body(text: &str) -> Option<Vec<u8>> {
    let lines = text.lines().skip_while(|line| !line.contains("-----BEGIN ")).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("-----END "));
    let is_of_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let body: String = lines.filter(|line| line.chars().all(is_of_base64)).collect();
    BASE64_STANDARD.decode(body).ok()
}

/// Of a key in PKCS #8 (RFC 5958), encrypted by PBES2 with PBKDF2 (RFC 8018): anything else is an error.
fn iterations(key: &[u8]) -> der::Result<u32> {
    SliceReader::new(key)?.sequence(|key| {
        let encryption = AlgorithmIdentifierRef::decode(key)?;
        AnyRef::decode(key)?;
        encryption.assert_algorithm_oid(PBES2).map_err(|_| der::Tag::ObjectIdentifier.value_error())?;
        let parameters = encryption.parameters.ok_or_else(|| der::Tag::Sequence.value_error())?;
        parameters.sequence(|parameters| {
            let derivation = AlgorithmIdentifierRef::decode(parameters)?;
            AnyRef::decode(parameters)?;
            derivation.assert_algorithm_oid(PBKDF2).map_err(|_| der::Tag::ObjectIdentifier.value_error())?;
            let parameters = derivation.parameters.ok_or_else(|| der::Tag::Sequence.value_error())?;
            parameters.sequence(|parameters| {
                OctetStringRef::decode(parameters)?;
                let iterations = u32::decode(parameters)?;
                while !parameters.is_finished() {
                    AnyRef::decode(parameters)?;
                }
                Ok(iterations)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str, body: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(body))
    }

    /// A key in OpenSSH's form, whose inside is no key.
    fn of_rounds(rounds: u32) -> String {
        fn text(bytes: &[u8]) -> Vec<u8> {
            let length = u32::try_from(bytes.len()).expect("it is short");
            [&length.to_be_bytes(), bytes].concat()
        }
        let options = [text(&[7; 16]), rounds.to_be_bytes().to_vec()].concat();
        let public = [text(b"ssh-ed25519"), text(&[9; 32])].concat();
        let parts = [text(b"aes256-ctr"), text(b"bcrypt"), text(&options), vec![0, 0, 0, 1], text(&public)];
        pem("OPENSSH PRIVATE KEY", &[&b"openssh-key-v1\0"[..], &parts.concat(), &text(&[5; 160])].concat())
    }

    /// A key in PKCS #8, whose inside is no key.
    fn of_iterations(iterations: u32, derivation: ObjectIdentifier) -> String {
        fn part(tag: u8, content: &[u8]) -> Vec<u8> {
            let length = u8::try_from(content.len()).expect("it is short");
            [&[tag, length], content].concat()
        }
        let oid = |oid: ObjectIdentifier| part(6, oid.as_bytes());
        let aes256 = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
        let count = iterations.to_be_bytes();
        let count = part(2, &count[count.iter().take_while(|byte| **byte == 0).count()..]);
        let derivation = part(0x30, &[oid(derivation), part(0x30, &[part(4, &[7; 8]), count].concat())].concat());
        let cipher = part(0x30, &[oid(aes256), part(4, &[7; 16])].concat());
        let encryption = part(0x30, &[oid(PBES2), part(0x30, &[derivation, cipher].concat())].concat());
        pem("ENCRYPTED PRIVATE KEY", &part(0x30, &[encryption, part(4, &[5; 16])].concat()))
    }

    #[test]
    fn a_key_that_would_take_long_to_open_is_told_before_it_is_opened() {
        let scrypt = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11591.4.11");
        let bearable = [of_rounds(1), of_rounds(MOST_ROUNDS), of_iterations(1, PBKDF2)];
        for key in &bearable {
            assert!(is_bearable(key), "{key}");
        }
        let twice = bearable.concat();
        let unbearable =
            [of_rounds(MOST_ROUNDS + 1), of_iterations(MOST_ITERATIONS + 1, PBKDF2), of_iterations(1, scrypt), twice];
        for key in &unbearable {
            assert!(!is_bearable(key), "{key}");
        }
    }
}
