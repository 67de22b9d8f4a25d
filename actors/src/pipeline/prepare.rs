//! Preparing: what must be so before a pipeline starts.

use std::sync::{Arc, OnceLock};

use tokio_util::task::TaskTracker;

use super::Quarantine;
use crate::{
    flow::refusals::RefusalLimit,
    model::{ConsumerId, TableId, TableName},
    postgres::{Fault, Finding, Pool},
    spans::{self, ErrorType},
    store::{Documents, DocumentsError},
};

/// What was found.
pub(crate) struct Prepared {
    pub(crate) findings: Vec<Finding>,
    /// Which table it is, if it is there.
    pub(crate) table: Option<TableId>,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// Why a pipeline can't be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Database(#[from] Fault),
    #[error(transparent)]
    Documents(#[from] DocumentsError),
}

impl ErrorType for PrepareError {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Database(fault) => fault.error_type(),
            Self::Documents(error) => error.error_type(),
        }
    }

    fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Database(fault) => fault.sqlstate(),
            Self::Documents(_) => None,
        }
    }
}

/// What is to be prepared.
pub(crate) struct Preparation {
    pub(crate) pool: Pool,
    pub(crate) table: TableName,
    pub(crate) consumer: ConsumerId,
    pub(crate) documents: Documents,
    pub(crate) refusal_limit: RefusalLimit,
}

impl Preparation {
    /// Sees to it that nothing of an earlier pipeline goes on, verifies the table, and reads the quarantine.
    ///
    /// `earlier` are the transactions of the pipelines before: dropped, but perhaps not yet gone.
    pub(crate) async fn prepare(self, earlier: TaskTracker) -> Result<Prepared, PrepareError> {
        earlier.wait().await;
        let backend = OnceLock::new();
        let look = async {
            let mut session = spans::step(spans::named("get session"), self.pool.get()).await?;
            let _ = backend.set(session.backend());
            session.end_strays().await?;
            let table = session.table_id(&self.table).await?;
            let findings = spans::step(spans::named("verify"), session.verify(&self.table)).await?;
            Ok::<_, Fault>((table, findings))
        };
        let (table, findings) = self.pool.outlast(&backend, || {}, look).await?;
        let quarantine = Quarantine::load(self.consumer, &self.documents, self.refusal_limit).await?;
        Ok(Prepared { findings, table, quarantine })
    }
}

/// Verifies a table that is in use.
pub(crate) async fn verify_again(pool: &Pool, table: &TableName) -> Result<Vec<Finding>, Fault> {
    let backend = OnceLock::new();
    let verify = async {
        let session = pool.get().await?;
        let _ = backend.set(session.backend());
        session.verify(table).await
    };
    pool.outlast(&backend, || {}, verify).await
}
