//! Poolers: is a session one process of the server for as long as it lives?
//!
//! A pooler in session mode gives each client a process of its own, and nothing here notices it. One in transaction mode gives
//! each *transaction* the process that happens to be free. Settings are then others', prepared statements get lost, and
//! whoever ends the process of an earlier run (see [`super::fence`]) may end somebody else's instead. So that is found out
//! before anything is set, and refused.
//!
//! Each session leaves a mark where it is, and must see its own mark, and no other's, whenever it looks. While the first looks,
//! the others hold transactions, so that a pooler can't give it what they have; and while they begin theirs, the first holds
//! none, so that its process is free for a pooler to give away. Nothing is prepared, which some poolers take and some don't.

use std::{future::Future, time::Duration};

use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::Fault;

/// How long another session may take to get a word from the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How often all of them look: a pooler that chooses at random may choose the same once.
const ROUNDS: usize = 2;

/// Whether the sessions of a pool keep their processes, which is found out once.
#[derive(Default)]
pub(super) struct OneProcess {
    is_proven: Mutex<bool>,
}

/// What a session leaves where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark(String);

impl Mark {
    /// One that no other session has.
    pub(super) fn generate() -> Self {
        Self(format!("{:016x}", fastrand::u64(..)))
    }
}

/// Where a session is, and what it found there.
pub(super) struct Place {
    /// The process on the server.
    pub(super) pid: i32,
    /// The mark that a session had left there.
    pub(super) mark: Option<Mark>,
    /// What the server calls it.
    pub(super) application_name: String,
}

/// Asks which process a session has and what it is called there, and leaves the mark there.
pub(super) async fn mark(client: &Client, mark: &Mark) -> Result<Place, Fault> {
    let Mark(mark) = mark;
    let sql = format!(
        "select pg_catalog.pg_backend_pid(), pg_catalog.current_setting('sequin.session', true), \
         pg_catalog.current_setting('application_name'); \
         select pg_catalog.set_config('sequin.session', '{mark}', false)"
    );
    let answers = client.simple_query(&sql).await?;
    let row = rows(&answers).next().ok_or_else(|| Fault::internal("the server named no process"))?;
    let pid = row.get(0).and_then(|pid| pid.parse().ok());
    Ok(Place {
        pid: pid.ok_or_else(|| Fault::internal("the server's process has no number"))?,
        mark: row.get(1).and_then(found),
        application_name: row.get(2).unwrap_or_default().to_owned(),
    })
}

impl OneProcess {
    /// Fails if it is not so. Where there is no room to find out, the next session asks again. `open` opens further sessions; the first one, which has left its mark, is used
    /// by nobody else.
    pub(super) async fn prove<O>(&self, first: &Client, mark: &Mark, open: impl Fn() -> O) -> Result<(), Fault>
    where
        O: Future<Output = Result<Client, Fault>>,
    {
        let mut is_proven = self.is_proven.lock().await;
        if *is_proven {
            return Ok(());
        }
        let mut others = Vec::new();
        let (second, third) = tokio::join!(open(), open());
        for opened in [second, third] {
            match opened {
                Ok(client) => others.push(Other::new(client)),
                // A server that has no room gives none of the processes that are there away.
                Err(fault) if fault.is_full() => {}
                Err(fault) => return Err(fault),
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let mut seen = Vec::new();
            for other in &mut others {
                match timeout(ANSWER_TIMEOUT, other.begin_and_look()).await {
                    Ok(looked) => seen.push(looked?),
                    // A pooler that has no room for three may have room for two.
                    Err(_) if !seen.is_empty() => break,
                    // Or for one: what would show that it gives processes away is that the first has lost its own.
                    Err(_) if look(first, "").await?.as_ref() == Some(mark) => return Ok(()),
                    Err(_) => return Err(moved()),
                }
            }
            others.truncate(seen.len());
            if seen.iter().flatten().any(|seen| seen == mark) {
                return Err(shared("two sessions of ours were given one process of the server"));
            }
            for (other, seen) in others.iter().zip(&seen) {
                other.check(seen.as_ref())?;
            }
            if look(first, "").await?.as_ref() != Some(mark) {
                return Err(moved());
            }
            for other in &mut others {
                other.end().await?;
            }
        }
        *is_proven = true;
        Ok(())
    }
}

/// A session that is there to see what becomes of it.
struct Other {
    client: Client,
    mark: Mark,
    is_marked: bool,
}

impl Other {
    fn new(client: Client) -> Self {
        Self { client, mark: Mark::generate(), is_marked: false }
    }

    async fn begin_and_look(&self) -> Result<Option<Mark>, Fault> {
        look(&self.client, "begin; ").await
    }

    /// What it sees from the second time on is its own mark.
    fn check(&self, seen: Option<&Mark>) -> Result<(), Fault> {
        if self.is_marked && seen != Some(&self.mark) {
            return Err(moved());
        }
        Ok(())
    }

    /// Leaves its mark, and ends its transaction.
    async fn end(&mut self) -> Result<(), Fault> {
        let Mark(mark) = &self.mark;
        let end = format!("select pg_catalog.set_config('sequin.session', '{mark}', false); commit");
        self.client.simple_query(&end).await?;
        self.is_marked = true;
        Ok(())
    }
}

/// The mark that lies where a session is.
async fn look(client: &Client, before: &str) -> Result<Option<Mark>, Fault> {
    let sql = format!("{before}select pg_catalog.current_setting('sequin.session', true)");
    let answers = client.simple_query(&sql).await?;
    Ok(rows(&answers).next().and_then(|row| row.get(0)).and_then(found))
}

/// What was set once and reset is empty.
fn found(mark: &str) -> Option<Mark> {
    (!mark.is_empty()).then(|| Mark(mark.to_owned()))
}

fn rows(answers: &[SimpleQueryMessage]) -> impl Iterator<Item = &tokio_postgres::SimpleQueryRow> {
    answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// A session is not where it was.
pub(super) fn moved() -> Fault {
    shared("a session of ours was given another process of the server")
}

/// Sessions don't keep their processes, as was seen.
pub(super) fn shared(seen: &str) -> Fault {
    Fault::transaction_pooler(format!("a pooler in transaction mode is on the way: {seen}"))
}
