//! `--watch`: look again and again until Ctrl-C. A terminal is redrawn; whatever else reads gets a line a change.

use std::{collections::HashMap, io::IsTerminal, process::ExitCode, time::Duration};

use chrono::{SecondsFormat, Utc};
use clap::Args;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    client::ClientError,
    figures::parse_span,
    output::{Output, note, print},
    signals::Signals,
};

#[derive(Args, Clone, Copy)]
pub(super) struct Watch {
    /// Show it again and again, until Ctrl-C: on a terminal in its place, elsewhere a line for each change.
    #[arg(long)]
    pub(super) watch: bool,
    /// How long to wait in between.
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch", value_parser = parse_span)]
    interval: Duration,
}

/// One look.
#[derive(Default)]
pub(super) struct Look {
    /// All of it, for a terminal.
    pub(super) page: String,
    /// Each thing for itself.
    pub(super) things: Vec<Thing>,
    /// Whether there is nothing else. Otherwise the rest is not known, and is as it was.
    pub(super) is_all: bool,
}

/// One of what is watched.
pub(super) struct Thing {
    /// `consumer hubspot`
    pub(super) name: String,
    /// How it is: when this is another than before, it has changed.
    pub(super) state: String,
    /// All of it, as the API gives it.
    pub(super) json: String,
}

impl Thing {
    /// How a resource is, and all of it.
    pub(super) fn of(name: String, state: String, json: &RawValue) -> Self {
        Self { name, state, json: json.get().to_owned() }
    }
}

/// A resource, and its JSON as it came.
pub(super) struct Shown<T> {
    pub(super) resource: T,
    pub(super) json: Box<RawValue>,
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Shown<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let resource = serde_json::from_str(json.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { resource, json })
    }
}

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

impl Watch {
    /// Looks until Ctrl-C. A server that does not answer for a while is no reason to end, unless it never did.
    pub(super) async fn run(
        self,
        output: Output,
        mut look: impl AsyncFnMut() -> anyhow::Result<Look>,
    ) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let redraws = output == Output::Table && std::io::stdout().is_terminal();
        let mut before: Option<HashMap<String, String>> = None;
        let mut trouble = String::new();
        loop {
            let Some(looked) = signals.unless_asked_to_end(look()).await else { return Ok(ExitCode::SUCCESS) };
            match looked {
                Ok(look) if redraws => {
                    print(format_args!("{CLEAR}{}", look.page))?;
                    before = Some(HashMap::new());
                    trouble.clear();
                }
                Ok(look) => {
                    before = Some(tell_changes(output, look, before.unwrap_or_default())?);
                    trouble.clear();
                }
                Err(error) if before.is_some() && is_transient(&error) => {
                    let said = error.to_string();
                    if said != trouble {
                        note(format_args!("{said}"));
                        trouble = said;
                    }
                }
                Err(error) => return Err(error),
            }
            if signals.unless_asked_to_end(tokio::time::sleep(self.interval)).await.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient)
}

/// Prints what is new, other or gone since before; returns how everything is now.
fn tell_changes(
    output: Output,
    look: Look,
    mut before: HashMap<String, String>,
) -> anyhow::Result<HashMap<String, String>> {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut after = HashMap::new();
    for Thing { name, state, json } in look.things {
        if before.remove(&name).as_ref() != Some(&state) {
            match output {
                Output::Json => print(json)?,
                Output::Table => print(format_args!("{now} {name}: {state}"))?,
            }
        }
        after.insert(name, state);
    }
    if !look.is_all {
        after.extend(before);
        return Ok(after);
    }
    for gone in before.into_keys() {
        match output {
            Output::Json => print(json!({"gone": gone}))?,
            Output::Table => print(format_args!("{now} {gone}: gone"))?,
        }
    }
    Ok(after)
}
