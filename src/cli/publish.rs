//! `sequin publish`: sends the records of a file or of standard input.
//!
//! Several requests are under way at once, and the versions of a record arrive in the order in which they stand
//! (`requests`). So a run that was broken off, or of which nobody knows how it ended, is simply run again.

mod batches;
mod compression;
mod input;
mod ranges;
mod requests;
mod singer;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use sequin_actors::model::SyncId;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

pub(super) use self::{
    batches::Lines,
    input::open,
    requests::{Publisher, Sending},
};
use self::{
    compression::{Compress, Compression},
    singer::{Singer, Source, StreamKeys},
};
use super::{
    WrongUsage,
    client::Client,
    figures,
    output::{Output, note, print},
    progress::{Progress, Unit},
    table::Table,
    with_causes,
};

const EXAMPLES: &str = "\
Examples:
  sequin publish records.ndjson
  zcat records.ndjson.gz | sequin publish
  tap-github --config github.json | sequin publish --format singer --provider github --sync UUID >> state.jsonl
  tail -n 1 state.jsonl > state.json    # what the tap takes as --state next time

It is safe to publish the same again: the stream keeps the last version of each record.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PublishArguments {
    /// How the records are written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The file with the records; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How many requests are under way at once; the versions of a record arrive in order all the same.
    #[arg(long, value_name = "REQUESTS", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// How requests are compressed; `auto` is zstd, but nothing if the server is this machine.
    #[arg(long, value_enum, default_value_t)]
    compress: Compress,
    #[command(flatten)]
    singer: SingerArguments,
}

#[derive(Args)]
#[command(next_help_heading = "With --format singer")]
struct SingerArguments {
    /// The provider that the records are of.
    #[arg(long, required_if_eq("format", "singer"))]
    provider: Option<String>,
    /// The sync that the records are of, a UUID.
    #[arg(long, required_if_eq("format", "singer"))]
    sync: Option<SyncId>,
    /// Your own id of the sync.
    #[arg(long, value_name = "ID")]
    sync_external_id: Option<String>,
    /// The key of a stream whose tap gives none: its values make the `upstream_id`.
    #[arg(long = "key", value_name = "STREAM=PROPERTY[,PROPERTY]")]
    keys: Vec<StreamKeys>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A record a line, as JSON.
    #[default]
    Ndjson,
    /// What a Singer tap writes.
    Singer,
}

/// What was published.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    pub(super) accepted: u64,
    pub(super) last_updated_idx: Option<u64>,
    pub(super) took: Duration,
}

impl Summary {
    pub(super) fn per_second(&self) -> f64 {
        figures::rate_of(self.accepted, self.took)
    }
}

impl Sending {
    /// As it is done within a machine.
    pub(super) const LOCAL: Self = Self { parallel: 4, compression: Compression::None };
}

pub(super) async fn run(client: &Client, output: Output, arguments: PublishArguments) -> anyhow::Result<ExitCode> {
    let PublishArguments { format, file, parallel, compress, singer } = arguments;
    let singer = singer.source(format)?.map(Singer::new);
    let sending = Sending { parallel: parallel.into(), compression: compress.for_server(client.is_local()) };
    let (reader, size) = open(&file)?;
    let mut progress = Progress::new("publishing", Unit::Bytes, size).quiet_elsewhere();
    let publisher = Publisher::new(client, sending, &mut progress);
    let published = publish(publisher, input::chunks(reader), singer).await;
    drop(progress);
    let summary = published?;
    match format {
        Format::Ndjson => tell(&summary, output)?,
        // Standard output is the states' alone.
        Format::Singer => {
            let (took, rate) = (figures::span(summary.took), figures::rate(summary.per_second()));
            note(format_args!("{} in {took}, {rate}", figures::counted(summary.accepted, "record")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl SingerArguments {
    /// `None` if the records come as they are.
    fn source(self, format: Format) -> anyhow::Result<Option<Source>> {
        let Self { provider, sync, sync_external_id, keys } = self;
        match (format, provider, sync) {
            (Format::Singer, Some(provider), Some(sync)) => Ok(Some(Source { provider, sync, sync_external_id, keys })),
            (Format::Ndjson, None, None) if sync_external_id.is_none() && keys.is_empty() => Ok(None),
            _ => {
                let what = "--provider, --sync, --sync-external-id and --key go with --format singer: \
                            records of NDJSON say themselves what they are of";
                Err(WrongUsage(what.into()).into())
            }
        }
    }
}

fn tell(summary: &Summary, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            let Summary { accepted, last_updated_idx, took } = *summary;
            let (seconds, rate) = (took.as_secs_f64(), summary.per_second().round());
            print(json!({"accepted": accepted, "last_updated_idx": last_updated_idx,
                         "seconds": seconds, "records_per_second": rate}))
        }
        Output::Table => {
            let mut facts = Table::of_facts();
            facts.fact("accepted", figures::counted(summary.accepted, "record"));
            facts.fact("last updated_idx", summary.last_updated_idx.map_or("-".into(), |idx| idx.to_string()));
            let (took, rate) = (figures::span(summary.took), figures::rate(summary.per_second()));
            facts.fact("took", format_args!("{took}, {rate}"));
            print(facts)
        }
    }
}

/// Publishes everything; what comes before a line that can't be read is published, and nothing after it.
async fn publish(
    mut publisher: Publisher<'_>,
    mut chunks: input::Chunks,
    mut singer: Option<Singer>,
) -> anyhow::Result<Summary> {
    let mut read = read_all(&mut publisher, &mut chunks, singer.as_mut()).await;
    if !publisher.has_failed() {
        read = publisher.settle().await.and(read);
    }
    if let Some(singer) = &mut singer {
        singer.tell_states(&publisher)?;
    }
    match read {
        Ok(()) => publisher.finish().await,
        Err(error) if publisher.has_failed() => Err(error),
        Err(error) => Err(anyhow::anyhow!("{}\n{}", with_causes(error.chain()), publisher.fate_of_lines())),
    }
}

/// What happens while a publisher waits.
enum Event {
    Read(input::Chunk),
    End,
    Ended(requests::Ended),
    /// Records have waited for long enough for others to share their request.
    Due,
}

async fn read_all(
    publisher: &mut Publisher<'_>,
    chunks: &mut input::Chunks,
    mut singer: Option<&mut Singer>,
) -> anyhow::Result<()> {
    let mut number = 0;
    loop {
        match next_event(publisher, chunks).await? {
            Event::Read(chunk) => {
                for line in &chunk {
                    number += 1;
                    let Some(singer) = &mut singer else {
                        publisher.line(line).await?;
                        continue;
                    };
                    publisher.pass(number, line);
                    let done = singer.line(number, line, publisher).await;
                    // What has failed is a request, which says which lines it is about.
                    let is_about_line = !publisher.has_failed();
                    done.map_err(|error| if is_about_line { error.context(format!("line {number}")) } else { error })?;
                }
            }
            Event::Ended(ended) => publisher.account(ended).await?,
            Event::Due => publisher.flush().await?,
            Event::End => return Ok(()),
        }
        if let Some(singer) = &mut singer {
            singer.tell_states(publisher)?;
        }
    }
}

async fn next_event(publisher: &mut Publisher<'_>, chunks: &mut input::Chunks) -> anyhow::Result<Event> {
    let (due, is_under_way) = (publisher.due(), publisher.is_under_way());
    tokio::select! {
        chunk = chunks.recv() => match chunk {
            Some(chunk) => Ok(Event::Read(chunk.context("reading records")?)),
            None => Ok(Event::End),
        },
        Some(ended) = publisher.ended(), if is_under_way => Ok(Event::Ended(ended)),
        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Ok(Event::Due),
    }
}
