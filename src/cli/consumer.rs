//! `sequin consumer …`: what is forwarded, and to which table.

mod table;
mod update;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    FAILED,
    answers::{Consumer, List, Verification},
    client::{Answer, Client},
    figures,
    output::{Output, note, print},
    problem::indented,
    table::{Column, Table},
    target::print_sql,
    watch::{Look, Shown, Thing, Watch},
};

#[derive(Subcommand)]
pub(super) enum ConsumerCommand {
    /// Add a consumer: a draft, which forwards nothing before it is started.
    Add(Box<AddArguments>),
    /// List the consumers.
    List(ListArguments),
    /// Show a consumer.
    #[command(visible_alias = "show")]
    Get(GetArguments),
    /// Change a consumer: what is not given stays as it is.
    Update(Box<update::UpdateArguments>),
    /// Make the consumer's table, where Sequin's user has the rights to.
    CreateTable(Which),
    /// Print the SQL that makes the consumer's table.
    CreateTableSql(Which),
    /// Compare the table with what it should be.
    Verify(Which),
    /// Verify the table, and start to forward.
    Start(Which),
    /// Stop forwarding, until it is resumed.
    Pause(Which),
    /// Forward again, from where it stopped.
    Resume(Which),
    /// Read the stream again, from its beginning or from a position on; rows that are newer stay.
    Rewind(update::RewindArguments),
    /// Print SQL that makes views of the table: one for each collection, with a column for each key of the payloads.
    Views(table::ViewsArguments),
    /// Remove the consumer; its table stays as it is.
    Delete(Which),
}

#[derive(Args)]
pub(super) struct Which {
    /// The consumer's name or id.
    consumer: String,
}

#[derive(Args)]
pub(super) struct AddArguments {
    /// What to call it.
    name: String,
    /// The database to write to, by name or id.
    #[arg(long)]
    target: String,
    #[command(flatten)]
    filter: FilterArguments,
    /// The schema of the table to write to.
    #[arg(long)]
    schema: String,
    /// The table to write to.
    #[arg(long)]
    table: String,
    /// What to do with text that Postgres can't hold: set the record aside, or write U+FFFD in its place.
    #[arg(long, value_enum)]
    unsupported_text: Option<UnsupportedText>,
    /// How old the oldest record that is not in the table may be before the consumer counts as unhealthy.
    #[arg(long, value_name = "N")]
    lag_threshold_seconds: Option<u32>,
    /// How many records may wait before the consumer counts as unhealthy too; any number, when it is not said.
    #[arg(long, value_name = "N")]
    lag_threshold_records: Option<u64>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct FilterArguments {
    /// Forward all syncs of this provider, new ones included.
    #[arg(long)]
    provider: Option<String>,
    /// Forward this sync.
    #[arg(long, value_name = "UUID")]
    sync: Option<uuid::Uuid>,
}

#[derive(Clone, Copy, ValueEnum)]
enum UnsupportedText {
    Quarantine,
    Replace,
}

#[derive(Args)]
pub(super) struct GetArguments {
    /// The consumer's name or id.
    consumer: String,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    watch: Watch,
    /// Those that write to this database only.
    #[arg(long)]
    target: Option<String>,
    /// Those that forward this provider only.
    #[arg(long)]
    provider: Option<String>,
    /// Those that forward this sync only.
    #[arg(long, value_name = "UUID")]
    sync: Option<String>,
    /// Those in this state only, such as `live`.
    #[arg(long)]
    state: Option<String>,
}

pub(super) async fn run(client: &Client, output: Output, command: ConsumerCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConsumerCommand::Add(arguments) => {
            let answer = client.post_json(&["consumers"], &request(&arguments)).await?;
            let name = &arguments.name;
            note(format_args!("consumer {name} is added; `sequin consumer create-table-sql {name}` prints its table"));
            show(output, &answer)?;
        }
        ConsumerCommand::List(arguments) => return list(client, output, &arguments).await,
        ConsumerCommand::Get(arguments) => return get(client, output, &arguments).await,
        ConsumerCommand::Update(arguments) => {
            let answer = client.patch_json(&["consumers", arguments.consumer()], &arguments.request()?).await?;
            note(format_args!("consumer {} is changed", arguments.consumer()));
            show(output, &answer)?;
        }
        ConsumerCommand::CreateTable(Which { consumer }) => table::create(client, output, &consumer).await?,
        ConsumerCommand::CreateTableSql(Which { consumer }) => {
            print_sql(output, &client.get(&["consumers", &consumer, "create-table-sql"]).await?)?;
        }
        ConsumerCommand::Verify(Which { consumer }) => {
            return verified(output, &client.post(&["consumers", &consumer, "verify"]).await?);
        }
        ConsumerCommand::Start(which) => tell(client, output, &which.consumer, "start", "is started").await?,
        ConsumerCommand::Pause(which) => tell(client, output, &which.consumer, "pause", "is paused").await?,
        ConsumerCommand::Resume(which) => tell(client, output, &which.consumer, "resume", "is resumed").await?,
        ConsumerCommand::Rewind(arguments) => {
            let path = ["consumers", arguments.consumer(), "rewind"];
            let answer = client.post_json(&path, &arguments.request()).await?;
            note(format_args!("consumer {} reads again", arguments.consumer()));
            show(output, &answer)?;
        }
        ConsumerCommand::Views(arguments) => table::views(client, output, &arguments).await?,
        ConsumerCommand::Delete(Which { consumer }) => {
            client.delete(&["consumers", &consumer]).await?;
            note(format_args!("consumer {consumer} is deleted; its table is as it was"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn request(arguments: &AddArguments) -> Value {
    let filter = match &arguments.filter {
        FilterArguments { sync: Some(sync), .. } => json!({ "sync": sync }),
        FilterArguments { provider, .. } => json!({ "provider": provider }),
    };
    let AddArguments { name, target, schema, table, .. } = arguments;
    let mut request = json!({"name": name, "target": target, "filter": filter, "schema": schema, "table": table});
    if let Some(choice) = arguments.unsupported_text.and_then(|choice| choice.to_possible_value()) {
        request["unsupported_text"] = choice.get_name().into();
    }
    if let Some(seconds) = arguments.lag_threshold_seconds {
        request["lag_threshold_seconds"] = seconds.into();
    }
    if let Some(records) = arguments.lag_threshold_records {
        request["lag_threshold_records"] = records.into();
    }
    request
}

impl ListArguments {
    fn parameters(&self) -> Vec<(&'static str, &str)> {
        let all =
            [("target", &self.target), ("provider", &self.provider), ("sync", &self.sync), ("state", &self.state)];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

/// Asks a consumer for something, and shows it afterwards.
async fn tell(client: &Client, output: Output, consumer: &str, verb: &str, done: &str) -> anyhow::Result<()> {
    let answer = client.post(&["consumers", consumer, verb]).await?;
    note(format_args!("consumer {consumer} {done}"));
    show(output, &answer)
}

async fn list(client: &Client, output: Output, arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let parameters = arguments.parameters();
    if arguments.watch.watch {
        let look = async || {
            let shown = client.list(&["consumers"], &parameters).await?.read::<List<Shown<Consumer>>>()?.data;
            let page = table(shown.iter().map(|shown| &shown.resource)).to_string();
            Ok(Look { page, things: shown.iter().map(thing).collect(), is_all: true })
        };
        return arguments.watch.run(output, look).await;
    }
    let answer = client.list(&["consumers"], &parameters).await?;
    match output {
        Output::Json => print(answer.text())?,
        Output::Table => print(table(&answer.read::<List<Consumer>>()?.data))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(client: &Client, output: Output, arguments: &GetArguments) -> anyhow::Result<ExitCode> {
    let path = ["consumers", &arguments.consumer];
    if arguments.watch.watch {
        let look = async || {
            let shown: Shown<Consumer> = client.get(&path).await?.read()?;
            Ok(Look { page: page(&shown.resource), things: vec![thing(&shown)], is_all: true })
        };
        return arguments.watch.run(output, look).await;
    }
    show(output, &client.get(&path).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// A consumer, to be watched.
pub(super) fn thing(shown: &Shown<Consumer>) -> Thing {
    let consumer = &shown.resource;
    let mut facts = vec![consumer.state.clone(), consumer.health.status.clone()];
    if let Some(backfill) = consumer.backfill.as_ref().filter(|_| consumer.state == "backfilling") {
        facts.push(format!("{} of the backfill", figures::percent(backfill.done, backfill.total)));
    }
    if let Some(lag) = consumer.lag {
        facts.push(format!("lag {}", figures::counted(lag.records, "record")));
    }
    if consumer.quarantined > 0 {
        facts.push(format!("{} quarantined", figures::count(consumer.quarantined)));
    }
    facts.extend(consumer.health.reasons.iter().map(|reason| reason.summary.clone()));
    Thing::of(format!("consumer {}", consumer.name), facts.join(", "), &shown.json)
}

/// The consumers, a line each.
pub(super) fn table<'a>(consumers: impl IntoIterator<Item = &'a Consumer>) -> Table {
    let mut table = Table::new([
        Column::Left("consumer"),
        Column::Left("state"),
        Column::Left("health"),
        Column::Right("backfill"),
        Column::Right("lag"),
        Column::Right("rate"),
        Column::Right("quarantined"),
        Column::Left("from"),
        Column::Left("to"),
    ]);
    for consumer in consumers {
        table.row([
            consumer.name.clone(),
            consumer.state.clone(),
            consumer.health.status.clone(),
            consumer.backfill.as_ref().map_or("-".into(), |backfill| figures::percent(backfill.done, backfill.total)),
            consumer.lag.map_or("-".into(), |lag| figures::count(lag.records)),
            consumer.rate.map_or("-".into(), |rate| figures::rate(rate.records_per_second)),
            figures::count(consumer.quarantined),
            consumer.filter.to_string(),
            format!("{} {}", consumer.target_name(), consumer.table_name()),
        ]);
    }
    table
}

/// Shows the consumer that is the answer.
pub(super) fn show(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    print(page(&answer.read()?))
}

/// A consumer, for people.
fn page(consumer: &Consumer) -> String {
    let mut facts = Table::of_facts();
    facts.fact("consumer", &consumer.name);
    facts.fact("id", &consumer.id);
    facts.fact("forwards", &consumer.filter);
    facts.fact("to", format_args!("{} of target {}", consumer.table_name(), consumer.target_name()));
    facts.fact("state", &consumer.state);
    facts.fact("health", &consumer.health.status);
    if let Some(backfill) = &consumer.backfill {
        let (done, total) = (figures::count(backfill.done), figures::counted(backfill.total, "record"));
        let left = backfill.eta_seconds.filter(|_| backfill.finished_at.is_none());
        let left = left.map(|eta| format!(", {} left", figures::seconds(eta))).unwrap_or_default();
        facts.fact("backfill", format_args!("{done} of {total}{left}"));
    }
    if consumer.state == "draft" {
        return facts.to_string();
    }
    if let Some(lag) = consumer.lag {
        let age = lag.seconds.filter(|_| lag.records > 0);
        let age = age.map(|age| format!(", the oldest {} old", figures::seconds(age))).unwrap_or_default();
        let left = lag.eta_seconds.filter(|_| lag.records > 0);
        let left = left.map(|eta| format!(", none in about {}", figures::seconds(eta))).unwrap_or_default();
        facts.fact("lag", format_args!("{}{age}{left}", figures::counted(lag.records, "record")));
    }
    if let Some(rate) = consumer.rate {
        facts.fact("rate", figures::rate(rate.records_per_second));
    }
    if let Some(applied) = consumer.applied {
        let (upserts, deletes) =
            (figures::counted(applied.upserts, "upsert"), figures::counted(applied.deletes, "delete"));
        let replaced = Some(consumer.replaced_text).filter(|replaced| *replaced > 0);
        let replaced = replaced.map(|replaced| format!(", {} with text replaced", figures::count(replaced)));
        facts.fact("applied", format_args!("{upserts}, {deletes}{}", replaced.unwrap_or_default()));
    }
    if consumer.quarantined > 0 {
        let records = figures::counted(consumer.quarantined, "record");
        facts.fact("quarantined", format_args!("{records}: see `sequin quarantine list {}`", consumer.name));
    }
    let reasons = consumer.health.reasons.iter().map(|reason| indented(reason) + "\n");
    facts.to_string() + &reasons.collect::<String>()
}

fn verified(output: Output, answer: &Answer) -> anyhow::Result<ExitCode> {
    let verification: Verification = answer.read()?;
    match output {
        Output::Json => print(answer.text())?,
        Output::Table => {
            verification.findings.iter().try_for_each(print)?;
            print(if verification.ok {
                "ok: the consumer can work with this table"
            } else {
                "the table is not ready"
            })?;
        }
    }
    Ok(ExitCode::from(if verification.ok { 0 } else { FAILED }))
}
