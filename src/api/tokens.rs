//! Tokens: who may call the API, and what for.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{Role, Token, TokenId},
    store::{DocumentsError, StoreError, Versioned},
};
use serde::{Deserialize, Serialize};
use utoipa::{ToSchema, openapi::Object};
use uuid::Uuid;

use super::{
    State, access,
    body::{self, Params, Path},
    openapi::{Conflict, IfMatch, words},
    problem::Problem,
    resources::{List, PageParams, check_if_match, find, with_etag},
};

/// How often a token is found that is written to at the same moment, as its use is.
const FOUND_AT_MOST: usize = 5;

/// A token, as it is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRequest {
    /// Unique among tokens, and no uuid.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
    name: String,
    #[schema(schema_with = role_words)]
    role: Role,
    /// From when on it is not taken any more; without it, never.
    expires_at: Option<DateTime<Utc>>,
}

/// A token, as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(super) struct TokenView {
    id: Uuid,
    name: String,
    #[schema(schema_with = role_words)]
    role: Role,
    /// From when on it is not taken any more; null if it does not end by itself.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to about a minute; null before that.
    #[schema(required)]
    last_used_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// What its bearer sends: in the answer to its making, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

fn role_words() -> Object {
    let meaning = "`admin`: everything. `read`: what changes nothing. `publish`: publishing records, and nothing else.";
    words(meaning, &[Role::Admin, Role::Read, Role::Publish].map(Role::as_str))
}

fn view(token: Token) -> TokenView {
    let Token { id, name, role, expires_at, last_used_at, created_at, hash: _ } = token;
    TokenView { id: id.0, name, role, expires_at, last_used_at, created_at, token: None }
}

/// Makes a token, and shows it this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", operation_id = "create_token",
    responses((status = 201, description = "The token", body = TokenView, headers(("ETag"))), Conflict))]
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

/// Lists the tokens, without what their bearers send.
#[utoipa::path(get, path = "/v1/tokens", tag = "access", operation_id = "list_tokens", params(PageParams),
    responses((status = 200, description = "A page of them", body = List<TokenView>)))]
pub(super) async fn list(api: State, Params(page): Params<PageParams>) -> Result<Json<List<TokenView>>, Problem> {
    let limit = page.limit()?;
    let found = api.documents.list::<Token>(page.after()?, limit + 1).await?;
    let show = |found: Versioned<Token>| (found.value.id.to_string(), view(found.value));
    Ok(Json(List::page_of_documents(found.into_iter().map(|found| found.map(show)).collect(), limit)))
}

/// Shows a token, without what its bearer sends.
#[utoipa::path(get, path = "/v1/tokens/{token}", tag = "access", operation_id = "read_token",
    responses((status = 200, description = "The token", body = TokenView, headers(("ETag")))))]
pub(super) async fn read(api: State, Path(token): Path<String>) -> Result<Response, Problem> {
    let found = find::<Token>(&api.documents, &token).await?;
    Ok(with_etag(StatusCode::OK, found.revision, view(found.value)))
}

/// Revokes a token: whoever bears it is let in no longer.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "access", operation_id = "revoke_token", params(IfMatch),
    responses((status = 204, description = "It is revoked"), Conflict))]
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
