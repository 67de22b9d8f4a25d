//! Views: what a sample of a table's rows shows of each collection's payloads, and a view that makes columns of it.

mod statement;

use std::{collections::BTreeMap, time::Duration};

use tokio_postgres::Row;

use self::statement::{TIMESTAMP, WHOLE_NUMBER, view};
use super::{
    error::Fault,
    identifier::{literal, qualified},
    session::{Session, Visitor},
};
use crate::model::{Connection, TableName};

/// How much of a table is looked at, in bytes: what is larger is looked at in places all over it.
const LOOKED_AT: i64 = 32 * 1024 * 1024;

/// How long one look may take. The table is the customer's, and they use it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many keys, of all collections together, are told of: the most frequent ones.
const MAX_KEYS: i64 = 20_000;

/// What views are to be written.
#[derive(Clone, Copy, Debug)]
pub struct ViewsWanted<'a> {
    /// Of this collection; else of all that the sample has.
    pub collection: Option<&'a str>,
    /// The schema of the views.
    pub schema: &'a str,
    /// How many rows of each collection are looked at, at most.
    pub sample: u32,
}

/// The statement that makes a view of one collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whose records it shows.
    pub collection: String,
    /// Its full name, as it stands in the statement.
    pub name: String,
    /// How many rows it was written from.
    pub sampled: u64,
    /// The statement.
    pub sql: String,
}

/// What a sample shows of the payloads of a collection.
#[derive(Debug, Default, PartialEq)]
struct Sample {
    rows: u64,
    /// How many payloads are no objects, so that they have no keys.
    without_keys: u64,
    /// In alphabetical order, so that one and the same sample always makes the same view.
    keys: BTreeMap<String, Values>,
}

/// What a sample shows of the values of a key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Values {
    /// How many payloads have it.
    rows: u64,
    strings: u64,
    /// How many of the strings are points in time with their offset, as ISO 8601 has it.
    timestamps: u64,
    numbers: u64,
    /// How many of the numbers are whole, and fit a bigint.
    whole: u64,
    booleans: u64,
    /// Objects and arrays.
    nested: u64,
}

/// Looks at a sample of the table, and writes a view for each collection in it, in the order of their names.
pub async fn views(
    connection: &Connection,
    visitor: &Visitor,
    table: &TableName,
    wanted: ViewsWanted<'_>,
) -> Result<Vec<View>, Fault> {
    let looked = async {
        let session = visitor.connect(connection).await?;
        session.sample(table, &wanted).await
    };
    let samples =
        tokio::time::timeout(PATIENCE, looked).await.map_err(|_| Fault::timed_out("looking at the rows"))??;
    Ok(samples.iter().map(|(collection, sample)| view(table, wanted.schema, collection, sample)).collect())
}

/// Sessions read tables by their keys, and this reads one from one end to the other.
const READ_ALONG: &str = "set enable_seqscan = on";

const SIZE: &str = "select pg_catalog.pg_relation_size(pg_catalog.to_regclass($1))";

impl Session {
    async fn sample(&self, table: &TableName, wanted: &ViewsWanted<'_>) -> Result<BTreeMap<String, Sample>, Fault> {
        self.client.batch_execute(READ_ALONG).await?;
        let size: Option<i64> = self.client.query_one(SIZE, &[&qualified(table)]).await?.try_get(0)?;
        let percent = percent_of(size.unwrap_or_default());
        let rows = i64::from(wanted.sample);
        let statement = in_places(table);
        let mut found = self.client.query(&statement, &[&rows, &MAX_KEYS, &percent, &wanted.collection]).await?;
        if let (true, Some(collection)) = (found.is_empty() && percent < 100.0, wanted.collection) {
            // It is so rare that it lies in none of those places.
            found = self.client.query(&all_along(table), &[&rows, &MAX_KEYS, &collection]).await?;
        }
        let mut samples: BTreeMap<String, Sample> = BTreeMap::new();
        for row in &found {
            samples.entry(row.try_get("collection")?).or_default().add(row)?;
        }
        Ok(samples)
    }
}

/// Which part of a table of this many bytes to look at.
fn percent_of(bytes: i64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "it is a share, and a rough one")]
    let share = LOOKED_AT as f32 / bytes.max(1) as f32;
    (share * 100.0).min(100.0)
}

/// Looks at pages all over the table.
fn in_places(table: &TableName) -> String {
    let table = qualified(table);
    look_at(&format!(
        "select collection_id, payload from (
           select collection_id, payload, row_number() over (partition by collection_id) as place
           from {table} tablesample system ($3) repeatable (1)
           where $4::text is null or collection_id = $4) numbered
         where place <= $1"
    ))
}

/// Looks at the table from its beginning until there are enough rows.
fn all_along(table: &TableName) -> String {
    let table = qualified(table);
    look_at(&format!("select collection_id, payload from {table} where collection_id = $3 limit $1"))
}

/// For each collection a row without a key, that counts rows; and a row for each of its keys.
fn look_at(rows: &str) -> String {
    let (timestamp, whole) = (literal(TIMESTAMP), literal(WHOLE_NUMBER));
    format!(
        "with looked_at as materialized ({rows}),
         found as (
           select collection_id, key, pg_catalog.jsonb_typeof(value) as kind, (value #>> '{{}}') collate \"C\" as text
           from looked_at cross join lateral pg_catalog.jsonb_each(
             case when pg_catalog.jsonb_typeof(payload) = 'object' then payload else '{{}}' end))
         select collection_id as collection, null as key, count(*) as rows,
                count(*) filter (where pg_catalog.jsonb_typeof(payload) <> 'object') as without_keys,
                0::bigint as strings, 0::bigint as timestamps, 0::bigint as numbers, 0::bigint as whole,
                0::bigint as booleans, 0::bigint as nested
         from looked_at group by collection_id
         union all
         (select collection_id, key, count(*), 0,
                 count(*) filter (where kind = 'string'),
                 count(*) filter (where kind = 'string' and text ~ {timestamp}),
                 count(*) filter (where kind = 'number'),
                 count(*) filter (where kind = 'number' and text ~ {whole}),
                 count(*) filter (where kind = 'boolean'),
                 count(*) filter (where kind in ('object', 'array'))
          from found group by collection_id, key order by count(*) desc, key limit $2)"
    )
}

impl Sample {
    fn add(&mut self, row: &Row) -> Result<(), Fault> {
        let count = |column| Ok::<_, Fault>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default());
        let Some(key) = row.try_get("key")? else {
            (self.rows, self.without_keys) = (count("rows")?, count("without_keys")?);
            return Ok(());
        };
        let values = Values {
            rows: count("rows")?,
            strings: count("strings")?,
            timestamps: count("timestamps")?,
            numbers: count("numbers")?,
            whole: count("whole")?,
            booleans: count("booleans")?,
            nested: count("nested")?,
        };
        self.keys.insert(key, values);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_is_looked_at_as_a_whole_and_a_large_one_in_places() {
        let close = |percent: f32, to: f32| (percent - to).abs() < 0.001;
        assert!(close(percent_of(0), 100.0) && close(percent_of(LOOKED_AT), 100.0));
        assert!(close(percent_of(LOOKED_AT * 200), 0.5));
    }
}
