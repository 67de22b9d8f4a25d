//! How far Sequin may go with a database that others use, too: as it is asked for, and as it is shown.

use sequin_actors::model::Limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::change::Change;

/// How far Sequin may go there. What is left out stays as it is, and null is the default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsRequest {
    /// How many records all consumers together may write a second. Null for as many as they can.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    #[serde(default)]
    max_records_per_second: Change<u32>,
    /// How long one statement may take.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 120, default = 60)]
    #[serde(default)]
    statement_timeout_seconds: Change<u32>,
    /// How long a statement may wait for a lock.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 60, default = 10)]
    #[serde(default)]
    lock_timeout_seconds: Change<u32>,
    /// Consumers pause while a replica is further behind than this. Null for never.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 86_400)]
    #[serde(default)]
    max_replica_lag_seconds: Change<u32>,
    /// Consumers pause while more than this part of the server's connections is taken. Null for never.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    #[serde(default)]
    max_connections_percent: Change<u32>,
}

impl LimitsRequest {
    /// Makes of the limits what the request says.
    pub(super) fn apply(self, limits: &mut Limits) {
        let default = Limits::default();
        self.max_records_per_second.optional(&mut limits.max_records_per_second);
        self.statement_timeout_seconds.or(default.statement_timeout_seconds, &mut limits.statement_timeout_seconds);
        self.lock_timeout_seconds.or(default.lock_timeout_seconds, &mut limits.lock_timeout_seconds);
        self.max_replica_lag_seconds.optional(&mut limits.max_replica_lag_seconds);
        self.max_connections_percent.optional(&mut limits.max_connections_percent);
    }
}

/// How far Sequin may go there.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
pub(super) struct LimitsView {
    #[schema(required)]
    max_records_per_second: Option<u32>,
    statement_timeout_seconds: u32,
    lock_timeout_seconds: u32,
    #[schema(required)]
    max_replica_lag_seconds: Option<u32>,
    #[schema(required)]
    max_connections_percent: Option<u32>,
}

impl From<Limits> for LimitsView {
    fn from(limits: Limits) -> Self {
        let Limits {
            max_records_per_second,
            statement_timeout_seconds,
            lock_timeout_seconds,
            max_replica_lag_seconds,
            max_connections_percent,
        } = limits;
        Self {
            max_records_per_second,
            statement_timeout_seconds,
            lock_timeout_seconds,
            max_replica_lag_seconds,
            max_connections_percent,
        }
    }
}
