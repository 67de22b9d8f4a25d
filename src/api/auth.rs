//! Who may ask: bearers of a token.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sequin_actors::model::Secret;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Api, Problem};

/// The token that may do everything, kept as its hash.
pub struct AdminToken {
    hash: [u8; 32],
}

impl AdminToken {
    /// Keeps the token's hash.
    pub fn new(token: &Secret) -> Self {
        Self { hash: Sha256::digest(token.reveal()).into() }
    }

    /// A new token: 244 random bits.
    pub fn generate() -> String {
        let random = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
        format!("sequin_{}", BASE64_URL_SAFE_NO_PAD.encode(random))
    }

    /// Whether this is the token. Takes the same time wherever they differ.
    fn is(&self, token: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let difference = hash.iter().zip(&self.hash).fold(0, |difference, (a, b)| difference | (a ^ b));
        difference == 0
    }
}

/// Lets a request pass if it bears the token.
pub(super) async fn require_token(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && api.admin_token.is(token.trim()) => {
            Ok(next.run(request).await)
        }
        Some(_) => Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is not valid")),
        None => Err(Problem::new(StatusCode::UNAUTHORIZED, "send a token: `Authorization: Bearer TOKEN`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_taken() {
        let token = AdminToken::generate();
        let admin = AdminToken::new(&Secret::new(token.clone()));
        assert!(admin.is(&token));
        assert!(!admin.is(&token[1..]) && !admin.is("") && !admin.is(&AdminToken::generate()));
    }
}
