//! `sequin consumer update` and `rewind`: what is given changes, and everything else stays.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    super::{WrongUsage, connection::parse_metadata, target::given},
    UnsupportedText,
};

#[derive(Args)]
pub(in super::super) struct UpdateArguments {
    /// The consumer's name or id.
    consumer: String,
    /// What to call it from now on.
    #[arg(long)]
    name: Option<String>,
    /// Forward all syncs of this provider, new ones included. What that adds is backfilled; rows that are there stay.
    #[arg(long, conflicts_with = "sync")]
    provider: Option<String>,
    /// Forward this sync.
    #[arg(long, value_name = "UUID")]
    sync: Option<uuid::Uuid>,
    /// The schema of the table to write to.
    #[arg(long)]
    schema: Option<String>,
    /// The table to write to.
    #[arg(long)]
    table: Option<String>,
    /// What to do with text that Postgres can't hold: set the record aside, or write U+FFFD in its place.
    #[arg(long, value_enum)]
    unsupported_text: Option<UnsupportedText>,
    /// How old the oldest record that is not in the table may be before the consumer counts as unhealthy.
    #[arg(long, value_name = "N")]
    lag_threshold_seconds: Option<u32>,
    /// How many records may wait before the consumer counts as unhealthy too; `none` for any number.
    #[arg(long, value_name = "N", value_parser = parse_threshold)]
    lag_threshold_records: Option<Threshold>,
    /// Notes of yours, a JSON object; it takes the place of those that are there.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Map<String, Value>>,
}

impl UpdateArguments {
    pub(super) fn consumer(&self) -> &str {
        &self.consumer
    }

    /// What is to change.
    pub(super) fn request(&self) -> anyhow::Result<Value> {
        let unsupported_text = self.unsupported_text.and_then(|choice| choice.to_possible_value());
        let request = given([
            ("name", json!(self.name)),
            ("filter", given([("provider", json!(self.provider)), ("sync", json!(self.sync))])),
            ("schema", json!(self.schema)),
            ("table", json!(self.table)),
            ("unsupported_text", json!(unsupported_text.as_ref().map(clap::builder::PossibleValue::get_name))),
            ("lag_threshold_seconds", json!(self.lag_threshold_seconds)),
            ("metadata", json!(self.metadata)),
        ]);
        let request = with_threshold(request, self.lag_threshold_records);
        if request.is_null() {
            return Err(WrongUsage("give what to change: `sequin consumer update --help` lists it".into()).into());
        }
        Ok(request)
    }
}

/// How many records may wait, or any number.
#[derive(Clone, Copy)]
struct Threshold(Option<u64>);

fn parse_threshold(text: &str) -> Result<Threshold, String> {
    match text {
        "none" => Ok(Threshold(None)),
        number => number.parse().map(|number| Threshold(Some(number))).map_err(|_| "takes a number, or none".into()),
    }
}

/// Adds the threshold, if one is given: `none` is null in the request.
fn with_threshold(mut request: Value, threshold: Option<Threshold>) -> Value {
    if let Some(Threshold(records)) = threshold {
        request["lag_threshold_records"] = records.into();
    }
    request
}

#[derive(Args)]
pub(in super::super) struct RewindArguments {
    /// The consumer's name or id.
    consumer: String,
    /// The `updated_idx` after which to read again; 0 is the beginning.
    #[arg(long, value_name = "IDX", default_value_t = 0)]
    to: u64,
}

impl RewindArguments {
    pub(super) fn consumer(&self) -> &str {
        &self.consumer
    }

    pub(super) fn request(&self) -> Value {
        json!({"to": self.to})
    }
}
