//! What the demo plays on: a database, a service, and somebody to speak for its customer.

use anyhow::Context;
use reqwest::Url;
use sequin_actors::{
    EngineSettings,
    model::{Connection, Secret, Tls},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::{DemoArguments, say};
use crate::{
    cli::{client::Client, connection::DatabaseUrl},
    config::Config,
    demo::{
        customer::{Customer, READER, SEQUIN},
        postgres::{Options, ThrowawayPostgres},
    },
    service::Service,
};

/// The schema in a database that is not the demo's own, where nothing else is to be touched.
const GUEST_SCHEMA: &str = "sequin_demo";

/// The database on a server that is the demo's own.
const DATABASE: &str = "app";

/// All that has to be cleared away again.
pub(super) struct Stage {
    /// The way to the service.
    pub(super) client: Client,
    /// Where the service answers.
    pub(super) url: String,
    /// The customer's own way into the database.
    pub(super) owner: Connection,
    /// How Sequin is to get there.
    pub(super) sequin: Connection,
    /// The schema of the table.
    pub(super) schema: &'static str,
    /// The schema of the views.
    pub(super) view_schema: &'static str,
    /// How to look around, as an argument of `psql`.
    pub(super) look_around: String,
    service: Service,
    data: TempDir,
    postgres: Option<ThrowawayPostgres>,
}

/// A database, and who gets in how.
struct Database {
    owner: Connection,
    sequin: Connection,
    schema: &'static str,
    view_schema: &'static str,
    look_around: String,
    postgres: Option<ThrowawayPostgres>,
}

impl Stage {
    pub(super) async fn set(arguments: &DemoArguments) -> anyhow::Result<Self> {
        let database = match &arguments.target_url {
            Some(url) => theirs(&DatabaseUrl::of_argument("--target-url", url)?.connection).await?,
            None => ours().await?,
        };
        let data = tempfile::Builder::new().prefix("sequin-demo-").tempdir().context("making a data directory")?;
        let config = Config::embedded(data.path(), "demo");
        let service = Service::start(&config, EngineSettings::default()).await?;
        let url = format!("http://{}", service.address());
        say(format_args!("Sequin             {}, its data in {}", service.address(), data.path().display()))?;
        let client = Client::new(Url::parse(&url)?, Some(service.admin_token().clone()))?;
        let Database { owner, sequin, schema, view_schema, look_around, postgres } = database;
        Ok(Self { client, url, owner, sequin, schema, view_schema, look_around, service, data, postgres })
    }

    /// Whether the server is the demo's own.
    pub(super) fn is_ours(&self) -> bool {
        self.postgres.is_some()
    }

    /// The file with the token.
    pub(super) fn token_file(&self) -> String {
        self.data.path().join("admin-token").display().to_string()
    }

    /// The statement that removes what stays behind in a database that is not the demo's own.
    pub(super) fn leftovers(&self) -> Option<String> {
        (!self.is_ours()).then(|| format!("drop schema if exists {} cascade;", self.schema))
    }

    /// Lets the service finish, then removes everything.
    pub(super) async fn clear(self) {
        self.service.stop().await;
        let (data, postgres) = (self.data, self.postgres);
        // Both wait for the disk, and the server for its processes. An error would be a panic there, told already.
        let _ = tokio::task::spawn_blocking(move || drop((postgres, data))).await;
    }
}

/// A server of our own, prepared as the documentation says.
async fn ours() -> anyhow::Result<Database> {
    let start = || ThrowawayPostgres::with_options(&Options { durable: true, ..Options::default() });
    let postgres = tokio::task::spawn_blocking(start).await?.context("starting a throwaway PostgreSQL")?;
    let (password, reader_password) = (generated(), generated());
    let connection = |username: &str, password: &Secret, database: &str| Connection {
        host: "127.0.0.1".into(),
        port: postgres.port(),
        database: database.into(),
        username: username.into(),
        password: Some(password.clone()),
        password_file: None,
        tls: Tls::default(),
        bastion: None,
    };
    let superuser = Secret::new(postgres.password());
    let maintenance = connection(postgres.superuser(), &superuser, "postgres");
    Customer::connect(&maintenance).await?.run(&format!("create database {DATABASE}")).await?;
    let owner = connection(postgres.superuser(), &superuser, DATABASE);
    let customer = Customer::connect(&owner).await?;
    let version = customer.server_version().await?;
    say(format_args!("PostgreSQL {version:<7} throwaway, 127.0.0.1:{}, database {DATABASE}", postgres.port()))?;
    let schema = "sequin";
    customer.prepare(DATABASE, schema, &password, &reader_password).await?;
    Ok(Database {
        sequin: connection(SEQUIN, &password, DATABASE),
        schema,
        view_schema: "public",
        look_around: format!(
            "postgres://{READER}:{}@127.0.0.1:{}/{DATABASE}",
            reader_password.reveal(),
            postgres.port()
        ),
        owner,
        postgres: Some(postgres),
    })
}

/// A database that somebody else has: Sequin is to connect as its user, too.
async fn theirs(connection: &Connection) -> anyhow::Result<Database> {
    let customer = Customer::connect(connection).await?;
    let Connection { host, port, database, username, .. } = connection;
    anyhow::ensure!(
        !customer.has_schema(GUEST_SCHEMA).await?,
        "database {database} has a schema {GUEST_SCHEMA} already, of an earlier demo perhaps; this removes it:\n\
         drop schema {GUEST_SCHEMA} cascade;"
    );
    let version = customer.server_version().await?;
    say(format_args!("PostgreSQL {version:<7} yours, {host}:{port}, database {database}"))?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok(Database {
        owner: connection.clone(),
        sequin: connection.clone(),
        schema: GUEST_SCHEMA,
        view_schema: GUEST_SCHEMA,
        look_around: format!("postgres://{username}@{host}:{port}/{database}"),
        postgres: None,
    })
}

/// A password of 122 random bits, which needs no escaping anywhere.
fn generated() -> Secret {
    Secret::new(Uuid::new_v4().simple().to_string())
}
