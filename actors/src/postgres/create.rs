//! Making the target table, where our user has the rights to.

use tokio_postgres::types::Type;

use super::{
    catalog::{create_schema_sql, create_table_only_sql},
    error::Fault,
    identifier::{readable, readable_table},
    session::Visitor,
};
use crate::model::{Connection, TableName};

/// Whether the schema and the table are there, who owns the schema, or the database if it is not there, and who we are.
const SITUATION: &str = "
    select n.oid is not null, c.oid is not null,
           pg_catalog.pg_get_userbyid(coalesce(n.nspowner, d.datdba))::text, current_user::text
    from pg_catalog.pg_database d
    left join pg_catalog.pg_namespace n on n.nspname = $1
    left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = $2
    where d.datname = pg_catalog.current_database()";

/// Makes the table, and its schema where it is not there, in one transaction. Returns what was run; `None` if there is
/// something of the table's name already, which is left as it is.
///
/// What our user makes belongs to it, so that who owns the schema, or the database, is given all rights on it.
pub async fn create_table(
    connection: &Connection,
    visitor: &Visitor,
    table: &TableName,
) -> Result<Option<String>, Fault> {
    let session = visitor.connect(connection).await?;
    let names: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&table.schema, Type::NAME), (&table.table, Type::NAME)];
    let situation = session.client.query_typed(SITUATION, &names).await?;
    let situation = situation.first().ok_or_else(|| Fault::internal("the database is not in its own catalog"))?;
    let (has_schema, has_table): (bool, bool) = (situation.try_get(0)?, situation.try_get(1)?);
    let (owner, user): (String, String) = (situation.try_get(2)?, situation.try_get(3)?);
    if has_table {
        return Ok(None);
    }
    // PostgreSQL asks for the right to make a schema even if there is nothing to be made.
    let mut sql = if has_schema { String::new() } else { create_schema_sql(&table.schema) };
    sql += &create_table_only_sql(table);
    if owner != user {
        sql += &grants(table, has_schema, &owner);
    }
    // Several statements that are sent as one are one transaction.
    session.client.batch_execute(&sql).await?;
    Ok(Some(sql))
}

fn grants(table: &TableName, has_schema: bool, owner: &str) -> String {
    let (schema, owner) = (readable(&table.schema), readable(owner));
    let on_schema = if has_schema { String::new() } else { format!("grant all on schema {schema} to {owner};\n") };
    format!("\n{on_schema}grant all on table {} to {owner};\n", readable_table(table))
}
