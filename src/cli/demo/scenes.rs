//! What comes before it is live: publish, set up, backfill, look at the rows.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use super::{DemoArguments, Stage, heading, say};
use crate::{
    cli::{
        answers::{Check, Consumer, List, Provider, Sql, Sync, Verification},
        figures,
        progress::{Progress, Unit},
        publish::{Lines, Publisher, Sending, Summary, open},
        table::{Column, Table},
        target,
    },
    demo::{
        crm::{Crm, PROVIDER},
        customer::{Customer, create_leads_view},
    },
};

/// The names that the demo gives.
const TARGET: &str = "app";
pub(super) const CONSUMER: &str = "crm-to-app";

/// The CRM is the same at every demo.
const SEED: u64 = 7376;

/// How often the backfill is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the live part goes on with.
pub(super) struct Scene {
    /// The CRM that goes on changing; none if the records are somebody's own.
    pub(super) crm: Option<Crm>,
    pub(super) provider: String,
    /// The table's name with its schema.
    pub(super) table: String,
}

/// Plays all of it.
pub(super) async fn prepare(stage: &Stage, arguments: &DemoArguments) -> anyhow::Result<Scene> {
    heading("Publish")?;
    let (crm, provider) = match &arguments.file {
        None => (Some(publish_crm(stage, arguments).await?), PROVIDER.to_owned()),
        Some(file) => (None, publish_file(stage, file).await?),
    };
    let table = if provider == PROVIDER { PROVIDER } else { "records" };
    let scene = Scene { crm, provider, table: format!("{}.{table}", stage.schema) };
    let customer = Customer::connect(&stage.owner).await?;
    heading("Set up, as the customer does")?;
    set_up(stage, &scene, table, &customer).await?;
    heading("Backfill")?;
    let expected = expected(stage, &scene).await?;
    backfill(stage, &expected).await?;
    let rows = customer.count(&scene.table).await?;
    ensure!(rows == expected.rows, "count(*) of {} is {rows}, but there are {} records", scene.table, expected.rows);
    say(format_args!("count(*) of {} is {}: every record, and no other", scene.table, figures::count(rows)))?;
    look(stage, &scene, &customer).await?;
    Ok(scene)
}

async fn publish_crm(stage: &Stage, arguments: &DemoArguments) -> anyhow::Result<Crm> {
    let DemoArguments { records, syncs, .. } = *arguments;
    let mut crm = Crm::new(SEED, syncs);
    let mut progress = Progress::new("publishing", Unit::Records, Some(records));
    let mut publisher = Publisher::new(&stage.client, Sending::LOCAL, &mut progress);
    for line in crm.backfill(records) {
        publisher.line(line.as_bytes()).await?;
    }
    let summary = publisher.finish().await?;
    drop(progress);
    tell_published(&summary, &format!(" of {}", figures::counted(syncs.into(), &format!("{PROVIDER} sync"))))?;
    Ok(crm)
}

/// What of the first record counts.
#[derive(Deserialize)]
struct First {
    provider: String,
}

/// Publishes a file, and tells whose records they are.
async fn publish_file(stage: &Stage, file: &std::path::PathBuf) -> anyhow::Result<String> {
    let (reader, size) = open(file)?;
    let mut first: Option<Vec<u8>> = None;
    let mut progress = Progress::new("publishing", Unit::Bytes, size);
    let mut publisher = Publisher::new(&stage.client, Sending::LOCAL, &mut progress);
    for line in Lines::of(reader) {
        let line = line.with_context(|| format!("reading {}", file.display()))?;
        publisher.line(&line).await?;
        if first.is_none() && !line.trim_ascii().is_empty() {
            first = Some(line);
        }
    }
    let summary = publisher.finish().await?;
    drop(progress);
    tell_published(&summary, "")?;
    let first = first.with_context(|| format!("{} holds no records", file.display()))?;
    let First { provider } = serde_json::from_slice(&first).context("reading the first record")?;
    let providers: Vec<Provider> = stage.client.list(&["providers"], &[]).await?.read::<List<_>>()?.data;
    if providers.len() > 1 {
        let names: Vec<_> = providers.iter().map(|provider| provider.name.as_str()).collect();
        say(format_args!("of the providers {}, the first record's is forwarded: {provider}", names.join(", ")))?;
    }
    Ok(provider)
}

fn tell_published(summary: &Summary, of: &str) -> anyhow::Result<()> {
    let (records, took) = (figures::counted(summary.accepted, "record"), figures::span(summary.took));
    say(format_args!("{records}{of} in {took}, {}", figures::rate(summary.per_second())))
}

async fn set_up(stage: &Stage, scene: &Scene, table: &str, customer: &Customer) -> anyhow::Result<()> {
    let (client, schema, user) = (&stage.client, stage.schema, &stage.sequin.username);
    if stage.is_ours() {
        say(format_args!("user      {user} is made, with the documented grants on schema {schema}"))?;
    }
    client.post_json(&["targets"], &target::request(TARGET, &stage.sequin, None)).await?;
    let check: Check = client.post(&["targets", TARGET, "check"]).await?.read()?;
    if let Some(reason) = check.reason {
        bail!("{reason}");
    }
    let latency = figures::seconds(check.latency_ms.unwrap_or_default() / 1000.0);
    say(format_args!("target    {TARGET} is added, as user {user}; it answers in {latency}"))?;
    let consumer = json!({
        "name": CONSUMER, "target": TARGET, "filter": {"provider": scene.provider}, "schema": schema, "table": table,
    });
    client.post_json(&["consumers"], &consumer).await?;
    say(format_args!("consumer  {CONSUMER} is added, for all syncs of {}", scene.provider))?;
    let Sql { sql } = client.get(&["consumers", CONSUMER, "create-table-sql"]).await?.read()?;
    customer.run(&sql).await?;
    let verification: Verification = client.post(&["consumers", CONSUMER, "verify"]).await?.read()?;
    if !verification.ok {
        let findings: Vec<_> = verification.findings.iter().map(ToString::to_string).collect();
        bail!("table {} is not as it should be\n{}", scene.table, findings.join("\n"));
    }
    say(format_args!("table     {} is created with Sequin's statement, and verified", scene.table))
}

/// Starts the consumer, and waits until it is live.
async fn backfill(stage: &Stage, expected: &Expected) -> anyhow::Result<()> {
    stage.client.post(&["consumers", CONSUMER, "start"]).await?;
    let mut progress = Progress::new("backfilling", Unit::Records, Some(expected.rows));
    let backfill = loop {
        let consumer = consumer(stage).await?;
        if consumer.state == "halted" {
            let reasons: Vec<_> = consumer.health.reasons.iter().map(ToString::to_string).collect();
            bail!("the consumer halted\n{}", reasons.join("\n"));
        }
        progress.remark(consumer.health.reasons.first().map_or("", |reason| &reason.summary));
        if let Some(backfill) = &consumer.backfill {
            // Tombstones count, too.
            progress.end_at(backfill.total);
            progress.reach(backfill.done);
            if backfill.finished_at.is_some() && consumer.has_caught_up_with(expected.idx) {
                break backfill.clone();
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    drop(progress);
    let times = backfill.started_at.zip(backfill.finished_at);
    let took = times.and_then(|(start, end)| (end - start).to_std().ok()).unwrap_or_default();
    let rate = figures::rate(figures::rate_of(backfill.total, took));
    say(format_args!("{} in {}, {rate}", figures::counted(backfill.total, "record"), figures::span(took)))
}

pub(super) async fn consumer(stage: &Stage) -> anyhow::Result<Consumer> {
    Ok(stage.client.get(&["consumers", CONSUMER]).await?.read()?)
}

/// What is to be in the table.
pub(super) struct Expected {
    pub(super) rows: u64,
    /// The position of the last version.
    pub(super) idx: u64,
}

/// What is to be in the table by now: as many records as the CRM has, or, of somebody's own, the stream.
pub(super) async fn expected(stage: &Stage, scene: &Scene) -> anyhow::Result<Expected> {
    let syncs = stage.client.list(&["syncs"], &[("provider", &scene.provider)]).await?;
    let syncs = syncs.read::<List<Sync>>()?.data;
    let rows = match &scene.crm {
        Some(crm) => u64::try_from(crm.live_records())?,
        None => syncs.iter().map(|sync| sync.records).sum(),
    };
    Ok(Expected { rows, idx: syncs.iter().map(|sync| sync.last_updated_idx).max().unwrap_or_default() })
}

/// Looks at the rows: by a view where they are of the kind that it is for, otherwise by their collections.
async fn look(stage: &Stage, scene: &Scene, customer: &Customer) -> anyhow::Result<()> {
    if scene.provider == PROVIDER {
        heading("A view")?;
        look_at_leads(stage, scene, customer).await?;
    } else {
        heading("What is there")?;
        let mut table = Table::new([Column::Left("collection_id"), Column::Right("rows")]);
        for (collection, rows) in customer.collections(&scene.table).await? {
            table.row([collection, figures::count(rows)]);
        }
        say(table)?;
    }
    heading("Look around")?;
    say(format_args!("psql '{}'", stage.look_around))?;
    if scene.provider == PROVIDER {
        say(format_args!("select * from {}.hubspot_leads limit 5;", stage.view_schema))?;
    }
    say(format_args!("select collection_id, count(*), max(updated_at) from {} group by 1;", scene.table))?;
    let program = std::env::current_exe().map_or("sequin".into(), |path| path.display().to_string());
    let (url, token) = (&stage.url, stage.token_file());
    say(format_args!("SEQUIN_URL={url} SEQUIN_TOKEN=$(cat {token}) {program} status --watch"))
}

async fn look_at_leads(stage: &Stage, scene: &Scene, customer: &Customer) -> anyhow::Result<()> {
    let view = format!("{}.hubspot_leads", stage.view_schema);
    // In the CRM, companies have a stage too.
    let only = if scene.crm.is_some() { "collection_id = 'contact'\n    and " } else { "" };
    let sql = create_leads_view(&view, &scene.table, only);
    customer.run(&sql).await?;
    say(&sql)?;
    let leads = figures::counted(customer.count(&view).await?, "lead");
    say(format_args!("\nselect count(*) from {view}: {leads}, of which the newest are"))?;
    let leads = match customer.leads(&view, 3).await {
        Ok(leads) => leads,
        // Somebody's own records may hold anything in the place of a time.
        Err(error) if scene.crm.is_none() => return say(format_args!("(they can't be shown: {error})")),
        Err(error) => return Err(error.into()),
    };
    let mut table =
        Table::new([Column::Left("upstream_id"), Column::Left("hubspot_owner_id"), Column::Left("createdate")]);
    for lead in leads {
        table.row([lead.upstream_id, lead.owner_id.unwrap_or_default(), lead.created_at.unwrap_or_default()]);
    }
    say(table)
}
