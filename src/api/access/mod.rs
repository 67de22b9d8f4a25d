//! Who may ask, and for what: bearers of a token that is known, each by its role.

mod bearer;
mod failures;
mod known;
mod roles;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{AuditedToken, Role, SETTINGS_TOKEN, Secret, Token, TokenHash, TokenId},
    store::{Documents, DocumentsError},
};

use self::{
    failures::FailedLogins,
    known::{Known, KnownTokens},
};
use super::{Api, Problem};

pub use self::bearer::generate_token;
pub(super) use self::{
    bearer::hash,
    roles::{changes_something, needed},
};

/// Knows who is let in.
pub(super) struct Access {
    /// The token of the settings, which may do everything.
    settings: TokenHash,
    known: KnownTokens,
    failures: FailedLogins,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// By which token; `None` if it is the one of the settings.
    pub(super) token: Option<AuditedToken>,
    role: Role,
    pub(super) from: IpAddr,
}

impl Caller {
    /// What the token is called.
    fn name(&self) -> &str {
        self.token.as_ref().map_or(SETTINGS_TOKEN, |token| token.name.as_str())
    }
}

impl Access {
    /// Lets in who bears a token that the store holds, or the one of the settings.
    pub(super) async fn open(documents: &Documents, settings: &Secret) -> Result<Self, DocumentsError> {
        let known = KnownTokens::default();
        // Those that can't be read are told of by the watch.
        documents.all::<Token>().await?.into_iter().flatten().for_each(|token| known.learn(token));
        Ok(Self { settings: hash(settings.reveal()), known, failures: FailedLogins::default() })
    }

    /// Follows what the store says of tokens, and tells it of their use, for ever.
    pub(super) async fn keep_up(&self, documents: &Documents) {
        tokio::join!(self.known.follow(documents), self.known.write_uses(documents));
    }

    /// Takes a token that was just made, before the store tells of it.
    pub(super) fn learn(&self, token: Token) {
        self.known.learn(token);
    }

    /// Takes a token no longer, before the store tells of it.
    pub(super) fn forget(&self, token: TokenId) {
        self.known.forget(token);
    }

    fn caller(&self, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Problem> {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(header) = header else {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "send a token: `Authorization: Bearer TOKEN`"));
        };
        self.recognize(header, from).map_err(|refused| match self.failures.count(from, Instant::now()) {
            Ok(()) => {
                tracing::warn!(%from, "a request was refused: {refused}");
                Problem::new(StatusCode::UNAUTHORIZED, refused)
            }
            Err(wait) => {
                let detail =
                    format!("too many tokens from {from} were not valid; one that is valid is taken all the same");
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_retry_after(wait)
            }
        })
    }

    /// Whether a request bears a token that is valid, of whatever role.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        header.is_some_and(|header| self.find(header, Utc::now()).is_ok())
    }

    /// The token that is valid; `None` if it is the one of the settings.
    fn find(&self, header: &str, now: DateTime<Utc>) -> Result<Option<Arc<Known>>, &'static str> {
        let token = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => hash(token.trim()),
            _ => return Err("send a token: `Authorization: Bearer TOKEN`"),
        };
        if bearer::is_same(&self.settings, &token) {
            return Ok(None);
        }
        let known = self.known.find(&token).ok_or("the token is not valid")?;
        if known.token.is_expired(now) {
            return Err("the token has expired: ask for another one");
        }
        Ok(Some(known))
    }

    fn recognize(&self, header: &str, from: IpAddr) -> Result<Caller, &'static str> {
        let now = Utc::now();
        let Some(known) = self.find(header, now)? else {
            return Ok(Caller { token: None, role: Role::Admin, from });
        };
        self.known.note_use(&known, now);
        let token = AuditedToken { id: known.token.id, name: known.token.name.clone() };
        Ok(Caller { token: Some(token), role: known.token.role, from })
    }
}

/// Lets a request pass if it bears a token whose role suffices. From there on it says who asks.
pub(super) async fn admit(
    State(api): State<Arc<Api>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = api.access.caller(request.headers(), address.ip().to_canonical())?;
    // Whoever bears a token may hear that there is nothing at a path.
    if let Some(path) = path {
        let needed = needed(request.method(), path.as_str());
        if !caller.role.suffices_for(needed) {
            let (role, needed) = (caller.role.as_str(), needed.as_str());
            tracing::warn!(token = caller.name(), from = %caller.from, needed, "a request was refused");
            let detail = format!("this takes a token of the role {needed}, and {} has the role {role}", caller.name());
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}
