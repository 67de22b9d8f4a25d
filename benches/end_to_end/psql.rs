//! The yardstick: the server's own client, with the rows ready as text.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use sequin::demo::postgres::ThrowawayPostgres;
use sequin_actors::model::{Record, TableName};

use super::server::sql;

/// As many as there are cores on the machine that the project measures itself on.
const CONNECTIONS: usize = 2;

/// A file of rows for each connection.
pub(crate) struct Psql {
    files: Vec<(PathBuf, BufWriter<File>)>,
}

impl Psql {
    pub(crate) fn new(directory: &Path) -> Self {
        let file = |number: usize| {
            let path = directory.join(format!("{number}.copy"));
            let file = BufWriter::new(File::create(&path).expect("a file"));
            (path, file)
        };
        Self { files: (0..CONNECTIONS).map(file).collect() }
    }

    /// Adds a row as COPY takes it: <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format".
    pub(crate) fn push(&mut self, record: &Record<'_>, idx: u64) {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let row = [
            record.sequin_id.to_string(),
            record.sync_id.to_string(),
            record.sync_external_id.map_or_else(|| "\\N".into(), escaped),
            escaped(record.sync_metadata),
            escaped(record.collection_id),
            escaped(record.upstream_id),
            escaped(record.payload),
            idx.to_string(),
            time(record.upstream_updated_at),
            time(record.upstream_created_at),
            time(Utc::now()),
            time(Utc::now()),
        ];
        let file = usize::try_from(idx).expect("fits") % self.files.len();
        self.files[file].1.write_all((row.join("\t") + "\n").as_bytes()).expect("written");
    }

    /// Loads the files into the table, all at once; returns how long that took.
    pub(crate) fn load(&mut self, server: &ThrowawayPostgres, table: &TableName) -> Duration {
        for (_, file) in &mut self.files {
            file.flush().expect("written");
        }
        let began = Instant::now();
        let clients = self.files.iter().map(|(path, _)| {
            let copy = format!("\\copy {} from '{}'", sql(table), path.display());
            let mut psql = Command::new("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &copy]).arg(server.url("postgres"));
            psql.stdin(Stdio::null()).spawn().expect("psql, which comes with PostgreSQL")
        });
        for mut client in clients.collect::<Vec<_>>() {
            assert!(client.wait().expect("its end").success(), "psql failed");
        }
        began.elapsed()
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}
