//! The check of a target: the way to its database, step by step, with what was found at each and what to do about it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_postgres::{Client, Row, types::Type};

use super::{
    error::Fault,
    identifier::readable,
    reach::{Step, StepName, StepStatus, Walk, dial, see_host_keys, takes_writes},
    session::{Opener, Session, Visitor},
    verify::Finding,
};
use crate::model::{Connection, Severity, TableName, TlsMode};

/// How long a check may take in all: longer than each of its steps, which know better what was waited for.
const CHECK_TIMEOUT: Duration = Duration::from_secs(45);

/// What a check of a target found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Every step, in order, those that were not taken included.
    pub steps: Vec<Step>,
    /// Where the way ended, if it led nowhere.
    pub fault: Option<Fault>,
    /// What is wrong with a table, if that is all that is wrong.
    pub finding: Option<Finding>,
    /// The key that the bastion shows, where none is confirmed yet: one a line.
    pub host_key: Option<String>,
    /// The server's version, as it shows it.
    pub server_version: Option<String>,
    /// How long one question took.
    pub latency: Option<Duration>,
}

impl Visitor {
    /// Walks the way to a database and to these tables there.
    pub async fn check(&self, connection: &Connection, tables: &[TableName]) -> CheckReport {
        let (mut walk, mut report) = (Walk::recorded(), CheckReport::default());
        let walked = timeout(CHECK_TIMEOUT, Box::pin(self.walk(connection, tables, &mut walk, &mut report))).await;
        if let Err(fault) = walked.unwrap_or_else(|_| Err(Fault::timed_out("the check"))) {
            walk.failed(&fault);
            // Between two steps: the next is the one that is not reached.
            let next = StepName::ALL.into_iter().find(|step| !walk.has(*step));
            if let Some(next) = next.filter(|_| !walk.has_failed()) {
                walk.failed_at(next, &fault);
            }
            report.fault = Some(fault.while_connecting());
        }
        report.steps = walk.into_steps();
        report
    }

    async fn walk(
        &self,
        connection: &Connection,
        tables: &[TableName],
        walk: &mut Walk,
        report: &mut CheckReport,
    ) -> Result<(), Fault> {
        let opener = self.opener(connection)?;
        let client = self.enter(&opener, connection, walk, report).await?;
        walk.step(StepName::Server, async {
            report.server_version = Some(client.query_typed_one("show server_version", &[]).await?.try_get(0)?);
            takes_writes(&client).await
        })
        .await?;
        walk.found(|| {
            format!("PostgreSQL {}, which takes writes", report.server_version.as_deref().unwrap_or_default())
        });
        let session = opener.settle(client, walk).await?;
        if self.limits.max_replica_lag_seconds.is_some() && session.is_blind_to_lag().await? {
            let finding = "there are replicas, and the user may not see how far they are behind: max_replica_lag_seconds has no effect";
            walk.warn(finding.into(), format!("grant pg_monitor to {};", readable(&connection.username)));
        }
        check_tables(&session, tables, walk, report).await?;
        let asked = Instant::now();
        walk.step(StepName::Latency, session.answers()).await?;
        let latency = asked.elapsed();
        walk.found(|| format!("a question takes {:.1} ms", latency.as_secs_f64() * 1000.0));
        report.latency = Some(latency);
        Ok(())
    }

    /// Gets into the database.
    async fn enter(
        &self,
        opener: &Opener,
        connection: &Connection,
        walk: &mut Walk,
        report: &mut CheckReport,
    ) -> Result<Client, Fault> {
        match &connection.bastion {
            None => {
                walk.skip(StepName::Bastion, "there is none");
                dial(connection, self.egress(), walk).await?;
            }
            Some(bastion) => {
                walk.skip(StepName::Dns, "the bastion looks up the database's name");
                if bastion.host_key.is_none() {
                    let seen = walk.step(StepName::Bastion, see_host_keys(bastion, self.egress())).await?;
                    walk.forget(StepName::Bastion);
                    report.host_key = Some(seen.join("\n"));
                }
            }
        }
        let began = Instant::now();
        // With no bastion, the names have been looked up already.
        let mut unheard = Walk::default();
        let way = if connection.bastion.is_some() { &mut *walk } else { &mut unheard };
        let entered = opener.arrive(way).await;
        let took = began.elapsed();
        match &entered {
            Ok(client) => {
                on_tls(client, connection, opener.secured_by(), walk).await;
                let user = readable(&connection.username);
                walk.took(StepName::Auth, Some(took), StepStatus::Ok, Some(format!("the server lets {user} in")), None);
                walk.took(StepName::Database, None, StepStatus::Ok, Some(readable(&connection.database)), None);
            }
            Err(fault) if !walk.has_failed() => fell(fault, took, connection, walk),
            Err(_) => {}
        }
        entered
    }
}

/// Says at which step the way into the database ended; those before it went well.
fn fell(fault: &Fault, took: Duration, connection: &Connection, walk: &mut Walk) {
    let said_nothing = if connection.tls.mode == TlsMode::Disable { StepName::Auth } else { StepName::Tls };
    let at = match step_of(fault) {
        // Somebody is there, and has not spoken to us.
        StepName::Tcp if walk.has(StepName::Tcp) => said_nothing,
        at => at,
    };
    for before in [StepName::Tcp, StepName::Tls, StepName::Auth, StepName::Database] {
        if before >= at {
            break;
        }
        if !walk.has(before) {
            walk.took(before, None, StepStatus::Ok, None, None);
        }
    }
    let fix = fix_of(fault, connection);
    walk.forget(at);
    walk.took(at, Some(took), StepStatus::Failed, Some(fault.to_string()), Some(fix));
}

/// Where the way ends with such a fault.
fn step_of(fault: &Fault) -> StepName {
    match (fault.code, fault.sqlstate.as_deref()) {
        ("host_not_found" | "address_denied", _) => StepName::Dns,
        ("host_key_unconfirmed", _) => StepName::Bastion,
        (code, _) if code.starts_with("bastion_") => StepName::Bastion,
        (code, _) if code.starts_with("tls_") || code == "client_certificate_refused" => StepName::Tls,
        ("read_only", _) => StepName::Server,
        ("database_missing", _) | (_, Some("42501")) => StepName::Database,
        ("authentication_failed" | "bad_settings", _) | (_, Some(_)) => StepName::Auth,
        _ => StepName::Tcp,
    }
}

/// What to do: the SQL, where that is known.
fn fix_of(fault: &Fault, connection: &Connection) -> String {
    match fault.sqlstate.as_deref() {
        Some("42501") => grant_connect(&connection.database, &connection.username),
        _ => fault.fix.to_owned(),
    }
}

/// The statement that gives the right to connect.
pub(super) fn grant_connect(database: &str, user: &str) -> String {
    format!("grant connect on database {} to {};", readable(database), readable(user))
}

/// Says how the line is secured: as the server sees it, and as we do.
async fn on_tls(client: &Client, connection: &Connection, secured_by: Option<String>, walk: &mut Walk) {
    const TLS: &str = "select version, cipher from pg_catalog.pg_stat_ssl
        where pid = pg_catalog.pg_backend_pid() and ssl";
    if connection.tls.mode == TlsMode::Disable {
        walk.skip(StepName::Tls, "the target's tls.mode is disable");
        return;
    }
    let seen = client.query_typed_opt(TLS, &[]).await.and_then(|row| {
        let words = |row: Row| Ok(format!("{} by {}", row.try_get::<_, &str>(0)?, row.try_get::<_, &str>(1)?));
        row.map(words).transpose()
    });
    let is_here = connection.bastion.is_none() && is_here(&connection.host);
    let (status, found, fix) = match seen {
        // It let us in as it should. That it does not show how is no reason to go no further.
        Err(error) => {
            let fix = "nothing, unless the server should have that view: give the user the right to read pg_stat_ssl";
            let found = format!("the server does not show how it is secured: {}", Fault::from(error));
            (StepStatus::Warning, found, Some(fix.to_owned()))
        }
        Ok(Some(seen)) => (StepStatus::Ok, format!("{seen}, as the server sees it"), None),
        Ok(None) if is_here => (StepStatus::Ok, "not encrypted, on one machine".to_owned(), None),
        Ok(None) if connection.tls.mode == TlsMode::Prefer => {
            let fix = "set the target's tls.mode to verify-full, and let the server have a certificate";
            (StepStatus::Warning, "the server offers none: nothing is encrypted".to_owned(), Some(fix.to_owned()))
        }
        // Something on the way speaks TLS with us, and not with the server.
        Ok(None) => (StepStatus::Ok, "encrypted, as far as a pooler or proxy before the server".to_owned(), None),
    };
    let found = [Some(found), secured_by].into_iter().flatten().collect::<Vec<_>>().join("; ");
    walk.took(StepName::Tls, None, status, Some(found), fix);
}

/// Whether what is said to this host never leaves the machine.
fn is_here(host: &str) -> bool {
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    host.starts_with('/') || host == "localhost" || is_loopback
}

/// Compares the tables with what they should be: what is wrong is said by step, for each of them.
async fn check_tables(
    session: &Session,
    tables: &[TableName],
    walk: &mut Walk,
    report: &mut CheckReport,
) -> Result<(), Fault> {
    if tables.is_empty() {
        for step in [StepName::Schema, StepName::Rights, StepName::Table] {
            walk.skip(step, "no consumer writes to a table there yet");
        }
    }
    for table in tables {
        let began = Instant::now();
        let findings = session.verify(table).await?;
        let took = began.elapsed();
        report.finding = report.finding.take().or_else(|| findings.iter().find(|finding| is_error(finding)).cloned());
        let schema = readable(&table.schema);
        let has_schema = say(walk, StepName::Schema, took, &findings, &schema);
        let name = format!("{schema}.{}", readable(&table.table));
        if !has_schema {
            walk.skip(StepName::Rights, &format!("{name}: for want of the schema"));
            walk.skip(StepName::Table, &format!("{name}: for want of the schema"));
            continue;
        }
        say(walk, StepName::Rights, took, &findings, &format!("all that it takes on {name}"));
        say(walk, StepName::Table, took, &findings, &name);
    }
    Ok(())
}

/// Says what was found of one step; whether one can go on.
fn say(walk: &mut Walk, step: StepName, took: Duration, findings: &[Finding], well: &str) -> bool {
    let of_step: Vec<_> = findings.iter().filter(|finding| step_of_finding(finding) == step).collect();
    let has_error = of_step.iter().any(|finding| is_error(finding));
    let (status, found, fix) = match of_step.as_slice() {
        [] => (StepStatus::Ok, well.to_owned(), None),
        some => {
            let status = if has_error { StepStatus::Failed } else { StepStatus::Warning };
            let join = |text: fn(&Finding) -> &str, by| some.iter().map(|f| text(f)).collect::<Vec<_>>().join(by);
            (status, join(|finding| &finding.message, "; "), Some(join(|finding| &finding.fix_sql, "\n")))
        }
    };
    walk.took(step, Some(took), status, Some(found), fix);
    !has_error
}

fn is_error(finding: &Finding) -> bool {
    finding.severity == Severity::Error
}

fn step_of_finding(finding: &Finding) -> StepName {
    match finding.code {
        "schema_missing" | "schema_privilege_missing" => StepName::Schema,
        "table_privilege_missing" | "row_security" => StepName::Rights,
        _ => StepName::Table,
    }
}

impl Session {
    async fn answers(&self) -> Result<(), Fault> {
        self.client.query_typed_one("select $1", &[(&1i32, Type::INT4)]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Tls, postgres::Egress};

    #[tokio::test]
    async fn a_check_that_fails_before_its_first_step_says_so_at_that_step() {
        let connection = Connection {
            host: "no host".into(),
            port: 5432,
            database: "app".into(),
            username: "sequin".into(),
            password: None,
            password_file: None,
            tls: Tls::default(),
            bastion: None,
        };
        let report = Visitor::new("sequin".into(), Egress::default()).check(&connection, &[]).await;
        assert_eq!(report.fault.expect("no way").code, "bad_settings");
        let failed: Vec<_> = report.steps.iter().filter(|step| step.status == StepStatus::Failed).collect();
        let [failed] = failed.as_slice() else { panic!("{failed:?}") };
        assert_eq!(failed.name, StepName::Dns);
        assert!(failed.finding.as_ref().is_some_and(|finding| finding.contains("connection.host")), "{failed:?}");
    }
}
