//! `sequin target …`: the databases that records are forwarded to.

mod check;
mod options;
mod update;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use sequin_actors::model::{Connection, Secret, Tls};
use serde_json::{Value, json};

use super::{
    WrongUsage,
    answers::{List, Sql, Target},
    client::{Answer, Client},
    connection::DatabaseUrl,
    figures,
    output::{Output, note, print},
    problem::indented,
    table::{Column, Table},
    watch::{Shown, Thing},
};
use options::{BastionOptions, LimitOptions, TlsOptions, from_environment};
pub(super) use update::given;

#[derive(Subcommand)]
pub(super) enum TargetCommand {
    /// Add a database.
    Add(Box<AddArguments>),
    /// List the databases.
    List,
    /// Show a database.
    #[command(visible_alias = "show")]
    Get {
        /// Its name or id.
        target: String,
    },
    /// Change a database's settings: what is not given stays as it is.
    Update(Box<update::UpdateArguments>),
    /// Walk the way to a database now, and say what was found at each step and what to do about it.
    Check {
        /// Its name or id.
        target: String,
        /// The schema of a table to look at too, beside those of consumers that were started.
        #[arg(long, requires = "table")]
        schema: Option<String>,
        /// The name of that table.
        #[arg(long, requires = "schema")]
        table: Option<String>,
    },
    /// Remove a database that no consumer writes to.
    Delete {
        /// Its name or id.
        target: String,
    },
    /// Print the SQL that makes a database's user and the schema, and grants what is needed.
    SetupSql {
        /// Its name or id.
        target: String,
        /// The schema of the tables.
        #[arg(long, default_value = "sequin")]
        schema: String,
    },
}

#[derive(Args)]
pub(super) struct AddArguments {
    /// What to call it.
    name: String,
    /// Where it is: `postgres://USER:PASSWORD@HOST:PORT/DATABASE[?sslmode=MODE]`. A password given here can be seen in
    /// the list of processes; see --password-file.
    #[arg(value_name = "DATABASE_URL", required_unless_present = "host")]
    #[arg(conflicts_with_all = ["host", "port", "database", "username"])]
    database_url: Option<String>,
    /// The server's name or address.
    #[arg(long, requires_all = ["database", "username"])]
    host: Option<String>,
    /// The server's port.
    #[arg(long, requires = "host", default_value_t = 5432)]
    port: u16,
    /// The database.
    #[arg(long, requires = "host")]
    database: Option<String>,
    /// The user to connect as.
    #[arg(long, requires = "host")]
    username: Option<String>,
    /// A file with the password; otherwise it is taken from the URL, `SEQUIN_TARGET_PASSWORD` or PGPASSWORD.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The plain name of a file in the nodes' directory of secrets that holds the password instead: it stays there, and is
    /// read anew for each connection.
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    secrets_file: Option<String>,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    bastion: BastionOptions,
    /// The most connections to hold.
    #[arg(long, value_name = "N")]
    pool_size: Option<u32>,
    #[command(flatten)]
    limits: LimitOptions,
}

pub(super) async fn run(client: &Client, output: Output, command: TargetCommand) -> anyhow::Result<ExitCode> {
    match command {
        TargetCommand::Add(arguments) => {
            let name = arguments.name.clone();
            let answer = client.post_json(&["targets"], &to_add(*arguments)?).await?;
            note(format_args!("target {name} is added; `sequin target check {name}` connects to it"));
            show(output, &answer)?;
        }
        TargetCommand::List => list(output, &client.list(&["targets"], &[]).await?)?,
        TargetCommand::Get { target } => show(output, &client.get(&["targets", &target]).await?)?,
        TargetCommand::Update(arguments) => {
            let answer = client.patch_json(&["targets", arguments.target()], &arguments.request()?).await?;
            note(format_args!("target {} is changed; what runs goes on with it", arguments.target()));
            show(output, &answer)?;
        }
        TargetCommand::Check { target, schema, table } => {
            let pair = |name, value: Option<String>| value.map(|value| (name, value));
            let also: Vec<_> = pair("schema", schema).into_iter().chain(pair("table", table)).collect();
            return check::checked(output, &client.post_with(&["targets", &target, "check"], &also).await?);
        }
        TargetCommand::Delete { target } => {
            client.delete(&["targets", &target]).await?;
            note(format_args!("target {target} is deleted"));
        }
        TargetCommand::SetupSql { target, schema } => {
            let answer = client.get_with(&["targets", &target, "setup-sql"], &[("schema", &schema)]).await?;
            print_sql(output, &answer)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The request that adds a target.
pub(super) fn request(name: &str, connection: &Connection, pool_size: Option<u32>) -> Value {
    let Connection { host, port, database, username, password, tls, .. } = connection;
    let mut request = json!({
        "name": name,
        "connection": {
            "host": host,
            "port": port,
            "database": database,
            "username": username,
            "password": password.as_ref().map(Secret::reveal),
            "tls": {
                "mode": tls.mode.as_str(),
                "ca_pem": tls.ca_pem,
                "client_cert_pem": tls.client_cert_pem,
                "client_key_pem": tls.client_key_pem.as_ref().map(Secret::reveal),
                "channel_binding": tls.channel_binding.as_str(),
            },
        },
    });
    if let Some(pool_size) = pool_size {
        request["pool_size"] = pool_size.into();
    }
    request
}

/// The request that adds what the arguments say: what they say beside a URL is what holds.
fn to_add(arguments: AddArguments) -> anyhow::Result<Value> {
    let AddArguments { name, database_url, host, port, database, username, .. } = arguments;
    let mut connection = match (database_url, host, database, username) {
        (Some(url), ..) => {
            let DatabaseUrl { connection, ignored } = DatabaseUrl::of_argument("DATABASE_URL", &url)?;
            if !ignored.is_empty() {
                note(format_args!("not used, for it means nothing here: {}", ignored.join(", ")));
            }
            connection
        }
        (None, Some(host), Some(database), Some(username)) => Connection {
            host,
            port,
            database,
            username,
            password: None,
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        },
        _ => return Err(WrongUsage("give a URL, or --host, --database and --username".into()).into()),
    };
    if let Some(path) = arguments.password_file {
        connection.password = Some(read_password(&path)?);
    } else if connection.password.is_none() && arguments.secrets_file.is_none() {
        connection.password = from_environment("SEQUIN_TARGET_PASSWORD").or_else(|| from_environment("PGPASSWORD"));
    }
    let mut request = request(&name, &connection, arguments.pool_size);
    let given = given([
        (
            "connection",
            given([
                ("password_file", json!(arguments.secrets_file)),
                ("tls", arguments.tls.request()?),
                ("bastion", arguments.bastion.request(arguments.bastion.names_user())?),
            ]),
        ),
        ("limits", arguments.limits.request()),
    ]);
    lay_over(&mut request, given);
    Ok(request)
}

/// Puts the fields of one object in the place of those of another.
fn lay_over(object: &mut Value, fields: Value) {
    match (object, fields) {
        (_, Value::Null) => {}
        (Value::Object(object), Value::Object(fields)) => {
            for (name, field) in fields {
                lay_over(object.entry(name).or_insert(Value::Null), field);
            }
        }
        (value, field) => *value = field,
    }
}

/// The password in a file, without the end of its line.
pub(super) fn read_password(path: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn list(output: Output, answer: &Answer) -> anyhow::Result<()> {
    match output {
        Output::Json => print(answer.text()),
        Output::Table => print(table(&answer.read::<List<Target>>()?.data)),
    }
}

/// The targets, a line each.
pub(super) fn table<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Table {
    let mut table = Table::new([
        Column::Left("target"),
        Column::Left("state"),
        Column::Left("health"),
        Column::Right("consumers"),
        Column::Left("database"),
    ]);
    for Target { name, state, health, consumers, connection, .. } in targets {
        let cells = [name, state, &health.status, &figures::count(*consumers), &connection.to_string()];
        table.row(cells.map(Clone::clone));
    }
    table
}

/// A target, to be watched.
pub(super) fn thing(shown: &Shown<Target>) -> Thing {
    let Target { name, state, health, consumers, connection, .. } = &shown.resource;
    let consumers = figures::counted(*consumers, "consumer");
    let state = format!("{state}, {}, {consumers}, {connection}", health.status);
    Thing::of(format!("target {name}"), state, &shown.json)
}

fn show(output: Output, answer: &Answer) -> anyhow::Result<()> {
    if output == Output::Json {
        return print(answer.text());
    }
    let target: Target = answer.read()?;
    let mut facts = Table::of_facts();
    facts.fact("target", &target.name);
    facts.fact("id", &target.id);
    facts.fact("database", &target.connection);
    target.connection.facts(&mut facts);
    facts.fact("pool size", target.pool_size);
    if let Some(limits) = &target.limits {
        facts.fact("limits", limits.in_words());
    }
    facts.fact("state", &target.state);
    facts.fact("health", &target.health.status);
    facts.fact("consumers", figures::count(target.consumers));
    print(facts)?;
    target.health.reasons.iter().try_for_each(|reason| print(indented(reason)))
}

/// Prints SQL such that it can be piped into `psql`.
pub(super) fn print_sql(output: Output, answer: &Answer) -> anyhow::Result<()> {
    match output {
        Output::Json => print(answer.text()),
        Output::Table => print(answer.read::<Sql>()?.sql),
    }
}
