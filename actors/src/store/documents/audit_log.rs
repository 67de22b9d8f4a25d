//! The audit log: written once, read from the newest on, and bounded.

use chrono::{DateTime, Utc};

use super::{Documents, DocumentsError, prefix};
use crate::model::{AuditEntry, AuditId};

/// How many entries are looked at in one go.
const PAGE: usize = 1000;

impl Documents {
    /// Writes an entry, which is durable when this returns.
    pub async fn write_to_audit_log(&self, entry: &AuditEntry) -> Result<(), DocumentsError> {
        self.put(entry.id, entry).await.map(drop)
    }

    /// Drops entries that are older than `before`, and the oldest of those that are more than `most`. Returns how many.
    pub async fn prune_audit_log(&self, most: usize, before: DateTime<Utc>) -> Result<u64, DocumentsError> {
        let too_old = format!("{}{}", prefix::<AuditEntry>(), AuditId::before(before));
        let (mut after, mut seen, mut dropped) = (None, 0, 0);
        loop {
            let page = self.store.list(&prefix::<AuditEntry>(), after.as_deref(), PAGE).await?;
            for entry in &page {
                seen += 1;
                if seen > most || entry.key > too_old {
                    self.store.delete(&entry.key, None).await?;
                    dropped += 1;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => return Ok(dropped),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use chrono::{TimeDelta, Utc};

    use super::{super::tests::documents, *};

    fn entry(at: DateTime<Utc>) -> AuditEntry {
        AuditEntry {
            id: AuditId::generate(at),
            at,
            token: None,
            action: "create".into(),
            kind: "target".into(),
            resource_id: None,
            resource_name: None,
            method: "POST".into(),
            path: "/v1/targets".into(),
            status: 201,
            from: Ipv4Addr::LOCALHOST.into(),
            request_id: "1".into(),
        }
    }

    #[tokio::test]
    async fn the_log_is_read_from_the_newest_on_and_loses_its_oldest_entries() {
        let (_directory, documents) = documents().await;
        let now = Utc::now();
        let entries: Vec<_> = (0..6).map(|days| entry(now - TimeDelta::days(days))).collect();
        for number in [3, 0, 5, 1, 4, 2] {
            documents.write_to_audit_log(&entries[number]).await.expect("written");
        }
        let logged = async || -> Vec<AuditEntry> {
            let found = documents.list::<AuditEntry>(None, 10).await.expect("a list");
            found.into_iter().map(|found| found.expect("an entry").value).collect()
        };
        assert_eq!(logged().await, entries);
        let before = now - TimeDelta::days(4) - TimeDelta::hours(1);
        assert_eq!(documents.prune_audit_log(10, before).await.expect("pruned"), 1);
        assert_eq!(logged().await, entries[..5]);
        assert_eq!(documents.prune_audit_log(2, before).await.expect("pruned"), 3);
        assert_eq!(logged().await, entries[..2]);
        assert_eq!(documents.prune_audit_log(2, before).await.expect("pruned"), 0);
    }
}
