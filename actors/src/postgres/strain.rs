//! Whether a server can be used: whether it answers and takes writes, and how much it has to bear, as far as we may see it.

use super::{error::Fault, pooler, reach::takes_writes, session::Session};
use crate::model::Limits;

/// By how many seconds the replica that is furthest behind is. Null where there is none, or none has anything to catch up
/// with, or we may not look (that takes `pg_monitor` or `pg_read_all_stats`).
const REPLICA_LAG: &str = "select max(extract(epoch from replay_lag))::float8 from pg_catalog.pg_stat_replication";

/// Whether there are replicas of which we may see no more than that. Who has `pg_monitor` has `pg_read_all_stats`.
const BLIND_TO_LAG: &str = "select exists (select from pg_catalog.pg_stat_replication)
    and not pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')";

/// How many connections clients have, and how many there may be. Whatever is a client's names its database to everybody; what
/// is not says so to those who may look.
const CONNECTIONS: &str = "select count(*), pg_catalog.current_setting('max_connections')::bigint
    from pg_catalog.pg_stat_activity
    where datid is not null and coalesce(backend_type, 'client backend') = 'client backend'";

impl Session {
    /// Whether the server answers, takes writes, still gives us the process that it gave us, and is within the limits beyond which it is to be spared.
    pub async fn probe(&mut self, limits: &Limits) -> Result<(), Fault> {
        self.is_busy = true;
        let outcome = self.look(limits).await;
        // One that is somewhere else by now is for nobody.
        self.is_busy = outcome.as_ref().is_err_and(Fault::is_of_pooler);
        outcome
    }

    /// Whether a limit on how far replicas may be behind has no effect, since we may not see it.
    pub(super) async fn is_blind_to_lag(&self) -> Result<bool, Fault> {
        Ok(self.client.query_typed_one(BLIND_TO_LAG, &[]).await?.try_get(0)?)
    }

    async fn look(&self, limits: &Limits) -> Result<(), Fault> {
        takes_writes(&self.client).await?;
        // A pooler may give it to others from the moment it is told to.
        let pid = self.client.query_typed_one("select pg_catalog.pg_backend_pid()", &[]).await?.try_get(0)?;
        if !self.backend().is(pid) {
            return Err(pooler::moved());
        }
        if let Some(most) = limits.max_replica_lag_seconds {
            let behind: Option<f64> = self.client.query_one(REPLICA_LAG, &[]).await?.try_get(0)?;
            if let Some(behind) = behind.filter(|behind| *behind > f64::from(most)) {
                let summary = format!("a replica is {behind:.0} s behind, more than {most} s");
                return Err(Fault::strained(summary));
            }
        }
        if let Some(most) = limits.max_connections_percent {
            let counted = self.client.query_one(CONNECTIONS, &[]).await?;
            let (taken, all): (i64, i64) = (counted.try_get(0)?, counted.try_get(1)?);
            if taken * 100 > all * i64::from(most) {
                let summary = format!("{taken} of the server's {all} connections are taken, more than {most} %");
                return Err(Fault::strained(summary));
            }
        }
        Ok(())
    }
}
