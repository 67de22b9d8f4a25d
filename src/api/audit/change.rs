//! What a request changes: read from its path and, for what it makes, from its answer.

use axum::{
    RequestExt,
    body::{Body, HttpBody, to_bytes},
    extract::{MatchedPath, RawPathParams, Request},
    http::{Method, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use sequin_actors::{
    model::{AuditEntry, AuditId, Consumer, Target, Token},
    store::{Documents, Named},
};
use serde::Deserialize;

use super::super::{
    access::{Caller, changes_something},
    resources::find,
};

/// How much of a path is written down, in bytes.
const PATH_SHOWN: usize = 500;

/// The longest answer that is read for what it names, in bytes: longer than one that shows a resource may be.
const ANSWER_READ: usize = 4 * 1024 * 1024;

/// What is asked for.
pub(super) struct Change {
    caller: Caller,
    method: Method,
    path: String,
    action: String,
    kind: String,
    /// What the resource is addressed by: its id or name.
    addressed: Option<String>,
}

/// What is changed, as far as it is known.
#[derive(Default, Deserialize)]
pub(super) struct Resource {
    id: Option<String>,
    name: Option<String>,
}

impl Change {
    /// The change that an admitted request asks for, if it does.
    pub(super) async fn asked_for_by(mut request: Request) -> (Request, Option<Self>) {
        let extensions = request.extensions();
        let (Some(caller), Some(route)) = (extensions.get::<Caller>(), extensions.get::<MatchedPath>()) else {
            return (request, None);
        };
        if !changes_something(request.method(), route.as_str()) {
            return (request, None);
        }
        let (caller, route) = (caller.clone(), route.clone());
        let params = request.extract_parts::<RawPathParams>().await.ok();
        let addressed = params.and_then(|params| params.iter().next().map(|(_, value)| value.to_owned()));
        let (method, path) = (request.method().clone(), request.uri().path());
        let path = path[..path.floor_char_boundary(PATH_SHOWN)].to_owned();
        let (kind, action) = what(&method, route.as_str());
        (request, Some(Self { caller, method, path, action, kind, addressed }))
    }

    /// What is to be changed, before it is: afterwards it may be gone.
    pub(super) async fn resource(&self, documents: &Documents) -> Resource {
        let Some(addressed) = &self.addressed else { return Resource::default() };
        let found = match self.kind.as_str() {
            "target" => look_up::<Target>(documents, addressed).await,
            "consumer" => look_up::<Consumer>(documents, addressed).await,
            "token" => look_up::<Token>(documents, addressed).await,
            _ => None,
        };
        found.unwrap_or_else(|| Resource { id: Some(addressed.clone()), name: None })
    }

    pub(super) fn entry(
        self,
        resource: Resource,
        status: StatusCode,
        request_id: String,
        now: DateTime<Utc>,
    ) -> AuditEntry {
        AuditEntry {
            id: AuditId::generate(now),
            at: now,
            token: self.caller.token,
            action: self.action,
            kind: self.kind,
            resource_id: resource.id,
            resource_name: resource.name,
            method: self.method.to_string(),
            path: self.path,
            status: status.as_u16(),
            from: self.caller.from,
            request_id,
        }
    }
}

impl Resource {
    /// What was made, if something was: its answer shows it.
    pub(super) async fn or_made_by(self, response: Response) -> (Self, Response) {
        let is_short = response.body().size_hint().upper().is_some_and(|length| length <= ANSWER_READ as u64);
        if self.id.is_some() || response.status() != StatusCode::CREATED || !is_short {
            return (self, response);
        }
        let (parts, body) = response.into_parts();
        // It lies in memory already, and is short enough.
        let bytes = to_bytes(body, ANSWER_READ).await.unwrap_or_default();
        let made = serde_json::from_slice(&bytes).unwrap_or(self);
        (made, Response::from_parts(parts, Body::from(bytes)))
    }
}

async fn look_up<T: Named>(documents: &Documents, addressed: &str) -> Option<Resource> {
    let found = find::<T>(documents, addressed).await.ok()?.value;
    Some(Resource { id: Some(found.id().to_string()), name: Some(found.name().into()) })
}

/// The kind of what is changed, and what is done to it: `consumer` and `quarantine.retry` for
/// `POST /v1/consumers/{consumer}/quarantine/retry`.
fn what(method: &Method, route: &str) -> (String, String) {
    if route == "/v1/rotate-keys" {
        return ("encryption-key".into(), "rotate".into());
    }
    let mut words = route.trim_start_matches("/v1/").split('/').filter(|word| !word.starts_with('{'));
    let kind = words.next().unwrap_or_default().trim_end_matches('s').to_owned();
    let mut action: Vec<&str> = words.collect();
    match method {
        &Method::DELETE => action.push("delete"),
        &Method::PUT | &Method::PATCH => action.push("update"),
        _ if action.is_empty() => action.push("create"),
        _ => {}
    }
    (kind, action.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_called_by_what_it_does_to_which_kind() {
        for (method, route, kind, action) in [
            (Method::POST, "/v1/targets", "target", "create"),
            (Method::PATCH, "/v1/targets/{target}", "target", "update"),
            (Method::DELETE, "/v1/tokens/{token}", "token", "delete"),
            (Method::POST, "/v1/consumers/{consumer}/start", "consumer", "start"),
            (Method::POST, "/v1/consumers/{consumer}/quarantine/retry", "consumer", "quarantine.retry"),
            (Method::DELETE, "/v1/consumers/{consumer}/quarantine/{record}", "consumer", "quarantine.delete"),
            (Method::DELETE, "/v1/syncs/{sync}/collections/{collection}", "sync", "collections.delete"),
            (Method::PUT, "/v1/alerting", "alerting", "update"),
            (Method::POST, "/v1/alerting/test", "alerting", "test"),
            (Method::POST, "/v1/rotate-keys", "encryption-key", "rotate"),
        ] {
            assert_eq!(what(&method, route), (kind.into(), action.into()));
        }
    }
}
