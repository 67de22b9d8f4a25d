//! Tokens: who may call the API, and what for.

use axum::{
    Json,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Role, Token, TokenId},
    store::{DocumentsError, StoreError, Versioned},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    State, access, body,
    body::Params,
    problem::Problem,
    resources::{List, PageParams, check_if_match, find, with_etag},
};

/// How often a token is found that is written to at the same moment, as its use is.
const FOUND_AT_MOST: usize = 5;

/// A token, as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRequest {
    name: String,
    role: Role,
    expires_at: Option<DateTime<Utc>>,
}

/// A token, as it is shown.
#[derive(Serialize)]
pub(super) struct TokenView {
    id: Uuid,
    name: String,
    role: Role,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// What its bearer sends: in the answer to its making, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

fn view(token: Token) -> TokenView {
    let Token { id, name, role, expires_at, last_used_at, created_at, hash: _ } = token;
    TokenView { id: id.0, name, role, expires_at, last_used_at, created_at, token: None }
}

pub(super) async fn create(api: State, body::Json(request): body::Json<TokenRequest>) -> Result<Response, Problem> {
    let now = Utc::now();
    let secret = access::generate_token();
    let TokenRequest { name, role, expires_at } = request;
    let hash = access::hash(secret.reveal());
    let token = Token { id: TokenId::generate(), name, role, hash, expires_at, last_used_at: None, created_at: now };
    let errors = token.check(now);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let revision = api.documents.create(&token, now).await?;
    api.access.learn(token.clone());
    let shown = TokenView { token: Some(secret.reveal().into()), ..view(token) };
    let mut response = with_etag(StatusCode::CREATED, revision, shown);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub(super) async fn list(api: State, Params(page): Params<PageParams>) -> Result<Json<List<TokenView>>, Problem> {
    let limit = page.limit()?;
    let found = api.documents.list::<Token>(page.after()?, limit + 1).await?;
    let show = |found: Versioned<Token>| (found.value.id.to_string(), view(found.value));
    Ok(Json(List::page_of_documents(found.into_iter().map(|found| found.map(show)).collect(), limit)))
}

pub(super) async fn read(api: State, Path(token): Path<String>) -> Result<Response, Problem> {
    let found = find::<Token>(&api.documents, &token).await?;
    Ok(with_etag(StatusCode::OK, found.revision, view(found.value)))
}

/// Revokes a token. Its use, which is written down meanwhile, does not save it.
pub(super) async fn delete(api: State, Path(token): Path<String>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    for _ in 0..FOUND_AT_MOST {
        let found = find::<Token>(&api.documents, &token).await?;
        check_if_match(&headers, found.revision)?;
        match api.documents.delete_named(&found.value, found.revision).await {
            Err(DocumentsError::Store(StoreError::Conflict { .. })) => {}
            deleted => {
                deleted?;
                api.access.forget(found.value.id);
                return Ok(StatusCode::NO_CONTENT);
            }
        }
    }
    Err(Problem::conflict("the token is being written to all the time: repeat"))
}
