//! Every kind of fault: whose it is, why it comes, and the way out.

use std::{error::Error, io};

use super::Verdict::{self, Contention, Record, Table, Target};

/// What is known of a fault before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) verdict: Verdict,
    pub(super) code: &'static str,
    pub(super) cause: &'static str,
    pub(super) fix: &'static str,
}

pub(super) const fn kind(verdict: Verdict, code: &'static str, cause: &'static str, fix: &'static str) -> Kind {
    Kind { verdict, code, cause, fix }
}

const PASSES: &str = "nothing, unless it stays: then look for long transactions and locks on the table";
const UNSUPPORTED_TEXT: &str = "the record holds text that PostgreSQL can't, such as \\u0000";
const REPLACE_TEXT: &str = "mend the record upstream, or set the consumer's unsupported_text to replace";
const AS_VERIFY_SAYS: &str =
    "run the SQL that verify shows; the consumer goes on by itself, or at once when it is resumed";

pub(super) const TIMEOUT: Kind = kind(
    Target,
    "timeout",
    "the server did not answer in time",
    "check that the server can be reached from here and is not overloaded",
);
pub(super) const BAD_SETTINGS: Kind =
    kind(Target, "bad_settings", "the target's settings contradict themselves", "correct the target's connection");
pub(super) const SESSION_CLOSED: Kind = kind(
    Target,
    "session_closed",
    "the server, or something on the way to it, closed the connection",
    "nothing: another one is opened",
);
pub(super) const INTERNAL: Kind =
    kind(Target, "internal_fault", "a fault of this program", "nothing, unless it stays: then look at this node's log");
pub(super) const NOT_OWNER: Kind = kind(
    Target,
    "not_owner",
    "the node was paused or cut off from the control store, and another one takes the target over",
    "nothing: the node that owns the target brings what is missing",
);
pub(super) const POOL_EXHAUSTED: Kind = kind(
    Contention,
    "pool_exhausted",
    "the target's other consumers used all of its sessions",
    "raise the target's pool_size if the server has connections to spare",
);
pub(super) const READ_ONLY: Kind = kind(
    Target,
    "read_only",
    "the server is a replica, as after a failover, or its transactions only read by default",
    "point the target at the primary, or set default_transaction_read_only to off for the database and the user",
);
pub(super) const TRANSACTION_POOLER: Kind = kind(
    Target,
    "transaction_pooler",
    "such a pooler gives each transaction whichever process of the server is free, so no session keeps its settings, its \
     statements, and the process by which what an earlier run has left behind is ended",
    "connect to the server itself, or to the pooler in session mode: PgBouncer with pool_mode=session, Supabase on port 5432, \
     Neon by the host without -pooler",
);
pub(super) const APPLICATION_NAME_LOST: Kind = kind(
    Target,
    "application_name_lost",
    "a pooler or proxy on the way keeps the name of our sessions from the server, and what an earlier run has left behind is told by \
     that name from what is somebody else's",
    "connect to the server itself, or to a pooler that passes application_name on, as PgBouncer does",
);
pub(super) const STRAINED: Kind = kind(
    Target,
    "server_strained",
    "the server is beyond a limit of the target's, and is spared until it is below again",
    "nothing: its consumers go on by themselves; if it stays, look at what else the server does, or raise the target's limits",
);
const REFUSED: Kind = kind(
    Target,
    "connection_refused",
    "no server listens at this address, or a firewall turns us away",
    "check that the server runs, its host and port, and the firewall",
);
pub(super) const NO_SUCH_HOST: Kind =
    kind(Target, "host_not_found", "the host's name has no address", "check the name of the host, and the DNS");
pub(super) const CONNECTION_FAILED: Kind = kind(
    Target,
    "connection_failed",
    "the connection broke, or was never made",
    "check that the server runs and can be reached from here: host, port, firewall",
);
const AUTHENTICATION: Kind = kind(
    Target,
    "authentication_failed",
    "the server does not let this user in with this password from here",
    "correct the target's username and password, and check the server's pg_hba.conf",
);
const PASSWORD_MISSING: Kind = kind(
    Target,
    "authentication_failed",
    "the server asks this user for a password, and the target has none",
    "set the target's password, or its password_file",
);

/// What the server named by its SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(super) fn of_sqlstate(sqlstate: &str) -> Kind {
    match sqlstate {
        "40P01" => kind(Contention, "deadlock", "another session's transaction and ours waited for each other", PASSES),
        "55P03" => kind(Contention, "locked", "another session holds a lock on the table or the row", PASSES),
        "57014" => kind(Contention, "cancelled", "the statement took too long, or was cancelled", PASSES),
        "57P01" | "57P02" | "57P03" => kind(
            Target,
            "server_unavailable",
            "the server stops, starts or recovers, or an administrator ended the session",
            "start the server, if it does not start by itself",
        ),
        "3D000" | "57P04" => {
            kind(Target, "database_missing", "the database is not there", "check the database's name, or create it")
        }
        "53300" => kind(
            Target,
            "too_many_connections",
            "the server has no room for one more session",
            "lower pool_size, or raise max_connections of the server or the limit of the user or database",
        ),
        "53100" => kind(Target, "disk_full", "the server's disk is full", "free disk space on the server, or add some"),
        "53200" => kind(Target, "out_of_memory", "the server has no memory left", "give the server more memory"),
        "25006" => READ_ONLY,
        // A statement that this session has prepared is not there, or another's is: the process is not the session's.
        "26000" | "42P05" => TRANSACTION_POOLER,
        "42501" => kind(
            Table,
            "insufficient_privilege",
            "the user lacks a right",
            "grant the rights that verify names; the consumer goes on by itself, or at once when it is resumed",
        ),
        "42P01" => kind(Table, "table_missing", "the table is not there", AS_VERIFY_SAYS),
        "3F000" => kind(Table, "schema_missing", "the schema is not there", AS_VERIFY_SAYS),
        "42703" => kind(Table, "column_missing", "a column is not there", AS_VERIFY_SAYS),
        "42804" | "42883" => kind(Table, "column_type", "a column is of another type", AS_VERIFY_SAYS),
        "42P10" => kind(Table, "primary_key_missing", "sequin_id is not the table's primary key", AS_VERIFY_SAYS),
        "23503" => kind(
            Record,
            "foreign_key_violation",
            "the record refers to one that is not there, or another row refers to it",
            "nothing, if the other record is still to come; otherwise drop the foreign key",
        ),
        "23505" | "23P01" => kind(
            Record,
            "unique_violation",
            "another row has a value that the table's index or constraint wants to be unique",
            "nothing, if the other record is still to change; otherwise drop the unique index or constraint",
        ),
        "23514" | "44000" => kind(
            Record,
            "check_violation",
            "a check on the table forbids the record",
            "relax the check, then retry the quarantine",
        ),
        "22P05" | "22021" => kind(Record, "unsupported_text", UNSUPPORTED_TEXT, REPLACE_TEXT),
        "22P02" => kind(
            Record,
            "invalid_text",
            "the record holds text that PostgreSQL can't, such as half of a surrogate pair, or that a cast in an index, a \
             generated column or a constraint can't read",
            "mend the record upstream, set the consumer's unsupported_text to replace, or drop what casts it",
        ),
        "22003" | "22008" => kind(
            Record,
            "value_out_of_range",
            "the record holds a number or a time beyond what PostgreSQL's types hold",
            "mend the record upstream, or discard it",
        ),
        "54000" => kind(
            Record,
            "record_too_large",
            "the record, or its entry in an index, is larger than PostgreSQL allows",
            "drop the index that is too narrow for it, then retry the quarantine",
        ),
        _ => of_class(sqlstate.get(..2).unwrap_or_default()),
    }
}

fn of_class(class: &str) -> Kind {
    match class {
        "28" => AUTHENTICATION,
        "40" => kind(Contention, "contention", "another transaction was in the way", PASSES),
        "08" => CONNECTION_FAILED,
        "53" => kind(
            Target,
            "out_of_resources",
            "the server has run into a limit",
            "look at the server's log for the limit, and raise it",
        ),
        "25" | "57" | "58" | "F0" => {
            kind(Target, "server_fault", "the server could not do its work", "look at the server's log")
        }
        "22" | "23" | "54" => kind(
            Record,
            "record_refused",
            "the table can't take the record",
            "look at the record, and at constraints on the table; then retry the quarantine",
        ),
        "P0" => kind(
            Record,
            "trigger_refused",
            "a trigger on the table refused the record",
            "mend the trigger or the record, then retry the quarantine",
        ),
        _ => kind(
            Table,
            "table_fault",
            "the table, an index or a trigger on it does not work",
            "look at the table's indexes and triggers; the consumer tries again by itself, or when it is resumed",
        ),
    }
}

/// What the connection ran into, which the server did not name: told by the causes behind the driver's error.
pub(super) fn of_connection(error: &tokio_postgres::Error, words: &str) -> Kind {
    let mut kind = if error.is_closed() { SESSION_CLOSED } else { CONNECTION_FAILED };
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        kind = error.downcast_ref::<io::Error>().map_or(kind, |error| of_io(error, kind));
        cause = error.source();
    }
    // The driver names these in words alone.
    match words {
        words if words.ends_with("password missing") => PASSWORD_MISSING,
        words if words.starts_with("authentication error") => AUTHENTICATION,
        words if words.starts_with("timeout") => TIMEOUT,
        words if words.starts_with("invalid configuration") => BAD_SETTINGS,
        _ => kind,
    }
}

pub(super) fn of_io(error: &io::Error, otherwise: Kind) -> Kind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => REFUSED,
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => TIMEOUT,
        // What resolving a name fails with has no kind of its own.
        _ if error.to_string().contains("lookup address") => NO_SUCH_HOST,
        _ => otherwise,
    }
}
