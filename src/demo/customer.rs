//! The customer of the demo: the one whose database it is, who prepares it, makes views and looks at the rows.
//!
//! The names of schemas and tables are the demo's own, and need no quotes.

use sequin_actors::model::{Connection, Secret, SequinId, TlsMode};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, Row, Statement, config::SslMode};

/// A statement or connection of the customer's that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustomerError {
    /// The database said no, or nothing.
    #[error("{doing}: {cause}")]
    Database {
        /// What was tried.
        doing: String,
        /// What the database said.
        cause: String,
    },
    /// The connection would have to be secured.
    #[error("the demo looks at the rows over a connection without TLS, and can't with sslmode={}", .0.as_str())]
    TlsDemanded(TlsMode),
}

fn database(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> CustomerError {
    let doing = doing.into();
    move |error| {
        // The error itself says little more than whether it is the database's.
        let cause = match (error.as_db_error(), std::error::Error::source(&error)) {
            (Some(said), _) => said.message().to_owned(),
            (None, Some(source)) => source.to_string(),
            (None, None) => error.to_string(),
        };
        CustomerError::Database { doing, cause }
    }
}

/// The user that Sequin connects as, and the one that looks around.
pub(crate) const SEQUIN: &str = "sequin";
pub(crate) const READER: &str = "reader";

/// A customer with a session in their database.
pub(crate) struct Customer {
    client: Client,
    /// Ends with the client.
    _session: JoinHandle<()>,
}

/// A row of the view.
pub(crate) struct Lead {
    pub(crate) upstream_id: String,
    pub(crate) owner_id: Option<String>,
    pub(crate) created_at: Option<String>,
}

impl Customer {
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, CustomerError> {
        let mode = connection.tls.mode;
        if !matches!(mode, TlsMode::Disable | TlsMode::Prefer) {
            return Err(CustomerError::TlsDemanded(mode));
        }
        let mut config = Config::new();
        config.host(&connection.host).port(connection.port).dbname(&connection.database).user(&connection.username);
        config.ssl_mode(SslMode::Disable).application_name("sequin-demo");
        config.connect_timeout(std::time::Duration::from_secs(10));
        if let Some(password) = &connection.password {
            config.password(password.reveal());
        }
        let doing = format!("connecting to {}:{} as {}", connection.host, connection.port, connection.username);
        let (client, session) = config.connect(NoTls).await.map_err(database(doing))?;
        let session = tokio::spawn(async move {
            // What breaks it fails the next statement too, which then says so.
            let _ = session.await;
        });
        Ok(Self { client, _session: session })
    }

    pub(crate) async fn server_version(&self) -> Result<String, CustomerError> {
        let row = self.client.query_one("show server_version", &[]).await;
        // Debian adds its own version after a space.
        let version = |row: Row| row.get::<_, &str>(0).split(' ').next().unwrap_or_default().to_owned();
        row.map(version).map_err(database("asking for the server's version"))
    }

    pub(crate) async fn has_schema(&self, schema: &str) -> Result<bool, CustomerError> {
        let sql = "select exists (select 1 from pg_catalog.pg_namespace where nspname = $1)";
        let row = self.client.query_one(sql, &[&schema]).await;
        row.map(|row| row.get(0)).map_err(database("looking for the schema"))
    }

    /// Runs statements, as one does with `psql`.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), CustomerError> {
        let doing = || format!("running {}", sql.lines().next().unwrap_or_default());
        self.client.batch_execute(sql).await.map_err(database(doing()))
    }

    /// Makes the schema and the user for Sequin with the documented grants, and a user who may only read.
    pub(crate) async fn prepare(
        &self,
        database: &str,
        schema: &str,
        password: &Secret,
        reader_password: &Secret,
    ) -> Result<(), CustomerError> {
        let (password, reader_password) = (password.reveal(), reader_password.reveal());
        self.run(&format!(
            "create schema {schema};
             create user {SEQUIN} with encrypted password '{password}';
             grant connect, create on database {database} to {SEQUIN};
             grant usage, create on schema {schema} to {SEQUIN};
             grant all privileges on all tables in schema {schema} to {SEQUIN};
             alter default privileges in schema {schema} grant all on tables to {SEQUIN};
             create user {READER} with encrypted password '{reader_password}';
             grant usage on schema {schema} to {READER};
             alter default privileges in schema {schema}, public grant select on tables to {READER};"
        ))
        .await
    }

    pub(crate) async fn count(&self, table: &str) -> Result<u64, CustomerError> {
        let row = self.client.query_one(&format!("select count(*) from {table}"), &[]).await;
        let row = row.map_err(database(format!("counting the rows of {table}")))?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// How many rows each collection has, the largest first.
    pub(crate) async fn collections(&self, table: &str) -> Result<Vec<(String, u64)>, CustomerError> {
        let sql = format!("select collection_id, count(*) from {table} group by 1 order by 2 desc, 1 limit 10");
        let rows = self.client.query(&sql, &[]).await.map_err(database("counting the rows of each collection"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect())
    }

    /// Some rows of the view of leads.
    pub(crate) async fn leads(&self, view: &str, limit: i64) -> Result<Vec<Lead>, CustomerError> {
        let sql = format!(
            "select upstream_id, hubspot_owner_id, createdate::text from {view} order by createdate desc limit $1"
        );
        let rows = self.client.query(&sql, &[&limit]).await.map_err(database(format!("reading {view}")))?;
        let lead = |row: &Row| Lead { upstream_id: row.get(0), owner_id: row.get(1), created_at: row.get(2) };
        Ok(rows.iter().map(lead).collect())
    }

    /// Prepares to ask again and again which version of a record is in the table.
    pub(crate) async fn watch(self, table: &str) -> Result<Versions, CustomerError> {
        let sql = format!("select updated_idx from {table} where sequin_id = $1");
        let statement = self.client.prepare(&sql).await.map_err(database(format!("reading {table}")))?;
        Ok(Versions { customer: self, statement })
    }
}

/// A customer who looks which versions are in a table.
pub(crate) struct Versions {
    customer: Customer,
    /// Prepared, so that asking takes one round trip.
    statement: Statement,
}

impl Versions {
    /// The version of a record, if it is there.
    pub(crate) async fn of(&self, record: SequinId) -> Result<Option<u64>, CustomerError> {
        let row = self.customer.client.query_opt(&self.statement, &[&record.0]).await;
        let row = row.map_err(database("reading a record's version"))?;
        Ok(row.map(|row| row.get::<_, i64>(0).unsigned_abs()))
    }
}

/// The statement that makes the view of the leads among the records of a table; `only` are further conditions.
pub(crate) fn create_leads_view(view: &str, table: &str, only: &str) -> String {
    format!(
        "create view {view} as
  select upstream_id,
         payload ->> 'hubspot_owner_id' as hubspot_owner_id,
         (payload ->> 'createdate')::timestamp as createdate
  from {table}
  where {only}payload ->> 'lifecyclestage' = 'lead';"
    )
}
