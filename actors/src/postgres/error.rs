//! Whose fault an error is, and what to do about it: the one place that decides.

use std::fmt;

use tokio_postgres::error::SqlState;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The database can't be reached or can't work: all its consumers wait until it can.
    Target,
    /// Somebody else was in the way: the same again may succeed.
    Contention,
    /// The table or the rights on it are not as they should be: this consumer halts.
    Table,
    /// A record is one that the table can't take.
    Record,
}

/// An error of a database: whose fault it is, and the way out. Holds no password and no payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub verdict: Verdict,
    /// A stable word for programs.
    pub code: &'static str,
    /// PostgreSQL's code, if the server answered with one.
    pub sqlstate: Option<String>,
    /// What happened, in a sentence.
    pub summary: String,
    /// What to do.
    pub fix: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.summary)?;
        match &self.sqlstate {
            Some(sqlstate) => write!(f, " (SQLSTATE {sqlstate})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db_error) => Self::of_sqlstate(db_error.code(), db_error.message()),
            None => Self::of_connection(&error),
        }
    }
}

impl Fault {
    /// The fault that the server named by its SQLSTATE
    /// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    fn of_sqlstate(state: &SqlState, message: &str) -> Self {
        let (verdict, code, fix) = verdict_of(state.code());
        Self { verdict, code, sqlstate: Some(state.code().into()), summary: message.into(), fix }
    }

    /// The server did not answer, or not to the end.
    fn of_connection(error: &tokio_postgres::Error) -> Self {
        let mut summary = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !summary.contains(&text) {
                summary = format!("{summary}: {text}");
            }
            source = cause.source();
        }
        Self {
            verdict: Verdict::Target,
            code: "connection_failed",
            sqlstate: None,
            summary,
            fix: "check that the server runs and can be reached from here: host, port, firewall, TLS mode",
        }
    }

    /// The server did not answer in time.
    pub fn timed_out(what: &str) -> Self {
        Self {
            verdict: Verdict::Target,
            code: "timeout",
            sqlstate: None,
            summary: format!("{what} timed out"),
            fix: "check that the server can be reached from here and is not overloaded",
        }
    }

    /// Whether the server is there, but has no room for one more session.
    pub fn is_full(&self) -> bool {
        self.code == "too_many_connections"
    }

    /// The server is there, but takes no writes.
    pub(super) fn read_only() -> Self {
        let summary = "the server is a replica, which only reads";
        Self::of_sqlstate(&SqlState::READ_ONLY_SQL_TRANSACTION, summary)
    }

    /// The settings of the connection can't be used.
    pub(super) fn of_settings(summary: String) -> Self {
        Self {
            verdict: Verdict::Target,
            code: "bad_settings",
            sqlstate: None,
            summary,
            fix: "correct the target's connection",
        }
    }

    /// The session was closed while nobody used it.
    pub(super) fn session_closed() -> Self {
        Self {
            verdict: Verdict::Target,
            code: "session_closed",
            sqlstate: None,
            summary: "the server closed the session".into(),
            fix: "nothing: another one is opened",
        }
    }

    /// Every session of the pool was busy for too long.
    pub fn pool_exhausted() -> Self {
        Self {
            verdict: Verdict::Contention,
            code: "pool_exhausted",
            sqlstate: None,
            summary: "all sessions of the target were busy".into(),
            fix: "raise the target's pool_size if the server has connections to spare",
        }
    }
}

fn verdict_of(sqlstate: &str) -> (Verdict, &'static str, &'static str) {
    match sqlstate {
        "40001" | "40P01" | "55P03" | "57014" => (
            Verdict::Contention,
            "contention",
            "nothing, unless it stays: then look for long transactions on the table",
        ),
        "42501" => (Verdict::Table, "insufficient_privilege", "grant the rights that verify names"),
        "28P01" | "28000" => {
            (Verdict::Target, "authentication_failed", "check the user name and password, and the server's pg_hba.conf")
        }
        "3D000" => (Verdict::Target, "database_missing", "check the name of the database, or create it"),
        "53300" => (Verdict::Target, "too_many_connections", "lower pool_size, or raise max_connections of the server"),
        "53100" => (Verdict::Target, "disk_full", "free disk space on the server"),
        "25006" => {
            (Verdict::Target, "read_only", "point the target at the primary: this server only reads, as a replica does")
        }
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "08" | "25" | "28" | "3D" | "53" | "57" | "58" | "F0" | "XX" => {
                (Verdict::Target, "server_fault", "look at the server's log")
            }
            "22" | "23" | "54" => {
                (Verdict::Record, "record_fault", "look at the record, and at constraints on the table")
            }
            "40" => (Verdict::Contention, "contention", "nothing, unless it stays"),
            // Whatever else there is comes from the table: its keys, its triggers, its rules.
            _ => (Verdict::Table, "table_fault", "mend the table as verify says, and look at its triggers"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_error_is_somebodys_fault() {
        let expected = [
            ("08006", Verdict::Target),
            ("28P01", Verdict::Target),
            ("53200", Verdict::Target),
            ("57P01", Verdict::Target),
            ("57P03", Verdict::Target),
            ("25006", Verdict::Target),
            ("3D000", Verdict::Target),
            ("40001", Verdict::Contention),
            ("40P01", Verdict::Contention),
            ("55P03", Verdict::Contention),
            ("57014", Verdict::Contention),
            ("42P01", Verdict::Table),
            ("42703", Verdict::Table),
            ("42501", Verdict::Table),
            ("3F000", Verdict::Table),
            ("55000", Verdict::Table),
            ("P0001", Verdict::Table),
            ("22P05", Verdict::Record),
            ("23505", Verdict::Record),
            ("54000", Verdict::Record),
        ];
        for (sqlstate, verdict) in expected {
            assert_eq!(verdict_of(sqlstate).0, verdict, "{sqlstate}");
        }
    }
}
