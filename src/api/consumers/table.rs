//! A consumer's table: making it, and writing views of it.

use axum::Json;
use sequin_actors::{
    ViewsWanted,
    model::{Consumer, Target},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::{
    Api, State,
    body::{Params, Path},
    openapi::{Conflict, UnprocessableContent},
    problem::{FieldProblem, Problem},
    resources::{beside, find},
};

/// What became of the wish for a table.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedTable)]
pub(in super::super) struct CreatedView {
    /// False if there was something of this name already.
    created: bool,
    /// What was run.
    #[schema(required)]
    sql: Option<String>,
}

/// How many rows of each collection are looked at when it is not said, and at most.
const SAMPLE: u32 = 1000;
const MAX_SAMPLE: u32 = 10_000;

/// Which views to write.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct ViewsParams {
    /// A view of this collection only.
    collection: Option<String>,
    /// The schema to make the views in: `public`, when it is not said.
    #[param(min_length = 1, max_length = 63)]
    schema: Option<String>,
    /// How many rows of each collection to look at, at most: 1000, when it is not said.
    #[param(minimum = 1, maximum = 10000)]
    sample: Option<u32>,
}

/// Views, as one text and each by itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Views)]
pub(in super::super) struct ViewsView {
    sql: String,
    views: Vec<ViewView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = View)]
struct ViewView {
    collection: String,
    /// Its full name, as it stands in the statement.
    view: String,
    /// How many rows it was written from.
    sampled: u64,
    sql: String,
}

/// Makes the consumer's table, and its schema where it is not there.
///
/// What Sequin's user makes belongs to it; who owns the schema, or else the database, is given all rights on it. If it may
/// not, the answer is 422 with the SQL for somebody who may.
#[utoipa::path(post, path = "/v1/consumers/{consumer}/create-table", tag = "consumers", operation_id = "create_table",
    responses((status = 200, description = "It is there", body = CreatedView), Conflict, UnprocessableContent))]
pub(in super::super) async fn create_table(
    api: State,
    Path(consumer): Path<String>,
) -> Result<Json<CreatedView>, Problem> {
    let (consumer, target) = with_target(&api, &consumer).await?;
    match api.inspector.create_table(&target, &consumer.table).await {
        Ok(sql) => Ok(Json(CreatedView { created: sql.is_some(), sql })),
        Err(fault) => {
            let fix_sql = Some(api.inspector.create_table_sql(&consumer.table));
            let message = format!("target {}: {fault}; {}", target.name, fault.fix);
            let problem = FieldProblem { code: Some(fault.code), fix_sql, ..FieldProblem::new("table", message) };
            Err(Problem::invalid([problem]))
        }
    }
}

/// Gives SQL that makes views of the consumer's table: one for each collection, with a column for each key of its payloads.
///
/// What the columns are is read from a sample of the rows. A table without rows is a conflict.
#[utoipa::path(get, path = "/v1/consumers/{consumer}/views-sql", tag = "consumers", operation_id = "views_sql",
    params(ViewsParams), responses((status = 200, description = "The SQL", body = ViewsView), Conflict))]
pub(in super::super) async fn views_sql(
    api: State,
    Path(consumer): Path<String>,
    Params(params): Params<ViewsParams>,
) -> Result<Json<ViewsView>, Problem> {
    let (consumer, target) = with_target(&api, &consumer).await?;
    let wanted = params.wanted()?;
    let views = api.inspector.views(&target, &consumer.table, wanted).await.map_err(|fault| {
        let message = format!("target {}: {fault}; {}", target.name, fault.fix);
        Problem::invalid([FieldProblem { code: Some(fault.code), ..FieldProblem::new("table", message) }])
    })?;
    if views.is_empty() {
        return Err(match &params.collection {
            Some(collection) => {
                Problem::invalid_field("collection", format!("{} has no row of {collection}", consumer.table))
            }
            None => {
                Problem::conflict(format!("{} has no rows yet, and views are written from its rows", consumer.table))
            }
        });
    }
    let sql: Vec<&str> = views.iter().map(|view| view.sql.as_str()).collect();
    let sql = format!("{ABOUT_VIEWS}\n{}", sql.join("\n"));
    let views = views.into_iter().map(|view| ViewView {
        collection: view.collection,
        view: view.name,
        sampled: view.sampled,
        sql: view.sql,
    });
    Ok(Json(ViewsView { sql, views: views.collect() }))
}

/// What whoever reads the statements has to know.
const ABOUT_VIEWS: &str = "\
-- A view for each collection, and in it a column for each key of the payloads, typed as a sample of the rows shows.
-- A value that is not of its column's type is null there; the table's payload has all of it.
-- A view that is there is not replaced: drop it first. A collection that is rare in a large table may not be in the
-- sample: ask for it by name.
";

impl ViewsParams {
    fn wanted(&self) -> Result<ViewsWanted<'_>, Problem> {
        let mut errors = Vec::new();
        let (schema, sample) = (self.schema.as_deref().unwrap_or("public"), self.sample.unwrap_or(SAMPLE));
        if !(1..=63).contains(&schema.len()) || schema.contains('\0') {
            errors.push(FieldProblem::new("schema", "takes 1 to 63 bytes of text"));
        }
        if !(1..=MAX_SAMPLE).contains(&sample) {
            errors.push(FieldProblem::new("sample", format!("takes 1 to {MAX_SAMPLE}")));
        }
        if self.collection.as_deref().is_some_and(|collection| collection.contains('\0')) {
            errors.push(FieldProblem::new("collection", "can't hold the character U+0000"));
        }
        let wanted = ViewsWanted { collection: self.collection.as_deref(), schema, sample };
        if errors.is_empty() { Ok(wanted) } else { Err(Problem::invalid(errors)) }
    }
}

async fn with_target(api: &Api, consumer: &str) -> Result<(Consumer, Target), Problem> {
    let consumer = find::<Consumer>(&api.documents, consumer).await?.value;
    let target = beside::<Target>(&api.documents, consumer.target).await?;
    Ok((consumer, target.ok_or_else(|| Problem::conflict("its target is gone"))?))
}
