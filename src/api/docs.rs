//! The description of the API as a page for people: made once from the OpenAPI document, with nothing from elsewhere and
//! no script.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    http::header,
    response::{Html, IntoResponse},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::openapi::openapi_json;

const STYLE: &str = include_str!("docs/style.css");

/// This description, to be read in a browser.
#[utoipa::path(get, path = "/docs", tag = "node", operation_id = "docs", security(()),
    responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(super) async fn serve() -> impl IntoResponse {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        let document = serde_json::from_str(openapi_json()).expect("the description is JSON");
        Page { document: &document, html: String::new() }.render()
    });
    /// Nothing is loaded or run but the one style, known by its hash.
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    });
    (
        [(header::CONTENT_SECURITY_POLICY, POLICY.as_str()), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")],
        Html(PAGE.as_str()),
    )
}

/// The page, as far as it is written.
struct Page<'a> {
    document: &'a Value,
    html: String,
}

/// A call, with where it is.
struct Call<'a> {
    method: &'a str,
    path: &'a str,
    operation: &'a Value,
}

impl Call<'_> {
    fn id(&self) -> &str {
        text(&self.operation["operationId"])
    }
}

impl<'a> Page<'a> {
    fn render(mut self) -> String {
        let info = &self.document["info"];
        let title = escape(text(&info["title"]));
        self.add(format_args!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
             <title>{title} API</title><style>{STYLE}</style><nav><a href='#top'><b>{title} API</b></a>"
        ));
        self.contents();
        self.add(format_args!(
            "</nav><main><h1 id=top>{title} API <small>{}</small></h1>",
            escape(text(&info["version"]))
        ));
        self.prose(&info["description"]);
        self.add(format_args!(
            "<p>Send a token with each call but those that say otherwise: <code>Authorization: Bearer TOKEN</code>. The same \
             for programs: <a href='/openapi.json'>openapi.json</a>.</p>"
        ));
        for tag in items(&self.document["tags"]) {
            let name = text(&tag["name"]);
            self.add(format_args!("<h2 id='{0}'>{0}</h2>", escape(name)));
            self.prose(&tag["description"]);
            for call in self.calls(name) {
                self.call(&call);
            }
        }
        self.add(format_args!("<h2 id=schemas>schemas</h2>"));
        for (name, schema) in members(&self.document["components"]["schemas"]) {
            self.schema(name, schema);
        }
        self.add(format_args!("</main></html>\n"));
        self.html
    }

    fn add(&mut self, html: std::fmt::Arguments<'_>) {
        self.html.write_fmt(html).expect("a string takes everything");
    }

    /// A description: paragraphs, with words in backticks.
    fn prose(&mut self, description: &Value) {
        for paragraph in text(description).split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
            self.add(format_args!("<p>{}</p>", with_code(paragraph)));
        }
    }

    fn contents(&mut self) {
        for tag in items(&self.document["tags"]) {
            let name = text(&tag["name"]);
            self.add(format_args!("<a href='#{0}'><b>{0}</b></a>", escape(name)));
            for call in self.calls(name) {
                let summary = escape(text(&call.operation["summary"]).trim_end_matches('.'));
                self.add(format_args!("<a href='#{}'>{summary}</a>", escape(call.id())));
            }
        }
        self.add(format_args!("<a href='#schemas'><b>schemas</b></a>"));
    }

    fn call(&mut self, call: &Call<'_>) {
        let operation = call.operation;
        self.add(format_args!(
            "<article id='{}'><h3><a href='#{0}'><span class={1}>{1}</span> <code>{2}</code></a></h3>",
            escape(call.id()),
            escape(call.method),
            escape(call.path),
        ));
        let (summary, description) = (&operation["summary"], &operation["description"]);
        self.prose(summary);
        self.prose(description);
        if operation["security"].is_array() {
            self.add(format_args!("<p>Needs no token.</p>"));
        }
        if operation["parameters"].is_array() {
            self.parameters(&operation["parameters"]);
        }
        for (content_type, content) in members(&operation["requestBody"]["content"]) {
            let kind = kind(&content["schema"]);
            self.add(format_args!("<p>The body: <code>{}</code>, {kind}</p>", escape(content_type)));
            if let Some(example) = self.example(content) {
                self.add(format_args!("<pre>{}</pre>", escape(&example)));
            }
        }
        self.add(format_args!("<table><tr><th>answer<th>body<th></tr>"));
        for (status, response) in members(&operation["responses"]) {
            let response = self.resolve(response);
            let kinds: Vec<_> = members(&response["content"]).map(|(_, content)| kind(&content["schema"])).collect();
            let meaning = with_code(text(&response["description"]));
            self.add(format_args!("<tr><td>{}<td>{}<td>{meaning}</tr>", escape(status), kinds.join(", ")));
        }
        self.add(format_args!("</table></article>"));
    }

    fn parameters(&mut self, parameters: &Value) {
        self.add(format_args!("<table><tr><th>parameter<th>in<th>type<th></tr>"));
        for parameter in items(parameters) {
            let required = if parameter["required"] == true { " <i>required</i>" } else { "" };
            let name = escape(text(&parameter["name"]));
            let (place, kind) = (escape(text(&parameter["in"])), kind(&parameter["schema"]));
            let meaning = with_code(text(&parameter["description"]));
            self.add(format_args!("<tr><td><code>{name}</code>{required}<td>{place}<td>{kind}<td>{meaning}</tr>"));
        }
        self.add(format_args!("</table>"));
    }

    fn schema(&mut self, name: &str, schema: &Value) {
        self.add(format_args!("<article id='schema-{0}'><h3><code>{0}</code></h3>", escape(name)));
        self.prose(&schema["description"]);
        let required: Vec<_> = items(&schema["required"]).map(text).collect();
        if schema["properties"].is_object() {
            self.add(format_args!("<table><tr><th>field<th>type<th></tr>"));
            for (field, of_field) in members(&schema["properties"]) {
                let is_required = if required.contains(&field) { " <i>required</i>" } else { "" };
                let (kind, meaning) = (kind(of_field), with_code(text(&of_field["description"])));
                let field = escape(field);
                self.add(format_args!("<tr><td><code>{field}</code>{is_required}<td>{kind}<td>{meaning}</tr>"));
            }
            self.add(format_args!("</table>"));
        } else {
            self.add(format_args!("<p>{}</p>", kind(schema)));
        }
        self.add(format_args!("</article>"));
    }

    fn calls(&self, tag: &str) -> Vec<Call<'a>> {
        let all = members(&self.document["paths"])
            .flat_map(|(path, item)| members(item).map(move |(method, operation)| Call { method, path, operation }));
        all.filter(|call| items(&call.operation["tags"]).any(|of_call| of_call == tag)).collect()
    }

    fn example(&self, content: &Value) -> Option<String> {
        let own = &content["example"];
        let example = if own.is_null() { &self.resolve(&content["schema"])["example"] } else { own };
        match example {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            example => serde_json::to_string_pretty(example).ok(),
        }
    }

    /// What a reference leads to; what is none, itself.
    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(value)
    }
}

/// The type that a schema stands for, in a few words, with links to other schemas.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("<a href='#schema-{0}'>{0}</a>", escape(name));
    }
    let choices: Vec<_> = items(&schema["oneOf"]).map(kind).collect();
    if !choices.is_empty() {
        return choices.join(" or ");
    }
    let word = |word: &Value| word.as_str().map_or_else(|| word.to_string(), escape);
    let words: Vec<_> = items(&schema["enum"]).map(|one| format!("<code>{}</code>", word(one))).collect();
    if !words.is_empty() {
        return words.join(" ");
    }
    if schema["type"] == "array" {
        return format!("array of {}", kind(&schema["items"]));
    }
    let mut kind = match &schema["type"] {
        Value::String(one) => escape(one),
        Value::Array(several) => several.iter().map(|one| escape(text(one))).collect::<Vec<_>>().join(" or "),
        _ => "any JSON".into(),
    };
    if let Some(format) = schema["format"].as_str().filter(|format| !format.contains("int") && *format != "double") {
        let _ = write!(kind, " ({})", escape(format));
    }
    for (limit, sign) in [("minimum", "≥"), ("maximum", "≤"), ("minLength", "length ≥"), ("maxLength", "length ≤")]
    {
        if let Some(limit) = schema[limit].as_u64().filter(|limit| *limit > 0) {
            let _ = write!(kind, ", {sign} {limit}");
        }
    }
    kind
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn escape(text: &str) -> String {
    let entities = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&quot;")];
    entities.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Shows what stands in backticks as code.
fn with_code(text: &str) -> String {
    let parts = escape(text);
    let parts = parts.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part.into() }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_description_says_is_shown_and_not_run() {
        assert_eq!(with_code("`<b>` & 'so on'"), "<code>&lt;b&gt;</code> &amp; &#39;so on&#39;");
    }

    #[test]
    fn a_type_is_told_in_a_few_words() {
        for (schema, told) in [
            (json!({}), "any JSON"),
            (json!({"type": ["string", "null"], "format": "uuid"}), "string or null (uuid)"),
            (json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 100}), "integer, ≥ 1, ≤ 100"),
            (json!({"type": "array", "items": {"$ref": "#/a/B"}}), "array of <a href='#schema-B'>B</a>"),
            (json!({"oneOf": [{"enum": ["x"]}, {"type": "null"}]}), "<code>x</code> or null"),
            (json!({"enum": ["x", null]}), "<code>x</code> <code>null</code>"),
        ] {
            assert_eq!(kind(&schema), told);
        }
    }
}
