//! The rows: records of a CRM as publications for our stream and, line for line, as text for the yardstick.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use chrono::{DateTime, SecondsFormat, Utc};
use sequin::demo::crm::{Crm, PROVIDER};
use sequin_actors::model::{Op, Provider, Publication, Record, RecordFields, SyncId};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{SYNCS, copy_file, yardstick};

/// How many records one publication has.
const PUBLICATION: u64 = 5000;

/// The same records in each run.
const SEED: u64 = 42;

/// The records of one stage, made as they are asked for.
pub(crate) struct Rows {
    lines: Box<dyn Iterator<Item = String>>,
    provider: Provider,
    number: u64,
    /// A file for each connection of the yardstick; none where it has nothing to load.
    files: Vec<BufWriter<File>>,
    copied: u64,
}

/// What a line of the CRM says.
#[derive(Deserialize)]
struct Line<'a> {
    sync_id: Uuid,
    #[serde(borrow)]
    sync_external_id: Cow<'a, str>,
    #[serde(borrow)]
    sync_metadata: &'a RawValue,
    #[serde(borrow)]
    collection_id: Cow<'a, str>,
    #[serde(borrow)]
    upstream_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    upstream_created_at: DateTime<Utc>,
    upstream_updated_at: DateTime<Utc>,
}

fn backfill(records: u64) -> Box<dyn Iterator<Item = String>> {
    let mut crm = Crm::new(SEED, SYNCS);
    Box::new((0..records).filter_map(move |_| crm.backfill(1).next()))
}

impl Rows {
    /// New records, which are written down for the yardstick too.
    pub(crate) fn create(directory: &Path, records: u64) -> Self {
        let file = |number| BufWriter::new(File::create(copy_file(directory, number)).expect("a file"));
        Self { files: (0..yardstick::CONNECTIONS).map(file).collect(), ..Self::update(records) }
    }

    /// The same records once more: to the stream and the table, each is a new version.
    pub(crate) fn update(records: u64) -> Self {
        let provider = Provider::parse(PROVIDER).expect("a slug");
        Self { lines: backfill(records), provider, number: 0, files: Vec::new(), copied: 0 }
    }

    /// How many bytes the yardstick has to load.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.copied
    }

    /// The next publication.
    pub(crate) fn publication(&mut self) -> Option<Publication> {
        let mut publication = Publication::default();
        for _ in 0..PUBLICATION {
            let Some(line) = self.lines.next() else { break };
            self.number += 1;
            let line: Line<'_> = serde_json::from_str(&line).expect("a record");
            let (_, record) = line.fields().check(Utc::now()).expect("a good record");
            publication.push(&self.provider, &record).expect("a sync of this provider");
            self.write_down(&record);
        }
        for file in &mut self.files {
            file.flush().expect("written");
        }
        (!publication.records().is_empty()).then_some(publication)
    }

    /// The row as COPY takes it: <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format".
    fn write_down(&mut self, record: &Record<'_>) {
        if self.files.is_empty() {
            return;
        }
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let row = [
            record.sequin_id.to_string(),
            record.sync_id.to_string(),
            record.sync_external_id.map_or_else(|| "\\N".into(), escaped),
            escaped(record.sync_metadata),
            escaped(record.collection_id),
            escaped(record.upstream_id),
            escaped(record.payload),
            self.number.to_string(),
            time(record.upstream_updated_at),
            time(record.upstream_created_at),
            time(Utc::now()),
            time(Utc::now()),
        ];
        let row = row.join("\t") + "\n";
        self.copied += row.len() as u64;
        let file = usize::try_from(self.number).expect("fits") % self.files.len();
        self.files[file].write_all(row.as_bytes()).expect("written");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

impl Line<'_> {
    fn fields(&self) -> RecordFields<'_> {
        RecordFields {
            op: Op::Upsert,
            provider: PROVIDER,
            sync_id: SyncId(self.sync_id),
            sync_external_id: Some(&self.sync_external_id),
            sync_metadata: Some(self.sync_metadata.get()),
            collection_id: &self.collection_id,
            upstream_id: &self.upstream_id,
            sequin_id: None,
            payload: Some(self.payload.get()),
            upstream_created_at: Some(self.upstream_created_at),
            upstream_updated_at: Some(self.upstream_updated_at),
        }
    }
}
