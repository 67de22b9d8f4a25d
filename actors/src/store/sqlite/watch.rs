//! Watching keys: a cursor over revisions, and a bell that says when to look.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::sync::watch;

use super::{
    super::{Entry, Event, Revision, StoreError, Watch},
    end_of,
};
use crate::embedded::SqliteFile;

/// One bell a watch, by the prefix that it is about.
#[derive(Default)]
pub(super) struct Bells(Mutex<Vec<(String, watch::Sender<()>)>>);

impl Bells {
    pub(super) fn subscribe(&self, prefix: &str) -> watch::Receiver<()> {
        let bell = watch::Sender::new(());
        let subscription = bell.subscribe();
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|(_, bell)| bell.receiver_count() > 0);
        bells.push((prefix.into(), bell));
        subscription
    }

    pub(super) fn ring(&self, key: &str) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bell) in bells.iter().filter(|(prefix, _)| key.starts_with(prefix.as_str())) {
            bell.send_replace(());
        }
    }
}

/// A watch over the keys under a prefix.
pub(super) struct SqliteWatch {
    file: Arc<SqliteFile>,
    bell: watch::Receiver<()>,
    prefix: String,
    /// `None` until the first look.
    seen: Option<Revision>,
    /// Whether something may have been written since the last look that ended.
    must_look: bool,
    events: VecDeque<Event>,
}

impl SqliteWatch {
    pub(super) fn new(file: Arc<SqliteFile>, bell: watch::Receiver<()>, prefix: &str) -> Self {
        Self { file, bell, prefix: prefix.into(), seen: None, must_look: true, events: VecDeque::new() }
    }

    /// Looks at what was written since the last look, in the order in which it was.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.bell.mark_unchanged();
        let (prefix, seen) = (self.prefix.clone(), self.seen);
        let (changes, reached) =
            self.file.read(move |connection| changes_since(connection, &prefix, seen.unwrap_or(Revision(0)))).await?;
        let is_first = seen.is_none();
        let told = changes.into_iter().filter(|change| !is_first || matches!(change, Event::Put(_)));
        self.events.extend(told);
        if is_first {
            self.events.push_back(Event::Current);
        }
        self.seen = Some(reached);
        self.must_look = false;
        Ok(())
    }
}

#[async_trait]
impl Watch for SqliteWatch {
    async fn next(&mut self) -> Result<Event, StoreError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if !self.must_look {
                let closed = |_| StoreError::Unavailable("the store was closed".into());
                self.bell.changed().await.map_err(closed)?;
                self.must_look = true;
            }
            self.look().await?;
        }
    }
}

fn changes_since(connection: &Connection, prefix: &str, seen: Revision) -> rusqlite::Result<(Vec<Event>, Revision)> {
    let reached = connection.query_row("SELECT last FROM revision", [], |row| row.get(0).map(Revision))?;
    let mut select = connection.prepare_cached(
        "SELECT key, value, revision FROM entry WHERE revision > ?1 AND +key >= ?2 AND +key < ?3 ORDER BY revision",
    )?;
    let changes = select.query_map(params![seen.0, prefix, end_of(prefix)], |row| {
        let (key, value, revision) = (row.get(0)?, row.get(1)?, Revision(row.get(2)?));
        Ok(match value {
            Some(value) => Event::Put(Entry { key, value, revision }),
            None => Event::Deleted { key },
        })
    })?;
    Ok((changes.collect::<rusqlite::Result<_>>()?, reached))
}
