//! Whose fault an error is, and what to do about it: the one place that decides.

mod kinds;
mod tls;
mod ways;

use std::{error::Error, fmt, io, net::SocketAddr};

use self::kinds::Kind;
use crate::spans::ErrorType;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The database can't be reached or can't work: all its consumers wait until it can.
    Target,
    /// Somebody else was in the way: the same again may succeed.
    Contention,
    /// The table or the rights on it are not as they should be: this consumer halts.
    Table,
    /// A record is one that the table can't take: it goes to quarantine.
    Record,
}

impl Verdict {
    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Contention => "contention",
            Self::Table => "table",
            Self::Record => "record",
        }
    }
}

/// How much of a server's message is kept, in bytes: triggers can say anything, at any length.
const MAX_MESSAGE: usize = 500;

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
    /// Why such a thing happens.
    pub cause: &'static str,
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

impl Error for Fault {}

impl ErrorType for Fault {
    fn error_type(&self) -> &'static str {
        self.code
    }

    fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Its detail and context would quote the record.
            Some(db_error) => Self::of_sqlstate(db_error.code().code(), db_error.message()),
            None => {
                let words = with_causes(&error);
                let of_tls = tls::of_connection(&error, &words);
                let (kind, summary) = of_tls.unwrap_or_else(|| (kinds::of_connection(&error, &words), words));
                Self::new(kind, None, summary)
            }
        }
    }
}

impl Fault {
    fn new(kind: Kind, sqlstate: Option<&str>, summary: impl Into<String>) -> Self {
        let Kind { verdict, code, cause, fix } = kind;
        let mut summary = summary.into();
        summary.truncate(summary.floor_char_boundary(MAX_MESSAGE));
        Self { verdict, code, sqlstate: sqlstate.map(str::to_owned), summary, cause, fix }
    }

    fn of_sqlstate(sqlstate: &str, message: &str) -> Self {
        // PgBouncer has a mode that is worse still, of which it says no more than these words.
        let is_pooler = sqlstate == "08P01" && message.contains("statement pooling mode");
        // Nor did it always have a code of its own for having no room.
        let is_full = sqlstate == "08P01" && message.contains("no more connections allowed");
        let kind = match sqlstate.get(..2) {
            _ if is_pooler => kinds::TRANSACTION_POOLER,
            _ if is_full => kinds::of_sqlstate("53300"),
            Some("28") => tls::of_refused_user(message).unwrap_or_else(|| kinds::of_sqlstate(sqlstate)),
            _ => kinds::of_sqlstate(sqlstate),
        };
        Self::new(kind, Some(sqlstate), message)
    }

    /// The server did not answer in time.
    pub fn timed_out(what: &str) -> Self {
        Self::new(kinds::TIMEOUT, None, format!("{what} timed out"))
    }

    /// Something on our side broke.
    pub fn internal(summary: &str) -> Self {
        Self::new(kinds::INTERNAL, None, summary)
    }

    /// Every session of the pool was busy for too long.
    pub fn pool_exhausted() -> Self {
        Self::new(kinds::POOL_EXHAUSTED, None, "all sessions of the target were busy")
    }

    /// The server is there, but takes no writes.
    pub(super) fn read_only() -> Self {
        Self::new(kinds::READ_ONLY, None, "the server only reads")
    }

    /// Nobody answers at an address.
    pub(super) fn unreachable(address: SocketAddr, error: &io::Error) -> Self {
        let kind = kinds::of_io(error, kinds::CONNECTION_FAILED);
        Self::new(kind, None, format!("connecting to {address} failed: {error}"))
    }

    /// Sessions don't keep their processes.
    pub(super) fn transaction_pooler(summary: String) -> Self {
        Self::new(kinds::TRANSACTION_POOLER, None, summary)
    }

    /// The server knows a session by this name, which is not the one that it was given.
    pub(super) fn application_name_lost(shown: &str) -> Self {
        let summary =
            format!("the server calls a session of ours {shown:?}: the name that we gave it was lost on the way");
        Self::new(kinds::APPLICATION_NAME_LOST, None, summary)
    }

    /// The server works, and has more to bear than it may while we work there.
    pub(super) fn strained(summary: String) -> Self {
        Self::new(kinds::STRAINED, None, summary)
    }

    /// The settings of the connection can't be used.
    pub(super) fn of_settings(summary: String) -> Self {
        Self::new(kinds::BAD_SETTINGS, None, summary)
    }

    /// The session was closed, and we heard nothing of it.
    pub fn session_closed() -> Self {
        Self::new(kinds::SESSION_CLOSED, None, "the server closed the session")
    }

    /// Another node has the target by now, or may have.
    pub(super) fn not_owner() -> Self {
        Self::new(kinds::NOT_OWNER, None, "this node could not make sure that the target is still its own")
    }

    /// The same, as the target's fault: while a session is being opened, nothing else can be.
    pub(super) fn while_connecting(self) -> Self {
        Self { verdict: Verdict::Target, ..self }
    }

    /// The same; and where the server refused our certificate, which that was.
    pub(super) fn about_client_certificate(mut self, ours: Option<&str>) -> Self {
        if self.code == "client_certificate_refused" {
            let ours = ours.map_or_else(|| "the target has none".into(), |ours| format!("ours is {ours}"));
            self.summary = format!("{}; {ours}", self.summary);
        }
        self
    }

    /// Whether the server is there, but has no room for one more session.
    pub fn is_full(&self) -> bool {
        self.code == "too_many_connections"
    }

    /// Whether the server works, and is only spared.
    pub fn is_strained(&self) -> bool {
        self.code == kinds::STRAINED.code
    }

    /// Whether the server can be asked and answer, and still not work: its disk or its memory is full, or a pooler on the way to
    /// it was given another mode.
    pub fn is_beyond_a_probe(&self) -> bool {
        let is_exhausted =
            self.sqlstate.as_deref().is_some_and(|sqlstate| sqlstate.starts_with("53")) && !self.is_full();
        is_exhausted || self.is_of_pooler()
    }

    /// Whether a session of ours does not keep its process.
    pub(super) fn is_of_pooler(&self) -> bool {
        self.code == kinds::TRANSACTION_POOLER.code
    }

    /// Whether less at a time may get through.
    pub fn is_too_slow(&self) -> bool {
        self.code == "cancelled"
    }

    /// Whether another record can make this one acceptable, so that it is worth trying again: constraints between
    /// rows, and triggers, see one record before the other.
    pub fn may_heal(&self) -> bool {
        let class = self.sqlstate.as_deref().and_then(|sqlstate| sqlstate.get(..2));
        self.verdict == Verdict::Record && matches!(class, Some("23" | "44" | "P0"))
    }
}

fn with_causes(error: &tokio_postgres::Error) -> String {
    let mut summary = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !summary.contains(&text) {
            summary = format!("{summary}: {text}");
        }
        source = cause.source();
    }
    summary
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
            ("26000", Verdict::Target),
            ("42P05", Verdict::Target),
            ("40001", Verdict::Contention),
            ("40P01", Verdict::Contention),
            ("55P03", Verdict::Contention),
            ("57014", Verdict::Contention),
            ("42P01", Verdict::Table),
            ("42703", Verdict::Table),
            ("42501", Verdict::Table),
            ("3F000", Verdict::Table),
            ("55000", Verdict::Table),
            ("XX001", Verdict::Table),
            ("P0001", Verdict::Record),
            ("22P05", Verdict::Record),
            ("23505", Verdict::Record),
            ("54000", Verdict::Record),
        ];
        for (sqlstate, verdict) in expected {
            let fault = Fault::of_sqlstate(sqlstate, "message");
            assert_eq!(fault.verdict, verdict, "{sqlstate}");
            assert!(![fault.code, fault.cause, fault.fix].contains(&""), "{sqlstate}");
        }
    }

    #[test]
    fn what_other_records_can_mend_is_worth_another_try_and_the_rest_is_not() {
        let may_heal = |sqlstate| Fault::of_sqlstate(sqlstate, "").may_heal();
        assert!(["23503", "23505", "23P01", "P0001"].into_iter().all(may_heal));
        assert!(!["22P05", "22003", "54000", "42P01", "40001"].into_iter().any(may_heal));
    }

    #[test]
    fn a_pooler_that_is_full_says_so_in_words() {
        let of = |message| Fault::of_sqlstate("08P01", message);
        assert!(of("no more connections allowed (max_client_conn)").is_full());
        assert!(of("statement pooling mode does not allow transactions").is_of_pooler());
        assert_eq!(of("invalid startup packet").code, "connection_failed");
    }

    #[test]
    fn a_message_is_kept_to_a_length_and_cut_between_characters() {
        let fault = Fault::of_sqlstate("P0001", &"é".repeat(MAX_MESSAGE));
        assert_eq!(fault.summary.len(), MAX_MESSAGE);
    }
}
