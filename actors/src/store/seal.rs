//! Sealing: secrets lie in the store encrypted, bound to what they belong to.
//!
//! A keyring may hold several keys: the first seals, and all open. So a key is replaced by putting another one before
//! it, and is taken away once everything is sealed under its successor ([`super::Documents::reseal`]).

use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, Generate, KeyInit, Payload},
};

use crate::model::Secret;

/// The form of a sealed secret: this byte, a nonce of 24 bytes, the ciphertext and its tag.
const FORM: u8 = 1;

const NONCE_BYTES: usize = 24;

/// What goes wrong with keys and with what they sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The text is no key, or one of several is none.
    #[error(
        "key {number} is none: an encryption key is 32 bytes in base64 (make one with `openssl rand -base64 32`), and \
         several are separated by commas"
    )]
    NotAKey {
        /// Which of them, from 1.
        number: usize,
    },
    /// It was sealed under another key, for another owner, or was tampered with.
    #[error("a secret of {owner} can't be opened: it was sealed under another encryption key, or changed since")]
    CannotOpen {
        /// What the secret belongs to.
        owner: String,
    },
}

/// Seals and opens secrets, by XChaCha20-Poly1305 (<https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha>).
pub struct Keyring {
    /// What seals, and is tried first.
    first: XChaCha20Poly1305,
    /// What sealed before, and still opens.
    others: Vec<XChaCha20Poly1305>,
}

impl Keyring {
    /// Takes keys of 32 bytes in base64, separated by commas or on lines of their own.
    pub fn from_base64(text: &str) -> Result<Self, KeyringError> {
        let mut ciphers = (1..).zip(text.trim().split([',', '\n'])).map(|(number, key)| {
            let bytes = BASE64_STANDARD.decode(key.trim()).map_err(|_| KeyringError::NotAKey { number })?;
            let key = Key::try_from(bytes.as_slice()).map_err(|_| KeyringError::NotAKey { number })?;
            Ok(XChaCha20Poly1305::new(&key))
        });
        let first = ciphers.next().unwrap_or(Err(KeyringError::NotAKey { number: 1 }))?;
        Ok(Self { first, others: ciphers.collect::<Result<_, _>>()? })
    }

    /// The key that seals, without the others.
    pub(super) fn first_alone(&self) -> Self {
        Self { first: self.first.clone(), others: Vec::new() }
    }

    /// A new key, in base64.
    pub fn generate_base64() -> String {
        BASE64_STANDARD.encode(Key::generate())
    }

    /// Seals a secret for `owner`, who has to be named again to open it.
    pub fn seal(&self, secret: &Secret, owner: &str) -> Vec<u8> {
        let nonce = XNonce::generate();
        let payload = Payload { msg: secret.reveal().as_bytes(), aad: owner.as_bytes() };
        let sealed = self.first.encrypt(&nonce, payload).expect("a password is far below the cipher's limit");
        [&[FORM], nonce.as_slice(), &sealed].concat()
    }

    /// Opens what was sealed for `owner`.
    pub fn open(&self, sealed: &[u8], owner: &str) -> Result<Secret, KeyringError> {
        self.try_open(sealed, owner).ok_or_else(|| KeyringError::CannotOpen { owner: owner.into() })
    }

    fn try_open(&self, sealed: &[u8], owner: &str) -> Option<Secret> {
        let [FORM, rest @ ..] = sealed else { return None };
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let open =
            |cipher: &XChaCha20Poly1305| cipher.decrypt(&nonce, Payload { msg: sealed, aad: owner.as_bytes() }).ok();
        let text = std::iter::once(&self.first).chain(&self.others).find_map(open)?;
        String::from_utf8(text).ok().map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring() -> Keyring {
        Keyring::from_base64(&Keyring::generate_base64()).expect("a key")
    }

    #[test]
    fn what_was_sealed_opens_for_its_owner_under_its_key_alone() {
        let (keyring, secret) = (keyring(), Secret::new("hunter2"));
        let sealed = keyring.seal(&secret, "target 1");
        assert_eq!(keyring.open(&sealed, "target 1").expect("opened"), secret);
        assert!(keyring.open(&sealed, "target 2").is_err());
        assert!(self::keyring().open(&sealed, "target 1").is_err());
        assert!(keyring.open(&sealed[..10], "target 1").is_err());
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    }

    #[test]
    fn the_first_key_seals_and_all_of_them_open() {
        let (old, new) = (Keyring::generate_base64(), Keyring::generate_base64());
        let of = |keys: &str| Keyring::from_base64(keys).expect("keys");
        let secret = Secret::new("hunter2");
        let by_old = of(&old).seal(&secret, "target 1");
        for both in [format!("{new},{old}"), format!(" {new} , {old} "), format!("{new}\r\n{old}\n")] {
            let both = of(&both);
            assert_eq!(both.open(&by_old, "target 1").expect("opened"), secret);
            assert!(both.open(&by_old, "target 2").is_err());
            assert!(both.first_alone().open(&by_old, "target 1").is_err());
            let by_new = both.seal(&secret, "target 1");
            assert_eq!(of(&new).open(&by_new, "target 1").expect("opened"), secret);
            assert!(of(&old).open(&by_new, "target 1").is_err());
        }
    }

    #[test]
    fn a_text_that_is_no_key_is_refused_by_its_place_and_not_repeated() {
        let key = Keyring::generate_base64();
        for (text, number) in [
            ("", 1),
            ("c2hvcnQ=", 1),
            ("not base64!", 1),
            (&format!("{key},c2hvcnQ="), 2),
            (&format!("{key},"), 2),
            (&format!("{key}\n\n{key}"), 2),
        ] {
            let error = Keyring::from_base64(text).err().expect("no keys");
            assert_eq!(error, KeyringError::NotAKey { number });
            assert!(!error.to_string().contains("c2hvcnQ"), "{error}");
        }
    }
}
