//! Secrets on their way in: they are never shown, and can be compared.

use sequin_actors::model::Secret;
use serde::{Deserialize, Deserializer, de::Error};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What is wrong with it is said without showing it.
#[derive(PartialEq)]
pub(super) struct SecretText(pub(super) Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("takes a text"))?;
        Ok(Self(Secret::new(text)))
    }
}

/// Whether they are the same; it takes the same time wherever they differ.
pub(super) fn are_same(a: &Secret, b: &Secret) -> bool {
    let digest = |secret: &Secret| -> [u8; 32] { Sha256::digest(secret.reveal()).into() };
    digest(a).ct_eq(&digest(b)).into()
}
