//! What every actor of a node shares.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{EngineSettings, flow::budget::node_budget, store::Documents, stream::RecordStream};

/// The node's ports and settings.
pub(crate) struct Context {
    pub(crate) stream: Arc<dyn RecordStream>,
    pub(crate) documents: Documents,
    pub(crate) settings: EngineSettings,
    /// The bytes that all consumers of the node together may have in flight.
    pub(crate) budget: Arc<Semaphore>,
}

impl Context {
    pub(crate) fn new(settings: EngineSettings, stream: Arc<dyn RecordStream>, documents: Documents) -> Self {
        let budget = node_budget(settings.node_budget_bytes);
        Self { stream, documents, settings, budget }
    }
}
