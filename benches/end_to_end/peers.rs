//! Peers: what users would pick instead, loading the same records into the same server, each into a table of its own.
//!
//! Peers are programs that read a file and write a table. So ours reads a file too here, publishes what is in it, and
//! brings it. What a peer takes to start, and to do nothing, is taken off its time. `benches/peers` has their versions
//! and settings.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sequin_actors::model::{Record, TableName};
use serde_json::json;
use tempfile::TempDir;

use super::{
    SYNCS, Size,
    bulk::rate,
    ours::Ours,
    report::{Figure, Goal},
    rows::{Rows, lines},
    server::{SCHEMA, Server, sql},
};

/// At most this many records: peers bring some thousand a second, and more of them would change no figure.
const MOST: u64 = 50_000;

pub(crate) async fn measure(Size { records, round }: Size) -> Vec<Figure> {
    // What differs by a factor needs no second round.
    if round > 0 {
        return Vec::new();
    }
    let environments = match install() {
        Ok(environments) => environments,
        Err(error) => {
            eprintln!("peers: NOT MEASURED, because they can't be installed: {error}");
            return Vec::new();
        }
    };
    let records = records.min(MOST);
    eprintln!("writing {records} records to files");
    let place = Place::write(environments, records);
    let server = Server::start().await;

    eprintln!("loading them by ours");
    let mut ours = Ours::open(place.directory.path(), &server.postgres).await;
    let table = server.table("ours").await;
    let created = bring(&mut ours, "creates", &place, &server, &table).await;
    check(&server, &table, records, 0).await;
    let updated = bring(&mut ours, "updates", &place, &server, &table).await;
    check(&server, &table, records, records).await;

    let mut figures = Vec::new();
    for peer in [Peer::Dlt, Peer::TargetPostgres] {
        eprintln!("loading them by {}", peer.name());
        let start = load(peer, "none", &place, &server).await;
        let theirs = TableName { schema: SCHEMA.into(), table: peer.table().into() };
        let creates = load(peer, "creates", &place, &server).await;
        check(&server, &theirs, records, 0).await;
        let updates = load(peer, "updates", &place, &server).await;
        check(&server, &theirs, records, records).await;
        assert_same(&server, &table, &theirs, records).await;
        eprintln!("  to start: {start:?}; creates: {creates:?}; updates: {updates:?}");
        let figure = |what, ours, theirs: Duration| Figure {
            what,
            unit: "rows/s",
            ours: rate(records, ours),
            beside: Some((peer.name(), rate(records, theirs.saturating_sub(start)))),
            goal: Goal::TimesAtLeast(1.0),
        };
        figures.push(figure("from a file into an empty table", created, creates));
        figures.push(figure("from a file, an update of every row", updated, updates));
    }
    figures
}

/// Makes their virtual environments, and says where they are.
fn install() -> Result<PathBuf, String> {
    let script = folder().join("setup.sh");
    let made = Command::new(&script).stderr(Stdio::inherit()).output();
    let made = made.map_err(|error| format!("{}: {error}", script.display()))?;
    if made.status.success() {
        Ok(String::from_utf8_lossy(&made.stdout).trim().into())
    } else {
        Err(format!("{}: {}", script.display(), made.status))
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

/// Publishes what the file has, and brings it.
async fn bring(ours: &mut Ours, stage: &str, place: &Place, server: &Server, table: &TableName) -> Duration {
    server.settle().await;
    let began = Instant::now();
    let lines = BufReader::new(File::open(place.file("lines")).expect("a file")).lines();
    ours.publish(Rows::of(lines.map(|line| line.expect("a line")), |_, _| {})).await;
    began.elapsed() + ours.backfill(stage, table).await
}

/// Lets a peer load a file.
async fn load(peer: Peer, stage: &str, place: &Place, server: &Server) -> Duration {
    server.settle().await;
    let mut command = peer.command(stage, place, server);
    let began = Instant::now();
    let ended = command.output().expect("a peer starts");
    let took = began.elapsed();
    assert!(ended.status.success(), "{}: {}", peer.name(), String::from_utf8_lossy(&ended.stderr));
    took
}

#[derive(Clone, Copy)]
enum Peer {
    Dlt,
    /// The Singer target of `MeltanoLabs`.
    TargetPostgres,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Dlt => "dlt",
            Self::TargetPostgres => "target-postgres",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Dlt => "dlt",
            Self::TargetPostgres => "target_postgres",
        }
    }

    fn command(self, stage: &str, place: &Place, server: &Server) -> Command {
        let program = |name: &str| Command::new(place.environments.join(self.name()).join("bin").join(name));
        let file = place.file(&format!("{}-{stage}", self.name()));
        let (user, password, port) = (server.postgres.superuser(), server.postgres.password(), server.postgres.port());
        let url = |scheme| format!("{scheme}://{user}:{password}@127.0.0.1:{port}/postgres");
        match self {
            Self::Dlt => {
                let mut python = program("python");
                python.arg(folder().join("load_by_dlt.py")).arg(file).arg(url("postgresql"));
                python.args([SCHEMA, self.table()]).arg(place.file("dlt-state"));
                python.current_dir(folder());
                python
            }
            Self::TargetPostgres => {
                let mut target = program("target-postgres");
                target.arg("--config").arg(folder().join("target-postgres.json")).args(["--config", "ENV"]);
                target.env("TARGET_POSTGRES_SQLALCHEMY_URL", url("postgresql+psycopg"));
                target.env("TARGET_POSTGRES_DEFAULT_TARGET_SCHEMA", SCHEMA);
                target.stdin(File::open(file).expect("a file"));
                target
            }
        }
    }
}

/// The files that are loaded, and the programs that load them.
struct Place {
    directory: TempDir,
    environments: PathBuf,
}

impl Place {
    /// Writes the records: for ours as a publisher sends them, for each peer as it takes rows, and no rows at all.
    fn write(environments: PathBuf, records: u64) -> Self {
        let place = Self { directory: tempfile::tempdir().expect("a directory"), environments };
        place.write_file("lines", lines(records, SYNCS));
        place.write_file("dlt-none", []);
        place.write_file("target-postgres-none", [schema_message()]);
        for (stage, beyond) in [("creates", 0), ("updates", records)] {
            let mut rows = Vec::new();
            Rows::new(records, SYNCS, |record, number| rows.push(row(record, number + beyond))).for_each(drop);
            let messages = rows.iter().map(|row| {
                format!(r#"{{"type":"RECORD","stream":"{}","record":{row}}}"#, Peer::TargetPostgres.table())
            });
            place.write_file(&format!("target-postgres-{stage}"), std::iter::once(schema_message()).chain(messages));
            place.write_file(&format!("dlt-{stage}"), rows);
        }
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_file(&self, name: &str, lines: impl IntoIterator<Item = String>) {
        let mut file = BufWriter::new(File::create(self.file(name)).expect("a file"));
        for line in lines {
            writeln!(file, "{line}").expect("written");
        }
        file.flush().expect("written");
    }
}

/// A row of our table as JSON: what ours derives and gives by itself, a peer has ready.
fn row(record: &Record<'_>, idx: u64) -> String {
    let others = json!({
        "sequin_id": record.sequin_id, "sync_id": record.sync_id, "sync_external_id": record.sync_external_id,
        "collection_id": record.collection_id, "upstream_id": record.upstream_id, "updated_idx": idx,
        "upstream_updated_at": record.upstream_updated_at, "upstream_created_at": record.upstream_created_at,
    });
    // JSON stays the text that it is.
    let (metadata, payload, others) = (record.sync_metadata, record.payload, others.to_string());
    format!(r#"{{"sync_metadata":{metadata},"payload":{payload},{}"#, &others[1..])
}

/// What a Singer stream begins with: <https://hub.meltano.com/singer/spec/>.
fn schema_message() -> String {
    let (text, time) = (json!({"type": "string"}), json!({"type": "string", "format": "date-time"}));
    let (uuid, object) = (json!({"type": "string", "format": "uuid"}), json!({"type": "object"}));
    let properties = json!({
        "sync_metadata": object, "payload": object, "sequin_id": uuid, "sync_id": uuid, "sync_external_id": text,
        "collection_id": text, "upstream_id": text, "updated_idx": {"type": "integer"},
        "upstream_updated_at": time, "upstream_created_at": time,
    });
    let schema = json!({"type": "object", "properties": properties});
    let stream = Peer::TargetPostgres.table();
    json!({"type": "SCHEMA", "stream": stream, "key_properties": ["sequin_id"], "schema": schema}).to_string()
}

/// A figure counts only if each row is there, in a version `beyond` that of the stage before.
async fn check(server: &Server, table: &TableName, records: u64, beyond: u64) {
    let count = format!("select count(*), count(*) filter (where updated_idx > $1) from {}", sql(table));
    let row = server.client.query_one(&count, &[&beyond.cast_signed()]).await.expect("the counts");
    let (rows, new): (i64, i64) = (row.get(0), row.get(1));
    let found = (rows.unsigned_abs(), new.unsigned_abs());
    assert_eq!(found, (records, records), "the rows of {table}, and those of this stage");
}

/// And only if they say the same.
async fn assert_same(server: &Server, ours: &TableName, theirs: &TableName, records: u64) {
    let same = format!(
        "select count(*) from {} o join {} t on o.sequin_id = t.sequin_id::uuid
         where o.payload = t.payload and o.updated_idx = t.updated_idx and o.upstream_id = t.upstream_id",
        sql(ours),
        sql(theirs)
    );
    let same: i64 = server.client.query_one(&same, &[]).await.expect("a count").get(0);
    assert_eq!(same.unsigned_abs(), records, "{theirs} has the rows that ours has");
}
