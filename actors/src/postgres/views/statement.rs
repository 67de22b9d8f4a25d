//! The statement that makes a view of a collection. Whatever comes later, it does not fail: a value is cast only where a
//! check in the view itself says that it can be.

use std::collections::{BTreeMap, HashSet};

use super::{Sample, Values, View};
use crate::{
    model::TableName,
    postgres::identifier::{literal, readable, readable_table},
};

/// Points in time that a timestamptz takes, from the year 1000 on: the days that months have, in leap years too. Without
/// backslashes, so that it reads the same whatever `standard_conforming_strings` is, and without lookaheads, which take
/// PostgreSQL twice as long.
pub(super) const TIMESTAMP: &str = "^([1-9][0-9][0-9][0-9]-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])\
    |(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))\
    |([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)\
    T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):?[0-5][0-9])$";

/// Numbers that a bigint takes, whatever their digits are.
pub(super) const WHOLE_NUMBER: &str = "^-?[0-9]{1,18}$";

/// The table's own columns that a view shows.
const RECORD_COLUMNS: [&str; 8] = [
    "sequin_id",
    "upstream_id",
    "sync_id",
    "sync_external_id",
    "upstream_created_at",
    "upstream_updated_at",
    "inserted_at",
    "updated_at",
];

/// PostgreSQL takes 1,600 columns in a view.
const MAX_KEYS: usize = 1500;

/// The longest name that PostgreSQL takes, in bytes.
const MAX_NAME: usize = 63;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Bigint,
    Numeric,
    Boolean,
    Timestamptz,
    Jsonb,
}

impl Type {
    /// The narrowest type that every value in the sample has.
    fn of(values: &Values) -> Self {
        let Values { rows: _, strings, timestamps, numbers, whole, booleans, nested } = *values;
        match (strings, numbers, booleans, nested) {
            (0, 1.., 0, 0) if whole == numbers => Self::Bigint,
            (0, 1.., 0, 0) => Self::Numeric,
            (0, 0, 1.., 0) => Self::Boolean,
            (1.., 0, 0, 0) if timestamps == strings => Self::Timestamptz,
            (.., 1..) => Self::Jsonb,
            // What is of several types, or null wherever it is, can be told as text.
            _ => Self::Text,
        }
    }

    /// A key's value as this type, and null where it is of another.
    fn expression(self, key: &str) -> String {
        let key = literal(key);
        match self {
            Self::Text => format!("payload ->> {key}"),
            Self::Jsonb => format!("payload -> {key}"),
            Self::Bigint => cast(&matches(&key, WHOLE_NUMBER), &key, "bigint"),
            Self::Numeric => cast(&format!("jsonb_typeof(payload -> {key}) = 'number'"), &key, "numeric"),
            Self::Boolean => cast(&format!("jsonb_typeof(payload -> {key}) = 'boolean'"), &key, "boolean"),
            Self::Timestamptz => cast(&matches(&key, TIMESTAMP), &key, "timestamptz"),
        }
    }
}

/// The collation is the one that PostgreSQL matches by the fastest.
fn matches(key: &str, pattern: &str) -> String {
    format!("(payload ->> {key}) collate \"C\" ~ '{pattern}'")
}

fn cast(check: &str, key: &str, to: &str) -> String {
    format!("case when {check} then (payload ->> {key})::{to} end")
}

/// Writes the view of a collection. Names of keys stand in it as identifiers and literals only: a comment ends where
/// a line does, and a name may hold anything.
pub(super) fn view(table: &TableName, schema: &str, collection: &str, sample: &Sample) -> View {
    let name = TableName { schema: schema.into(), table: fitted(format!("{}_{collection}", table.table)) };
    let name = readable_table(&name);
    let mut columns: Vec<(String, String)> =
        RECORD_COLUMNS.iter().map(|column| ((*column).to_owned(), String::new())).collect();
    if sample.without_keys > 0 {
        let share = share(sample.without_keys, sample.rows);
        columns.push(("payload".into(), format!("no object in {share} of the rows")));
    }
    let mut taken: HashSet<String> = columns.iter().map(|(column, _)| column.clone()).collect();
    for (key, values) in most_frequent(&sample.keys) {
        let column = column_name(key, &mut taken);
        let mixed = if values.are_mixed() { ", of several types" } else { "" };
        let comment = format!("in {} of the rows{mixed}", share(values.rows, sample.rows));
        columns.push((format!("{} as {}", Type::of(values).expression(key), readable(&column)), comment));
    }
    let last = columns.len() - 1;
    let lines = columns.iter().enumerate().map(|(number, (column, comment))| {
        let comma = if number == last { "" } else { "," };
        let comment = if comment.is_empty() { String::new() } else { format!(" -- {comment}") };
        format!("  {column}{comma}{comment}\n")
    });
    let (from, collection_id) = (readable_table(table), literal(collection));
    let rows = if sample.rows == 1 { "1 row".into() } else { format!("{} rows", sample.rows) };
    let left_out = match sample.keys.len().saturating_sub(MAX_KEYS) {
        0 => String::new(),
        rare => format!("; {rare} keys are left out, the rarest"),
    };
    let sql = format!(
        "-- from a sample of {rows}{left_out}\ncreate view {name} as\nselect\n{}from {from}\n\
         where collection_id = {collection_id};\n",
        lines.collect::<String>()
    );
    View { collection: collection.into(), name, sampled: sample.rows, sql }
}

impl Values {
    fn are_mixed(&self) -> bool {
        let kinds = [self.strings, self.numbers, self.booleans, self.nested];
        kinds.into_iter().filter(|rows| *rows > 0).count() > 1
    }
}

/// As many keys as a view can have, in the order of their names.
fn most_frequent(keys: &BTreeMap<String, Values>) -> impl Iterator<Item = (&String, &Values)> {
    let mut counts: Vec<u64> = keys.values().map(|values| values.rows).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let least = counts.get(MAX_KEYS).copied().unwrap_or_default();
    // Those that are more frequent than the first that has no place, then as many of its equals as there is room for.
    let mut room = MAX_KEYS - counts.iter().take(MAX_KEYS).filter(|count| **count > least).count();
    keys.iter().filter(move |(_, values)| {
        let is_equal = values.rows == least && room > 0;
        room -= usize::from(is_equal);
        values.rows > least || is_equal
    })
}

/// What a key's column is called: like the key, unless a column of the record is, or PostgreSQL can't have it so.
fn column_name(key: &str, taken: &mut HashSet<String>) -> String {
    let candidates = [key.to_owned(), format!("payload_{key}"), with_hash(key)].map(fitted);
    let is_free = |name: &&String| !name.is_empty() && !taken.contains(*name);
    let name = candidates.iter().find(is_free).unwrap_or(&candidates[2]).clone();
    taken.insert(name.clone());
    name
}

/// A name that PostgreSQL does not cut short in silence. Two that begin alike stay two.
fn fitted(name: String) -> String {
    if name.len() <= MAX_NAME { name } else { with_hash(&name) }
}

fn with_hash(name: &str) -> String {
    let hash = sha1_smol::Sha1::from(name).digest().to_string();
    let hash = &hash[..8];
    format!("{}_{hash}", &name[..name.floor_char_boundary(MAX_NAME - 1 - hash.len())])
}

/// `98%`, `<1%`.
fn share(rows: u64, of: u64) -> String {
    match rows * 100 / of.max(1) {
        0 => "<1%".into(),
        percent => format!("{percent}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(keys: &[(&str, Values)]) -> Sample {
        let keys = keys.iter().map(|(key, values)| ((*key).to_owned(), values.clone())).collect();
        Sample { rows: 10, without_keys: 0, keys }
    }

    fn strings(rows: u64) -> Values {
        Values { rows, strings: rows, ..Values::default() }
    }

    fn sql(schema: &str, table: &str, collection: &str, sample: &Sample) -> String {
        view(&TableName { schema: schema.into(), table: table.into() }, "public", collection, sample).sql
    }

    #[test]
    fn a_view_reads_like_one_that_a_person_wrote() {
        let createdate = Values { timestamps: 10, ..strings(10) };
        let sample = sample(&[("email", strings(7)), ("createdate", createdate)]);
        let expected = format!(
            "-- from a sample of 10 rows\n\
             create view public.hubspot_contact as\n\
             select\n  sequin_id,\n  upstream_id,\n  sync_id,\n  sync_external_id,\n  upstream_created_at,\n  \
             upstream_updated_at,\n  inserted_at,\n  updated_at,\n  \
             case when (payload ->> 'createdate') collate \"C\" ~ '{TIMESTAMP}' then (payload ->> 'createdate')::timestamptz end \
             as createdate, -- in 100% of the rows\n  \
             payload ->> 'email' as email -- in 70% of the rows\n\
             from sequin.hubspot\nwhere collection_id = 'contact';\n"
        );
        assert_eq!(sql("sequin", "hubspot", "contact", &sample), expected);
    }

    #[test]
    fn a_column_has_the_narrowest_type_that_all_of_its_values_have() {
        let values = |strings, timestamps, numbers, whole, booleans, nested| {
            let rows = strings + numbers + booleans + nested;
            Type::of(&Values { rows, strings, timestamps, numbers, whole, booleans, nested })
        };
        assert_eq!(values(2, 2, 0, 0, 0, 0), Type::Timestamptz);
        assert_eq!(values(2, 1, 0, 0, 0, 0), Type::Text);
        assert_eq!(values(0, 0, 2, 2, 0, 0), Type::Bigint);
        assert_eq!(values(0, 0, 2, 1, 0, 0), Type::Numeric);
        assert_eq!(values(0, 0, 0, 0, 2, 0), Type::Boolean);
        assert_eq!(values(0, 0, 0, 0, 0, 2), Type::Jsonb);
        assert_eq!(values(1, 1, 1, 1, 0, 0), Type::Text);
        assert_eq!(values(1, 0, 0, 0, 0, 1), Type::Jsonb);
        assert_eq!(values(0, 0, 0, 0, 0, 0), Type::Text);
    }

    #[test]
    fn every_key_has_a_column_of_its_own_whatever_it_is_called() {
        let long = ["x".repeat(70) + "1", "x".repeat(70) + "2", "é".repeat(40)];
        let keys =
            ["", "updated_at", "payload_updated_at", "it's \"quoted\"", "id", "ID", &long[0], &long[1], &long[2]];
        let mut taken: HashSet<String> = RECORD_COLUMNS.iter().map(|column| (*column).into()).collect();
        let (before, mut sorted) = (taken.len(), keys);
        sorted.sort_unstable();
        let names: Vec<String> = sorted.iter().map(|key| column_name(key, &mut taken)).collect();
        assert_eq!(taken.len(), before + keys.len(), "{names:?}");
        assert!(names.iter().all(|name| (1..=MAX_NAME).contains(&name.len())), "{names:?}");
        for unchanged in ["payload_updated_at", "it's \"quoted\"", "id", "ID"] {
            assert!(names.iter().any(|name| name == unchanged), "{unchanged}: {names:?}");
        }
    }

    #[test]
    fn no_name_breaks_out_of_the_statement() {
        let evil = "a'\"; drop table t; --\n\\";
        let found = sql("s", evil, evil, &sample(&[(evil, strings(1))]));
        assert!(found.contains("where collection_id = E'a''\"; drop table t; --\n\\\\';"), "{found}");
        assert!(
            found.contains("payload ->> E'a''\"; drop table t; --\n\\\\' as \"a'\"\"; drop table t; --\n\\\""),
            "{found}"
        );
        assert!(found.contains("from s.\"a'\"\"; drop table t; --\n\\\""), "{found}");
    }

    #[test]
    fn more_keys_than_a_view_can_have_leave_the_rarest_out() {
        let key = |number: usize| format!("key{number:04}");
        let mut keys: BTreeMap<String, Values> = (0..2000).map(|number| (key(number), strings(1))).collect();
        keys.insert("often".into(), strings(9));
        let sample = Sample { rows: 10, without_keys: 0, keys };
        let found = sql("s", "t", "c", &sample);
        assert_eq!(found.matches("payload ->>").count(), MAX_KEYS);
        assert!(found.contains("payload ->> 'often'") && found.contains("501 keys are left out"), "{}", &found[..90]);
    }

    #[test]
    fn payloads_that_are_no_objects_are_shown_whole() {
        let sample = Sample { rows: 200, without_keys: 1, keys: BTreeMap::new() };
        let found = sql("s", "t", "c", &sample);
        assert!(found.contains("  updated_at,\n  payload -- no object in <1% of the rows\nfrom"), "{found}");
    }
}
