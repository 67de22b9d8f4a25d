//! The target table, and the statements that people run to make it.

use tokio_postgres::types::Type;

use super::identifier::{literal, qualified, readable, readable_table};
use crate::model::{SyncId, TableName};

/// One column of the target table.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// As `format_type` shows it.
    pub(super) sql_type: &'static str,
    pub(super) nullable: bool,
}

const fn column(name: &'static str, sql_type: &'static str) -> Column {
    Column { name, sql_type, nullable: false }
}

/// The columns, in their order. What is written, and in which order, is [`WRITTEN`].
pub(super) const COLUMNS: [Column; 12] = [
    column("sequin_id", "uuid"),
    column("sync_id", "uuid"),
    Column { name: "sync_external_id", sql_type: "text", nullable: true },
    column("sync_metadata", "jsonb"),
    column("collection_id", "text"),
    column("upstream_id", "text"),
    column("payload", "jsonb"),
    column("updated_idx", "bigint"),
    column("upstream_updated_at", TIMESTAMP),
    column("upstream_created_at", TIMESTAMP),
    column("inserted_at", TIMESTAMP),
    column("updated_at", TIMESTAMP),
];

const TIMESTAMP: &str = "timestamp with time zone";

/// The types of the columns, as the driver knows them.
pub(super) fn column_types() -> [Type; COLUMNS.len()] {
    COLUMNS.map(|Column { sql_type, .. }| match sql_type {
        "uuid" => Type::UUID,
        "text" => Type::TEXT,
        "jsonb" => Type::JSONB,
        "bigint" => Type::INT8,
        TIMESTAMP => Type::TIMESTAMPTZ,
        other => unreachable!("no column is of type {other}"),
    })
}

/// How many of the columns come from the record; `inserted_at` and `updated_at` are the database's own time.
pub(super) const FROM_RECORD: usize = 10;

/// The names of the columns that come from the record.
pub(super) fn record_columns() -> impl Iterator<Item = &'static str> {
    COLUMNS[..FROM_RECORD].iter().map(|column| column.name)
}

/// The column definitions, one a line.
pub(super) fn definitions(columns: &[Column]) -> String {
    let lines = columns.iter().map(|Column { name, sql_type, nullable }| {
        let constraint = if *nullable { "" } else { " not null" };
        format!("  {name} {sql_type}{constraint}")
    });
    lines.collect::<Vec<_>>().join(",\n")
}

/// How full a page is made, in percent, so that an update finds room on the page of its row and needs no new entry in
/// the index: `benches/README.md` has what several of them came to.
const FILLFACTOR: u8 = 90;

/// The statements that make the schema, where it is not there, and the table.
pub fn create_table_sql(table: &TableName) -> String {
    create_schema_sql(&table.schema) + &create_table_only_sql(table)
}

pub(super) fn create_schema_sql(schema: &str) -> String {
    format!("create schema if not exists {};\n\n", readable(schema))
}

pub(super) fn create_table_only_sql(table: &TableName) -> String {
    format!(
        "create table {} (\n{},\n  primary key (sequin_id)\n) with (fillfactor = {FILLFACTOR});\n",
        readable_table(table),
        definitions(&COLUMNS),
    )
}

/// The statements that make the user that we connect as, a schema for it, and the rights that it needs there.
///
/// The password stands as a placeholder: it is the customer's to choose.
pub fn setup_sql(database: &str, username: &str, schema: &str) -> String {
    let (database, username, schema) = (readable(database), readable(username), readable(schema));
    let password = literal("CHOOSE_A_PASSWORD");
    format!(
        "create schema if not exists {schema};\n\n\
         create user {username} with encrypted password {password};\n\n\
         grant connect, create on database {database} to {username};\n\
         -- only usage is strictly necessary, though `create` can be good to have in diagnostic situations\n\
         grant usage, create on schema {schema} to {username};\n\
         -- all tables that are in the schema now\n\
         grant all privileges on all tables in schema {schema} to {username};\n\
         -- all tables that are created in it from now on\n\
         alter default privileges in schema {schema} grant all on tables to {username};\n"
    )
}

/// The statement that removes from a table what it holds of a sync, or of one collection of it.
pub fn cleanup_sql(table: &TableName, sync: SyncId, collection: Option<&str>) -> String {
    let sync = literal(&sync.to_string());
    let and_collection = collection.map(|collection| format!(" and collection_id = {}", literal(collection)));
    format!("delete from {} where sync_id = {sync}{};\n", readable_table(table), and_collection.unwrap_or_default())
}

/// The statements by which a batch reaches a table.
pub(super) struct Statements {
    /// The server's time, and a row of those that an array names.
    pub(super) sample: String,
    /// Copies whole rows into the table.
    pub(super) copy: String,
    /// Upserts what is in the stage.
    pub(super) upsert_stage: String,
    /// Upserts ten arrays.
    pub(super) upsert_arrays: String,
    /// Deletes what two arrays name.
    pub(super) delete: String,
}

/// Of the rows that are newer than two arrays say, the newest.
pub(super) fn newest_beyond(table: &TableName) -> String {
    format!(
        "select t.sync_id, t.sequin_id, t.updated_idx \
         from unnest($1, $2) as brought(sequin_id, updated_idx) join {} as t on t.sequin_id = brought.sequin_id \
         where t.updated_idx > brought.updated_idx order by t.updated_idx desc limit 1",
        qualified(table)
    )
}

/// The session's own table that large batches are copied into, before one statement upserts them.
///
/// Emptied at each commit without a write to the catalog (a `truncate` would write to it each time).
pub(super) fn create_stage() -> String {
    let columns = definitions(&COLUMNS[..FROM_RECORD]);
    format!("create temporary table sequin_stage (\n{columns}\n) on commit delete rows")
}

/// Fills the stage.
pub(super) const COPY_TO_STAGE: &str = "copy pg_temp.sequin_stage from stdin (format binary)";

impl Statements {
    pub(super) fn of(table: &TableName) -> Self {
        let table = qualified(table);
        let columns = record_columns().collect::<Vec<_>>().join(", ");
        let updates = COLUMNS[1..FROM_RECORD].iter().map(|Column { name, .. }| format!("{name} = excluded.{name}"));
        let updates = updates.collect::<Vec<_>>().join(", ");
        let arrays = COLUMNS[..FROM_RECORD].iter().enumerate();
        let arrays = arrays.map(|(n, column)| format!("${}::{}[]", n + 1, column.sql_type));
        let arrays = arrays.collect::<Vec<_>>().join(", ");
        let upsert = |source: &str| {
            // The cast is nothing to a bigint, and fails for a column that was changed to text, which orders otherwise.
            format!(
                "insert into {table} as t ({columns}, inserted_at, updated_at) \
                 select {columns}, now(), now() from {source} \
                 on conflict (sequin_id) do update set {updates}, updated_at = now() \
                 where t.updated_idx < excluded.updated_idx::bigint"
            )
        };
        let all = COLUMNS.map(|column| column.name);
        Self {
            sample: format!(
                "select now(), {} from (values (0)) one left join {table} t on t.sequin_id = any($1::uuid[]) limit 1",
                all.map(|name| format!("t.{name}")).join(", ")
            ),
            copy: format!("copy {table} ({}) from stdin (format binary)", all.join(", ")),
            upsert_stage: upsert("pg_temp.sequin_stage"),
            upsert_arrays: upsert(&format!("unnest({arrays}) as record({columns})")),
            delete: format!(
                "delete from {table} as t using unnest($1::uuid[], $2::bigint[]) as gone(sequin_id, updated_idx) \
                 where t.sequin_id = gone.sequin_id and t.updated_idx < gone.updated_idx"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_create_table_statement_quotes_what_must_be_quoted() {
        let sql = create_table_sql(&TableName { schema: "My Schema".into(), table: "hubspot".into() });
        assert!(sql.starts_with("create schema if not exists \"My Schema\";"));
        assert!(sql.contains("create table \"My Schema\".hubspot ("));
        assert!(sql.contains("  sync_external_id text,\n"));
        assert!(sql.contains("  payload jsonb not null,\n"));
        assert!(sql.ends_with("  primary key (sequin_id)\n) with (fillfactor = 90);\n"));
    }
}
