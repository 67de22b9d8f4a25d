//! What can be made of a consumer's table, and the table itself.

use clap::Args;

use super::super::{
    answers::Created,
    client::Client,
    output::{Output, note, print},
    target::print_sql,
};

#[derive(Args)]
pub(in super::super) struct ViewsArguments {
    /// The consumer's name or id.
    consumer: String,
    /// A view of this collection only.
    #[arg(long)]
    collection: Option<String>,
    /// The schema to make the views in.
    #[arg(long, default_value = "public")]
    schema: String,
    /// How many rows of each collection to look at.
    #[arg(long, value_name = "N", default_value = "1000")]
    sample: String,
}

pub(super) async fn create(client: &Client, output: Output, consumer: &str) -> anyhow::Result<()> {
    let answer = client.post(&["consumers", consumer, "create-table"]).await?;
    let Created { sql } = answer.read()?;
    match &sql {
        Some(_) => note(format_args!("the table of consumer {consumer} is made, by this:")),
        None => note(format_args!("the table of consumer {consumer} is there already")),
    }
    match (output, sql) {
        (Output::Json, _) => print(answer.text()),
        (Output::Table, Some(sql)) => print(sql),
        (Output::Table, None) => Ok(()),
    }
}

/// Prints SQL such that it can be piped into `psql`.
pub(super) async fn views(client: &Client, output: Output, arguments: &ViewsArguments) -> anyhow::Result<()> {
    let ViewsArguments { consumer, collection, schema, sample } = arguments;
    let mut parameters = vec![("schema", schema.as_str()), ("sample", sample)];
    parameters.extend(collection.iter().map(|collection| ("collection", collection.as_str())));
    print_sql(output, &client.get_with(&["consumers", consumer, "views-sql"], &parameters).await?)
}
