//! The yardstick: the server's own client, on two connections, with the rows ready as text.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sequin::demo::postgres::ThrowawayPostgres;

use super::copy_file;

/// As many as there are cores on the machine that the project measures itself on.
pub(crate) const CONNECTIONS: usize = 2;

/// Loads the files into the table, all at once; returns how long that took.
pub(crate) fn load(server: &ThrowawayPostgres, directory: &Path, table: &str) -> Duration {
    let began = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let copy = format!("\\copy {table} from '{}'", copy_file(directory, number).display());
            let mut psql = Command::new("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &copy]).arg(server.url("postgres"));
            psql.stdin(Stdio::null()).spawn().expect("psql, which comes with PostgreSQL")
        })
        .collect();
    for mut client in clients {
        assert!(client.wait().expect("its end").success(), "psql failed");
    }
    began.elapsed()
}
