//! The OpenAPI description of the API, made from the handlers, and what they describe themselves with.
//!
//! A call is described beside its handler, and registered with `routes!` in the module above: nothing else registers a
//! route, so nothing is served undescribed. Of a handler, say only what its shape does not:
//!
//! ```ignore
//! /// Makes a widget.                                    (the summary; what follows a blank line is the description)
//! #[utoipa::path(post, path = "/v1/widgets", tag = "widgets", operation_id = "create_widget", params(IfMatch),
//!     responses((status = 201, body = WidgetView, description = "It is made", headers(ETag)), Conflict))]
//! ```
//!
//! Path parameters and the body are read off the handler's arguments; query parameters derive `IntoParams`. Wire types
//! derive `ToSchema`, under a name without `View` or `Request` where that is free. A `Change<T>` has `value_type =
//! Option<T>`, or `T` where null is refused, and `#[serde(default)]` at the field, not at the struct.
//!
//! [`describe`] adds what follows from the shape: 400, 413 and 422 with a body, 404 with a path parameter, 412 with
//! [`IfMatch`], 422 with query parameters, which role a call takes, and what any call may answer: 401, 403, 429, 500, 503.
//! What else a call may answer is named: [`Conflict`], [`UnsupportedMediaType`]. A call that needs no token says
//! `security(())`.
//!
//! `tests/openapi.json` is what comes of it: a test compares, and says how to write it anew.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    http::{Method, header},
    response::{IntoResponse, Response},
};
use sequin_actors::model::Role;
use utoipa::{
    IntoParams, IntoResponses, OpenApi,
    openapi::{
        self, Content, Object, Ref, RefOr, Required, ResponseBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        schema::{ArrayItems, ObjectBuilder, Schema, SchemaType, Type},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{Problem, access::needed};

/// What nothing in the handlers says.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sequin",
        description = "Publish records of syncs to a durable stream, and forward them to tables in Postgres databases.\n\n\
            Targets and consumers are addressed by `id` or by `name`. Lists are `{\"data\": […], \"next\": null}` and take \
            `limit`, and the `next` of the page before as `after`. Errors are `application/problem+json` (RFC 9457) with \
            everything that is wrong at once. Unknown fields are refused by name. Secrets go in, and never come out.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "records", description = "Publishing records."),
        (name = "targets", description = "Customers' databases."),
        (name = "consumers", description = "What is forwarded, and to which table."),
        (name = "quarantine", description = "The records that a consumer's database refused."),
        (name = "syncs", description = "Providers and syncs, as the stream knows them."),
        (name = "alerting", description = "What is wrong for long enough that somebody should know, and whom to tell."),
        (name = "access", description = "Who may do what: tokens, the audit log, and encryption keys."),
        (name = "node", description = "Whether the node lives and is ready, and what it can do."),
    ),
    components(schemas(Problem)),
    security(("token" = []))
)]
struct Description;

/// A description without any call yet.
pub(super) fn description() -> openapi::OpenApi {
    Description::openapi()
}

/// The problems that calls answer with: status, name and meaning.
const PROBLEMS: [(&str, &str, &str); 12] = [
    ("400", "BadRequest", "The body can't be read or parsed."),
    ("401", "Unauthorized", "There is no token, or it is not valid."),
    ("403", "Forbidden", "The token's role is too small; `detail` says which one this takes."),
    ("404", "NotFound", "There is nothing of this id or name."),
    ("409", "Conflict", "It is in the way of something: a name that is taken, a use, a state; `detail` says which."),
    ("412", "PreconditionFailed", "It is at another revision than `If-Match` names."),
    ("413", "ContentTooLarge", "The body is too large; `detail` says how large it may be."),
    ("415", "UnsupportedMediaType", "The body is of a type that is not taken here; `detail` says which are."),
    ("422", "UnprocessableContent", "Something is not valid: `errors` has everything that is wrong."),
    (
        "429",
        "TooManyRequests",
        "Too many tokens from this address were not valid; `Retry-After` says when to try again.",
    ),
    ("500", "InternalServerError", "Something failed here, or what is stored can't be read; `detail` says which."),
    ("503", "ServiceUnavailable", "The storage does not answer or is full, or it took too long: try again later."),
];

/// What a call can be described with that answers this problem for a reason that its shape does not show.
macro_rules! problems {
    ($($name:ident)*) => {$(
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
                let (status, name, _) = PROBLEMS.iter().find(|(_, name, _)| *name == stringify!($name)).expect("one of them");
                BTreeMap::from([((*status).into(), Ref::from_response_name(*name).into())])
            }
        }
    )*};
}

problems!(Conflict UnprocessableContent UnsupportedMediaType);

/// The header of a write that is to be made at one revision only.
pub(super) struct IfMatch;

impl IfMatch {
    const NAME: &str = "If-Match";
}

impl IntoParams for IfMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let header = ParameterBuilder::new()
            .name(Self::NAME)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("Makes the change only if this is the `ETag` of what is there."))
            .schema(Some(Object::with_type(Type::String)));
        vec![header.build()]
    }
}

/// What the parameters of paths are.
const PATH_PARAMETERS: [(&str, &str); 7] = [
    ("target", "The target's id or name."),
    ("consumer", "The consumer's id or name."),
    ("sync", "The sync's id."),
    ("collection", "The collection's id, as it was published."),
    ("record", "The record's `sequin_id`."),
    ("token", "The token's id or name."),
    ("incident", "The incident's id."),
];

/// Adds to the calls what follows from their shape.
pub(super) fn describe(mut openapi: openapi::OpenApi) -> openapi::OpenApi {
    for (path, item) in &mut openapi.paths.paths {
        for (method, operation) in operations(item) {
            complete(operation, needed(&method, path));
        }
    }
    let components = openapi.components.get_or_insert_default();
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("A token of this cluster."));
    components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    for (_, name, meaning) in PROBLEMS {
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new().description(meaning).content("application/problem+json", problem);
        components.responses.insert(name.into(), response.build().into());
    }
    for (name, schema) in &mut components.schemas {
        refer_to_items(name, schema);
    }
    openapi
}

/// Lets a list refer to the schema of its items, which is repeated in it otherwise.
fn refer_to_items(name: &str, schema: &mut RefOr<Schema>) {
    let (Some(item), RefOr::T(Schema::Object(list))) = (name.strip_prefix("List_"), schema) else { return };
    if let Some(RefOr::T(Schema::Array(data))) = list.properties.get_mut("data") {
        data.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(item).into()));
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let of = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::DELETE, delete),
        (Method::PATCH, patch),
    ];
    of.into_iter().filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

fn complete(operation: &mut Operation, role: Role) {
    let mut statuses = vec!["500", "503"];
    if operation.security.is_none() {
        statuses.extend(["401", "403", "429"]);
        let takes = match role {
            Role::Admin => "Takes a token of the role `admin`.".into(),
            role => format!("Takes a token of the role `{}` or `admin`.", role.as_str()),
        };
        let described = operation.description.take().map(|described| format!("{described}\n\n"));
        operation.description = Some(described.unwrap_or_default() + &takes);
    }
    if operation.request_body.is_some() {
        statuses.extend(["400", "413", "422"]);
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        match parameter.parameter_in {
            ParameterIn::Path => {
                statuses.push("404");
                let described = PATH_PARAMETERS.iter().find(|(name, _)| *name == parameter.name);
                parameter.description = described.map(|(_, description)| (*description).into());
            }
            ParameterIn::Query => statuses.push("422"),
            ParameterIn::Header if parameter.name == IfMatch::NAME => statuses.push("412"),
            _ => {}
        }
    }
    let responses = &mut operation.responses.responses;
    for (status, name, _) in PROBLEMS.iter().filter(|(status, ..)| statuses.contains(status)) {
        responses.entry((*status).into()).or_insert_with(|| Ref::from_response_name(*name).into());
    }
}

/// The schema of one of these words.
pub(super) fn words(description: &str, words: &[&'static str]) -> Object {
    let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
    text.description(Some(description)).enum_values(Some(words.to_vec())).build()
}

/// The schema of one of these words, or null for the default.
pub(super) fn or_null(mut schema: Object) -> Object {
    schema.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    schema.enum_values.get_or_insert_default().push(serde_json::Value::Null);
    schema
}

/// The schema of what has no value.
pub(super) fn null(description: &str) -> Object {
    let null = ObjectBuilder::new().schema_type(SchemaType::new(Type::Null));
    null.description(Some(description)).build()
}

/// Every call of the API, by its method and path.
#[cfg(test)]
pub(super) fn calls() -> Vec<(Method, String)> {
    let mut paths = super::openapi().paths.paths;
    let calls =
        paths.iter_mut().flat_map(|(path, item)| operations(item).map(move |(method, _)| (method, path.clone())));
    calls.collect()
}

/// The description of every call of the API, as JSON.
pub fn openapi_json() -> &'static str {
    static JSON: LazyLock<String> = LazyLock::new(|| {
        let json = super::openapi().to_pretty_json().expect("a description is JSON");
        // utoipa 6.0 writes the formats of the registry, such as uint32, with a hyphen.
        json.replace("\"format\": \"u-int", "\"format\": \"uint") + "\n"
    });
    &JSON
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "node", operation_id = "openapi", security(()),
    responses((status = 200, description = "The description in OpenAPI 3.1", body = Object, content_type = "application/json")))]
pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi_json()).into_response()
}
