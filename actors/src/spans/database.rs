//! What spans say of a customer's database.

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    trace::{SpanBuilder, SpanKind},
};

use super::{ErrorType, shared, step};
use crate::model::{Connection, TableName};

/// A database, as spans name it.
#[derive(Clone)]
pub(crate) struct Database(Arc<[KeyValue]>);

impl Database {
    /// The one that is connected to so.
    pub(crate) fn of(connection: &Connection) -> Self {
        Self(Arc::new([
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.namespace", shared(&connection.database)),
            KeyValue::new("server.address", shared(&connection.host)),
            KeyValue::new("server.port", i64::from(connection.port)),
        ]))
    }

    /// Does something in it, as a step of the work under way.
    pub(crate) fn command<T, E: ErrorType>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        step(move || self.span(operation, None), work)
    }

    /// Does something to a table of it, as a step of the work under way.
    pub(crate) fn statement<T, E: ErrorType>(
        &self,
        operation: &'static str,
        table: &TableName,
        work: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        step(move || self.span(operation, Some(table)), work)
    }

    fn span(&self, operation: &'static str, table: Option<&TableName>) -> SpanBuilder {
        let table = table.map(TableName::to_string);
        let name = table.as_ref().map_or_else(|| operation.into(), |table| format!("{operation} {table}"));
        let said = [KeyValue::new("db.operation.name", operation)].into_iter();
        let said = said.chain(table.map(|table| KeyValue::new("db.collection.name", table)));
        let said = said.chain(self.0.iter().cloned());
        SpanBuilder::from_name(name).with_kind(SpanKind::Client).with_attributes(said)
    }
}
