//! Tokens as their bearers have them: a text that is shown once, and known by its hash from then on.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sequin_actors::model::{Secret, TokenHash};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A new token: 256 random bits.
pub fn generate_token() -> Secret {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    Secret::new(format!("sequin_{}", BASE64_URL_SAFE_NO_PAD.encode(random)))
}

/// What a token is known by. A slow hash would add nothing: there is nothing to guess that could be guessed.
pub(in crate::api) fn hash(token: &str) -> TokenHash {
    TokenHash(Sha256::digest(token).into())
}

/// Whether two hashes are of the same token. Takes the same time wherever they differ.
pub(super) fn is_same(one: &TokenHash, other: &TokenHash) -> bool {
    one.0.ct_eq(&other.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_taken() {
        let token = generate_token();
        let known = hash(token.reveal());
        assert!(is_same(&known, &hash(token.reveal())));
        for other in [&token.reveal()[1..], "", generate_token().reveal()] {
            assert!(!is_same(&known, &hash(other)));
        }
    }
}
