//! Reading what a request brings: clear errors that name the field.

use std::fmt::Display;

use axum::{
    body::HttpBody,
    extract::{FromRequest, FromRequestParts, Path as AxumPath, Request},
    http::{StatusCode, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::problem::{FieldProblem, Problem};

/// The largest JSON body, in bytes.
pub(super) const JSON_LIMIT: usize = 1024 * 1024;

/// A JSON body: an object.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let LimitedBytes(bytes) = LimitedBytes::<JSON_LIMIT>::from_request(request, state).await?;
        parse_object(&bytes).map(Self)
    }
}

/// Reads a JSON object: an array would be taken for one whose fields come in their order.
pub(super) fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') | None => parse(bytes),
        Some(_) => parse::<IgnoredAny>(bytes).and(Err(Problem::invalid_field("body", "takes a JSON object"))),
    }
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let params = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(query));
        params.map(Self).map_err(|error| Problem::invalid([field_problem(&error, "query")]))
    }
}

/// The parameters of a path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = AxumPath::<T>::from_request_parts(parts, state).await;
        // Nothing has a name that is no text.
        let nothing = |_| Problem::not_found(format!("there is nothing at {}", parts.uri.path()));
        found.map(|AxumPath(found)| Self(found)).map_err(nothing)
    }
}

/// The whole of a body of at most `LIMIT` bytes.
pub(super) struct LimitedBytes<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize, S: Send + Sync> FromRequest<S> for LimitedBytes<LIMIT> {
    type Rejection = Problem;

    /// A body that is too large is read to its end all the same: who is still sending does not hear an answer.
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let announced = request.body().size_hint().lower().try_into().unwrap_or(LIMIT).min(LIMIT);
        let mut frames = request.into_body().into_data_stream();
        let mut bytes = BytesMut::with_capacity(announced);
        let mut length = 0;
        while let Some(frame) = frames.next().await {
            let broken = |error| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"));
            let frame = frame.map_err(broken)?;
            length += frame.len();
            if length <= LIMIT {
                bytes.extend_from_slice(&frame);
            } else {
                bytes.clear();
            }
        }
        if length > LIMIT {
            let detail = format!("the body has {length} bytes, and may have {LIMIT}");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        Ok(Self(bytes.freeze()))
    }
}

/// 400 for what is no JSON, 422 for what is not the JSON that is taken here.
pub(super) fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        if error.inner().is_data() {
            Problem::invalid([field_problem(&error, "body")])
        } else {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {}", error.inner()))
        }
    })?;
    match deserializer.end() {
        Ok(()) => Ok(parsed),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
    }
}

/// Names the field: where the parser stood, and, where it says so itself, which one is missing, unknown or there twice.
pub(super) fn field_problem<E: Display>(error: &serde_path_to_error::Error<E>, whole: &str) -> FieldProblem {
    let message = error.inner().to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let path = error.path().to_string();
    let parent = if path == "." { String::new() } else { path };
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start));
    let field = match named.and_then(|rest| rest.split('`').next()) {
        Some(name) if parent == name || parent.ends_with(&format!(".{name}")) => parent,
        Some(name) if parent.is_empty() => name.into(),
        Some(name) => format!("{parent}.{name}"),
        None if parent.is_empty() => whole.into(),
        None => parent,
    };
    FieldProblem::new(field, message)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "port")]
        _port: u16,
    }

    #[test]
    fn the_wrong_field_is_named_by_its_path() {
        for (body, field) in [
            (r#"{"inner":{"port":"x"}}"#, "inner.port"),
            (r#"{"inner":{"port":1,"host":2}}"#, "inner.host"),
            (r#"{"inner":{}}"#, "inner.port"),
            (r#"{"inner":{"port":1},"more":1}"#, "more"),
            ("{}", "inner"),
            ("[]", "body"),
        ] {
            let problem = parse::<Outer>(body.as_bytes()).expect_err("a wrong field");
            let problem = serde_json::to_value(&problem).expect("JSON");
            assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
            assert_eq!(problem["status"], 422);
        }
    }

    #[test]
    fn what_is_no_json_is_a_bad_request() {
        for body in ["", "{", r#"{"inner":{"port":1}} x"#] {
            let problem = parse::<Outer>(body.as_bytes()).expect_err("no JSON");
            assert_eq!(serde_json::to_value(&problem).expect("JSON")["status"], 400, "{body}");
        }
    }
}
