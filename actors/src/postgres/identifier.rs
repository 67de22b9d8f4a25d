//! Quoting: the one place where a name becomes SQL.

use crate::model::TableName;

/// A name as SQL takes it, whatever it holds.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal, whatever it holds and whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A table by its full name.
pub(super) fn qualified(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.table))
}

/// A name as a person would write it: quoted only where it must be.
pub(super) fn readable(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !RESERVED.contains(&name) { name.into() } else { quoted(name) }
}

/// A table by its full name, as a person would write it.
pub(super) fn readable_table(table: &TableName) -> String {
    format!("{}.{}", readable(&table.schema), readable(&table.table))
}

/// The words that PostgreSQL takes for a name only when they are quoted
/// (<https://www.postgresql.org/docs/current/sql-keywords-appendix.html>).
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_and_no_text_breaks_out_of_its_quotes() {
        assert_eq!(quoted(r#"a"; drop table x; --"#), r#""a""; drop table x; --""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"\'; drop"), r"E'\\''; drop'");
    }

    #[test]
    fn a_name_is_quoted_for_people_only_where_it_must_be() {
        let names = ["hubspot", "HubSpot", "user", "9a", "a b", "_a9"];
        let shown: Vec<_> = names.iter().map(|name| readable(name)).collect();
        assert_eq!(shown, ["hubspot", "\"HubSpot\"", "\"user\"", "\"9a\"", "\"a b\"", "_a9"]);
    }
}
