//! What a file says of whom to tell: it is compared field by field, and set as a whole.

use serde_json::{Value, json};

use super::{
    super::client::Client,
    difference::{Changed, difference, items},
    shape::ALERTING,
};

/// What is to change to make what is there what is wanted, and which state is there.
pub(super) async fn changes(client: &Client, wanted: &Value) -> anyhow::Result<(Vec<Changed>, Option<String>)> {
    let answer = client.get(&["alerting"]).await?;
    let shown: Value = answer.read()?;
    let different = different_secrets(client, wanted, &shown).await?;
    let changes = difference(ALERTING, "", wanted, &shown, &|path| different.iter().any(|field| field == path));
    Ok((changes, answer.etag().map(ToOwned::to_owned)))
}

/// All of it, as the API takes it: there, null leaves a key as it is, and an empty one is none.
pub(super) fn request(wanted: &Value) -> Value {
    let mut request = wanted.clone();
    for webhook in request["webhooks"].as_array_mut().into_iter().flatten() {
        if webhook.get("secret").is_some_and(Value::is_null) {
            webhook["secret"] = "".into();
        }
    }
    request
}

/// The paths of those secrets that are others than those that the server has.
async fn different_secrets(client: &Client, wanted: &Value, shown: &Value) -> anyhow::Result<Vec<String>> {
    let is_there = |webhook: &&Value| items(&shown["webhooks"]).iter().any(|other| other["name"] == webhook["name"]);
    let asked: Vec<&Value> = items(&wanted["webhooks"]).iter().filter(is_there).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let secrets =
        |webhook: &&Value| json!({"name": webhook["name"], "url": webhook["url"], "secret": webhook["secret"]});
    let request = json!({"webhooks": asked.iter().map(secrets).collect::<Vec<_>>()});
    let answer: Value = client.post_json(&["alerting", "compare-secrets"], &request).await?.read()?;
    let mut paths = Vec::new();
    for (number, webhook) in asked.iter().enumerate() {
        for field in ["url", "secret"] {
            if items(&answer["different"]).contains(&format!("webhooks[{number}].{field}").into()) {
                paths.push(format!("webhooks.{}.{field}", webhook["name"].as_str().unwrap_or_default()));
            }
        }
    }
    Ok(paths)
}
