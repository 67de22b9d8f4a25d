//! Verification: is the table as it should be, and what SQL makes it so.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    catalog::{COLUMNS, Column, create_table_sql},
    check::grant_connect,
    error::Fault,
    identifier::{readable, readable_table},
    session::{Session, Visitor},
};
use crate::model::{Connection, Severity, TableId, TableName};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A stable word for programs.
    pub code: &'static str,
    /// A consumer can work in spite of a warning, until some record comes.
    pub severity: Severity,
    /// What is wrong, in a sentence.
    pub message: String,
    /// The SQL that mends it.
    pub fix_sql: String,
}

fn error(code: &'static str, message: impl Into<String>, fix_sql: impl Into<String>) -> Finding {
    Finding { code, severity: Severity::Error, message: message.into(), fix_sql: fix_sql.into() }
}

fn warning(code: &'static str, message: impl Into<String>, fix_sql: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, ..error(code, message, fix_sql) }
}

/// Compares the table with what it should be. Reads the catalog only: it needs no right on the table.
pub async fn verify(connection: &Connection, visitor: &Visitor, table: &TableName) -> Result<Vec<Finding>, Fault> {
    match visitor.connect(connection).await {
        Ok(session) => session.verify(table).await,
        // Whoever may not connect is told so before anything else can be asked.
        Err(fault) if fault.sqlstate.as_deref() == Some("42501") => {
            let (database, user) = (readable(&connection.database), readable(&connection.username));
            let message = format!("user {user} may not connect to database {database}");
            let fix = grant_connect(&connection.database, &connection.username);
            Ok(vec![error("connect_privilege_missing", message, fix)])
        }
        Err(fault) => Err(fault),
    }
}

const RELATION: &str = "
    select c.oid, c.relkind::text, c.relpersistence::text,
           c.oid is not null and pg_catalog.row_security_active(c.oid),
           current_user::text, pg_catalog.getdatabaseencoding()::text,
           pg_catalog.has_schema_privilege(n.oid, 'usage'),
           array(select p from pg_catalog.unnest(array['select', 'insert', 'update', 'delete']) p
                 where c.oid is not null and not pg_catalog.has_table_privilege(c.oid, p))
    from pg_catalog.pg_namespace n
    left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = $2
    where n.nspname = $1";

const TABLE_COLUMNS: &str = "
    select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), not a.attnotnull,
           a.attgenerated <> '' or a.attidentity = 'a', a.atthasdef or a.attidentity <> ''
    from pg_catalog.pg_attribute a where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";

/// Constraints, unique indexes that are no constraint's, triggers and rules that are not the system's own.
const OBJECTS: &str = "
    select case contype when 'f' then 'foreign_key' when 'u' then 'unique_constraint' when 'c' then 'check_constraint'
                        when 'x' then 'exclusion_constraint' end, conname::text
      from pg_catalog.pg_constraint where conrelid = $1 and contype in ('f', 'u', 'c', 'x')
    union all
    select 'unique_index', c.relname::text
      from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
      where i.indrelid = $1 and i.indisunique and not i.indisprimary
        and not exists (select 1 from pg_catalog.pg_constraint where conindid = i.indexrelid)
    union all
    select 'trigger', tgname::text from pg_catalog.pg_trigger
      where tgrelid = $1 and not tgisinternal and tgenabled <> 'D'
    union all
    select 'rule', rulename::text from pg_catalog.pg_rewrite where ev_class = $1 and rulename <> '_RETURN'
    union all
    select 'inheritance', inhrelid::pg_catalog.regclass::text from pg_catalog.pg_inherits where inhparent = $1
    order by 1, 2";

const PRIMARY_KEY: &str = "
    select con.conname::text, array_agg(a.attname::text order by k.place), con.condeferrable
    from pg_catalog.pg_constraint con
    cross join lateral pg_catalog.unnest(con.conkey) with ordinality as k(attnum, place)
    join pg_catalog.pg_attribute a on a.attrelid = con.conrelid and a.attnum = k.attnum
    where con.conrelid = $1 and con.contype = 'p' group by con.conname, con.condeferrable";

const TABLE_ID: &str = "
    select d.oid, c.oid, pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute') from pg_catalog.pg_database d, pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where d.datname = pg_catalog.current_database() and n.nspname = $1 and c.relname = $2";

const SYSTEM: &str = "select system_identifier from pg_catalog.pg_control_system()";

impl Session {
    /// Which table it is, if it is there.
    pub async fn table_id(&self, table: &TableName) -> Result<Option<TableId>, Fault> {
        let row =
            self.client.query_typed_opt(TABLE_ID, &[(&table.schema, Type::NAME), (&table.table, Type::NAME)]).await?;
        let Some(row) = row else { return Ok(None) };
        let (database, relation, may_ask) = (row.get(0), row.get(1), row.get(2));
        let system = if may_ask { self.client.query_typed_opt(SYSTEM, &[]).await? } else { None };
        Ok(Some(TableId { system: system.map(|row| row.get(0)), database, relation }))
    }

    /// Compares the table with what it should be.
    pub async fn verify(&self, table: &TableName) -> Result<Vec<Finding>, Fault> {
        let relation =
            self.client.query_typed_opt(RELATION, &[(&table.schema, Type::NAME), (&table.table, Type::NAME)]).await?;
        let Some(relation) = relation else {
            let message = format!("schema {} does not exist", readable(&table.schema));
            return Ok(vec![error("schema_missing", message, create_table_sql(table))]);
        };
        let mut findings = on_schema(&relation, table);
        let Some(oid) = relation.get::<_, Option<u32>>(0) else {
            let message = format!("table {} does not exist", readable_table(table));
            findings.push(error("table_missing", message, create_table_sql(table)));
            return Ok(findings);
        };
        if let Some(finding) = wrong_kind(relation.get(1), table) {
            findings.push(finding);
            return Ok(findings);
        }
        findings.extend(on_table(&relation, table));
        // Typed, each takes one round trip: there is nothing to be prepared.
        let of_table: &[(&(dyn ToSql + Sync), Type)] = &[(&oid, Type::OID)];
        findings.extend(on_columns(&self.client.query_typed(TABLE_COLUMNS, of_table).await?, table));
        findings.extend(on_primary_key(self.client.query_typed_opt(PRIMARY_KEY, of_table).await?.as_ref(), table));
        let objects = self.client.query_typed(OBJECTS, of_table).await?;
        findings.extend(objects.iter().map(|row| on_object(row.get(0), row.get(1), table)));
        Ok(findings)
    }
}

fn on_schema(relation: &Row, table: &TableName) -> Vec<Finding> {
    let (user, encoding): (String, String) = (relation.get(4), relation.get(5));
    let has_usage: bool = relation.get(6);
    let schema = readable(&table.schema);
    let mut findings = Vec::new();
    if encoding != "UTF8" {
        let message = format!("the database is encoded in {encoding}, which can't hold every text that an API sends");
        let fix = "create database NAME encoding 'UTF8' template template0; -- and point the target at it";
        findings.push(error("database_encoding", message, fix));
    }
    if !has_usage {
        let message = format!("user {} may not use schema {schema}", readable(&user));
        let fix = format!("grant usage on schema {schema} to {};", readable(&user));
        findings.push(error("schema_privilege_missing", message, fix));
    }
    findings
}

fn wrong_kind(kind: &str, table: &TableName) -> Option<Finding> {
    let name = readable_table(table);
    let what = match kind {
        "r" => return None,
        "p" => {
            let fix = format!("alter table {name} rename to NAME;\n\n{}", create_table_sql(table));
            return Some(error("table_partitioned", format!("table {name} is partitioned"), fix));
        }
        "v" => "view",
        "m" => "materialized view",
        "f" => "foreign table",
        "S" => "sequence",
        "i" | "I" => "index",
        "c" => "type",
        _ => return Some(error("not_a_table", format!("{name} is not a table"), create_table_sql(table))),
    };
    let fix = format!("drop {what} {name};\n\n{}", create_table_sql(table));
    Some(error("not_a_table", format!("{name} is a {what}, not a table"), fix))
}

fn on_table(relation: &Row, table: &TableName) -> Vec<Finding> {
    let (persistence, hides_rows, user): (String, bool, String) = (relation.get(2), relation.get(3), relation.get(4));
    let missing: Vec<String> = relation.get(7);
    let (name, user) = (readable_table(table), readable(&user));
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let message = format!("user {user} lacks {missing} on {name}");
        findings.push(error("table_privilege_missing", message, format!("grant {missing} on {name} to {user};")));
    }
    if hides_rows {
        let message = format!("row security on {name} applies to user {user}, and may hide rows or refuse them");
        findings.push(error("row_security", message, format!("alter table {name} disable row level security;")));
    }
    if persistence == "u" {
        let message = format!("{name} is unlogged: the server empties it when it recovers from a crash");
        findings.push(error("table_unlogged", message, format!("alter table {name} set logged;")));
    }
    findings
}

/// Rows that are there can't be without a value where there has to be one.
fn add_column(table: &str, column: &str, sql_type: &str, nullable: bool) -> String {
    if nullable {
        return format!("alter table {table} add column {column} {sql_type};");
    }
    let placeholder = match sql_type {
        "uuid" => "'00000000-0000-0000-0000-000000000000'",
        "jsonb" => "'{}'",
        "bigint" => "0",
        "text" => "''",
        _ => "now()",
    };
    format!(
        "-- rows that are there hold a placeholder until their records come again\n\
         alter table {table} add column {column} {sql_type} not null default {placeholder};\n\
         alter table {table} alter column {column} drop default;"
    )
}

fn on_columns(rows: &[Row], table: &TableName) -> Vec<Finding> {
    let name = readable_table(table);
    let ours = |column: &str| COLUMNS.iter().find(|ours| ours.name == column);
    let mut findings = Vec::new();
    for Column { name: column, sql_type, nullable } in &COLUMNS {
        let Some(row) = rows.iter().find(|row| row.get::<_, &str>(0) == *column) else {
            let fix = add_column(&name, column, sql_type, *nullable);
            findings.push(error("column_missing", format!("{name} has no column {column}"), fix));
            continue;
        };
        let (found, is_nullable, is_generated): (&str, bool, bool) = (row.get(1), row.get(2), row.get(3));
        if found != *sql_type {
            let fix = format!("alter table {name} alter column {column} type {sql_type} using {column}::{sql_type};");
            findings.push(error("column_type", format!("column {column} is {found}, not {sql_type}"), fix));
        }
        if is_generated {
            let fix = format!("alter table {name} drop column {column}, add column {column} {sql_type};");
            findings.push(error("column_generated", format!("column {column} is generated by the database"), fix));
        }
        if *nullable && !is_nullable {
            let fix = format!("alter table {name} alter column {column} drop not null;");
            findings.push(error("column_not_null", format!("column {column} must take null"), fix));
        }
        if !*nullable && is_nullable {
            let fix = format!("alter table {name} alter column {column} set not null;");
            findings.push(error("column_nullable", format!("column {column} must be not null"), fix));
        }
    }
    for row in rows.iter().filter(|row| ours(row.get(0)).is_none()) {
        let (column, is_nullable, has_default): (String, bool, bool) = (row.get(0), row.get(2), row.get(4));
        let column = readable(&column);
        let fix = format!("alter table {name} drop column {column};");
        findings.push(if is_nullable || has_default {
            warning("column_extra", format!("column {column} is not one of ours, and stays as it is"), fix)
        } else {
            error("column_extra", format!("column {column} is not null, has no default, and is not one of ours"), fix)
        });
    }
    findings
}

fn on_primary_key(row: Option<&Row>, table: &TableName) -> Option<Finding> {
    let name = readable_table(table);
    let add = format!("alter table {name} add primary key (sequin_id);");
    let Some(row) = row else {
        return Some(error("primary_key_missing", format!("{name} has no primary key"), add));
    };
    let (constraint, columns, is_deferrable): (String, Vec<String>, bool) = (row.get(0), row.get(1), row.get(2));
    let message = match columns.as_slice() {
        [column] if column == "sequin_id" && !is_deferrable => return None,
        [column] if column == "sequin_id" => {
            format!("the primary key of {name} is deferrable, and PostgreSQL takes no upserts by such a key")
        }
        columns => format!("the primary key of {name} is ({}), not (sequin_id)", columns.join(", ")),
    };
    let fix = format!("alter table {name} drop constraint {};\n{add}", readable(&constraint));
    Some(error("primary_key_wrong", message, fix))
}

/// What customers add to the table, and what it does to the records that come.
fn on_object(kind: &str, object: &str, table: &TableName) -> Finding {
    // A child comes as PostgreSQL writes it: with its schema, and quoted.
    let is_written = kind == "inheritance";
    let (name, object) = (readable_table(table), if is_written { object.into() } else { readable(object) });
    let drop_constraint = format!("alter table {name} drop constraint {object};");
    match kind {
        "foreign_key" => {
            let message = format!("foreign key {object}: a record may come before the one that it refers to");
            warning("foreign_key", message, drop_constraint)
        }
        "unique_constraint" | "exclusion_constraint" => {
            let message = format!("constraint {object}: two records may share a value for a while");
            warning("unique_constraint", message, drop_constraint)
        }
        "check_constraint" => {
            let message = format!("check constraint {object}: an API may send what it forbids");
            warning("check_constraint", message, drop_constraint)
        }
        "unique_index" => {
            let message = format!("unique index {object}: two records may share a value for a while");
            let fix = format!("drop index {}.{object};", readable(&table.schema));
            warning("unique_index", message, fix)
        }
        "trigger" => {
            let message = format!("trigger {object}: it slows every write down, and its errors stop the consumer");
            warning("trigger", message, format!("drop trigger {object} on {name};"))
        }
        "rule" => {
            let message = format!("rule {object}: PostgreSQL takes no upserts on a table with rules");
            error("rule", message, format!("drop rule {object} on {name};"))
        }
        _ => {
            let message = format!("{object} inherits from {name}: its rows look like ours, and are not");
            warning("inheritance", message, format!("alter table {object} no inherit {name};"))
        }
    }
}
