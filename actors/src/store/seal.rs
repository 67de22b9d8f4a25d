//! Sealing: secrets lie in the store encrypted, bound to what they belong to.

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
    /// The text is no key.
    #[error("an encryption key is 32 bytes in base64 (make one with `openssl rand -base64 32`)")]
    NotAKey,
    /// It was sealed under another key, for another owner, or was tampered with.
    #[error("a secret of {owner} can't be opened: it was sealed under another encryption key, or changed since")]
    CannotOpen {
        /// What the secret belongs to.
        owner: String,
    },
}

/// Seals and opens secrets, by XChaCha20-Poly1305 (<https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha>).
pub struct Keyring {
    cipher: XChaCha20Poly1305,
}

impl Keyring {
    /// Takes a key of 32 bytes in base64.
    pub fn from_base64(text: &str) -> Result<Self, KeyringError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyringError::NotAKey)?;
        let key = Key::try_from(bytes.as_slice()).map_err(|_| KeyringError::NotAKey)?;
        Ok(Self { cipher: XChaCha20Poly1305::new(&key) })
    }

    /// A new key, in base64.
    pub fn generate_base64() -> String {
        BASE64_STANDARD.encode(Key::generate())
    }

    /// Seals a secret for `owner`, who has to be named again to open it.
    pub fn seal(&self, secret: &Secret, owner: &str) -> Vec<u8> {
        let nonce = XNonce::generate();
        let payload = Payload { msg: secret.reveal().as_bytes(), aad: owner.as_bytes() };
        let sealed = self.cipher.encrypt(&nonce, payload).expect("a password is far below the cipher's limit");
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
        let payload = Payload { msg: sealed, aad: owner.as_bytes() };
        let text = self.cipher.decrypt(&nonce, payload).ok()?;
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
    fn a_text_that_is_no_key_is_refused() {
        assert!(Keyring::from_base64("c2hvcnQ=").is_err());
        assert!(Keyring::from_base64("not base64!").is_err());
    }
}
