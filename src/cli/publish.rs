//! `sequin publish`: sends the records of a file, in its order.
//!
//! One request after the other, so that the versions of a record arrive in the order in which they stand. A request
//! whose fate is unknown is sent again, which does no harm: nothing newer of the file can have overtaken it, and the
//! stream keeps the last version of each record.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;

pub(super) use self::batches::{Batch, Batches, Lines};
use super::{
    answers::Published,
    client::{Client, ClientError},
    figures,
    output::{Output, note, print},
    progress::{Progress, Unit},
    table::Table,
};

mod batches;

#[derive(Args)]
pub(super) struct PublishArguments {
    /// How the records are written: a JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The file with the records; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    #[default]
    Ndjson,
}

/// How long a request is tried again before its failure counts.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// The first pause between two tries, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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

pub(super) async fn run(client: &Client, output: Output, arguments: PublishArguments) -> anyhow::Result<ExitCode> {
    let Format::Ndjson = arguments.format;
    let (reader, size) = open(&arguments.file)?;
    let mut progress = Progress::new("publishing", Unit::Bytes, size);
    let published = publish(client, Batches::of(Lines::of(reader)), &mut progress).await;
    drop(progress);
    let summary = published?;
    match output {
        Output::Json => {
            let Summary { accepted, last_updated_idx, took } = summary;
            let (seconds, rate) = (took.as_secs_f64(), summary.per_second().round());
            let result = json!({"accepted": accepted, "last_updated_idx": last_updated_idx,
                                "seconds": seconds, "records_per_second": rate});
            print(result)?;
        }
        Output::Table => {
            let mut facts = Table::of_facts();
            facts.fact("accepted", figures::counted(summary.accepted, "record"));
            facts.fact("last updated_idx", summary.last_updated_idx.map_or("-".into(), |idx| idx.to_string()));
            let (took, rate) = (figures::span(summary.took), figures::rate(summary.per_second()));
            facts.fact("took", format_args!("{took}, {rate}"));
            print(facts)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The records, and how many bytes of them there are, where that is known.
pub(super) fn open(file: &PathBuf) -> anyhow::Result<(Box<dyn BufRead + Send>, Option<u64>)> {
    if file.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            note("reading records from the terminal, a JSON object a line; Ctrl-D ends them");
        }
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let reading = || format!("reading {}", file.display());
    let open = File::open(file).with_context(reading)?;
    let metadata = open.metadata().with_context(reading)?;
    anyhow::ensure!(!metadata.is_dir(), "{} is a directory", file.display());
    Ok((Box::new(BufReader::with_capacity(1 << 16, open)), metadata.is_file().then_some(metadata.len())))
}

/// Publishes all batches, one after the other.
pub(super) async fn publish(
    client: &Client,
    batches: impl Iterator<Item = io::Result<Batch>>,
    progress: &mut Progress,
) -> anyhow::Result<Summary> {
    let began = Instant::now();
    let mut summary = Summary::default();
    // Reading blocks, and nobody else: this is the one thing that the program does.
    for batch in batches {
        let batch = batch.context("reading records")?;
        let published = publish_batch(client, &batch, progress).await.map_err(|error| explained(error, &batch))?;
        summary.accepted += published.accepted;
        summary.last_updated_idx = published.last_updated_idx.or(summary.last_updated_idx);
        progress.advance(match progress.unit() {
            Unit::Bytes => batch.bytes.len() as u64,
            Unit::Records => batch.lines,
        });
    }
    summary.took = began.elapsed();
    Ok(summary)
}

/// Publishes a batch; a failure that may pass is tried again for a while.
async fn publish_batch(client: &Client, batch: &Batch, progress: &Progress) -> Result<Published, ClientError> {
    let give_up_at = Instant::now() + RETRY_FOR;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match client.post_ndjson(&["records"], batch.bytes.clone()).await {
            Ok(answer) => return answer.read(),
            Err(error) => error,
        };
        if !error.is_transient() || Instant::now() + pause >= give_up_at {
            return Err(error);
        }
        if pause == FIRST_PAUSE {
            let tries = figures::span(RETRY_FOR);
            progress.note(format_args!("{error}\ntrying again, for {tries} at most"));
        }
        let asked_for = match &error {
            ClientError::Refused { retry_after: Some(after), .. } => (*after).min(LONGEST_PAUSE),
            _ => Duration::ZERO,
        };
        tokio::time::sleep(pause.max(asked_for)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Counts lines from the file's beginning, and says what became of the others.
fn explained(error: ClientError, batch: &Batch) -> anyhow::Error {
    let (before, last) = (batch.first_line - 1, batch.first_line + batch.lines - 1);
    let error = match error {
        ClientError::Refused { mut problem, retry_after } => {
            for finding in &mut problem.errors {
                finding.line = finding.line.map(|line| line + before);
            }
            ClientError::Refused { problem, retry_after }
        }
        error => error,
    };
    let mut rest = match before {
        0 => "nothing is published".to_owned(),
        _ => format!("lines 1 to {before} are published, nothing of what follows"),
    };
    if !matches!(error, ClientError::Refused { .. }) {
        rest =
            format!("lines {} to {last} may be published or not: publishing all again does no harm", batch.first_line);
    }
    anyhow::anyhow!("{error}\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::problem::{Finding, Problem};

    #[test]
    fn a_wrong_line_is_numbered_as_in_the_file() {
        let finding = Finding {
            field: Some("payload".into()),
            line: Some(41),
            message: "is missing".into(),
            ..Finding::default()
        };
        let problem = Problem { detail: "1 line is not valid".into(), errors: vec![finding], ..Problem::default() };
        let refused = ClientError::Refused { problem: Box::new(problem), retry_after: None };
        let batch = Batch { first_line: 2001, lines: 2000, bytes: "".into() };
        let text = explained(refused, &batch).to_string();
        assert!(text.contains("line 2041: payload: is missing"), "{text}");
        assert!(text.contains("lines 1 to 2000 are published"), "{text}");
    }
}
