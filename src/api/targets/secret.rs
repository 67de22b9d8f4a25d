//! A secret on its way in.

use sequin_actors::model::Secret;
use serde::{Deserialize, Deserializer, de::Error};

/// What is wrong with it is said without showing it.
pub(super) struct SecretText(pub(super) Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("takes a text"))?;
        Ok(Self(Secret::new(text)))
    }
}
