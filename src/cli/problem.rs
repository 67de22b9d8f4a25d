//! What a server says went wrong, for people to read.

use std::fmt;

use serde::Deserialize;

/// An error as RFC 9457 has it (`application/problem+json`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) title: String,
    pub(super) status: u16,
    pub(super) detail: String,
    pub(super) errors: Vec<Finding>,
    /// What the request is called in the server's log.
    pub(super) request_id: Option<String>,
}

/// One thing that is not as it should be: a field of a request, or something about a table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Finding {
    /// Which field of the request.
    pub(super) field: Option<String>,
    /// Which line of a publication, from 1.
    pub(super) line: Option<u64>,
    /// `error` or `warning`.
    pub(super) severity: Option<String>,
    pub(super) message: String,
    /// The SQL that mends it.
    pub(super) fix_sql: Option<String>,
}

const UNAUTHORIZED: u16 = 401;

const PRECONDITION_FAILED: u16 = 412;

/// From here on, the server's log has more to say than its answer.
const SERVER_ERROR: u16 = 500;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.status == PRECONDITION_FAILED {
            return f.write_str("somebody else has changed it in the meantime, so nothing is changed: try again");
        }
        f.write_str(if self.detail.is_empty() { &self.title } else { &self.detail })?;
        if self.status == UNAUTHORIZED {
            f.write_str(": give the token with --token or SEQUIN_TOKEN (`sequin serve` says where it is)")?;
        }
        if let Some(id) = self.request_id.as_ref().filter(|_| self.status >= SERVER_ERROR) {
            write!(f, " (request {id})")?;
        }
        // A single one is told by the detail already, unless there is more to it.
        let is_told = |finding: &Finding| finding.line.is_none() && finding.fix_sql.is_none();
        if matches!(self.errors.as_slice(), [one] if is_told(one) && self.detail.contains(&one.message)) {
            return Ok(());
        }
        self.errors.iter().try_for_each(|finding| write!(f, "\n{}", indented(finding)))
    }
}

/// `line 3: payload: …`, with the SQL below.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        let subject = self.severity.as_ref().or(self.field.as_ref()).filter(|subject| !subject.is_empty());
        if let Some(subject) = subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.fix_sql {
            Some(sql) if !sql.is_empty() => write!(f, "\n{}", indented(sql.trim_end())),
            _ => Ok(()),
        }
    }
}

/// Every line of a text, two spaces to the right.
pub(super) fn indented(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let lines = text.lines().map(|line| if line.is_empty() { String::new() } else { format!("  {line}") });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> String {
        serde_json::from_str::<Problem>(json).expect("a problem").to_string()
    }

    #[test]
    fn every_wrong_field_has_a_line() {
        let json = r#"{"title":"Unprocessable Entity","status":422,"detail":"2 fields are not valid","errors":[
            {"field":"name","message":"is taken"},{"line":3,"field":"payload","message":"is missing"}]}"#;
        assert_eq!(read(json), "2 fields are not valid\n  name: is taken\n  line 3: payload: is missing");
    }

    #[test]
    fn what_the_detail_says_is_not_said_again() {
        let json =
            r#"{"status":409,"detail":"name: app is taken","errors":[{"field":"name","message":"app is taken"}]}"#;
        assert_eq!(read(json), "name: app is taken");
    }

    #[test]
    fn a_finding_shows_the_sql_that_mends_it() {
        let json = r#"{"detail":"the table is not ready","errors":[
            {"severity":"error","message":"user s lacks insert","fix_sql":"grant insert on t to s;\n"}]}"#;
        let text = "the table is not ready\n  error: user s lacks insert\n    grant insert on t to s;";
        assert_eq!(read(json), text);
    }

    #[test]
    fn what_somebody_else_has_changed_meanwhile_is_tried_again() {
        let text = read(r#"{"status":412,"detail":"it is at \"7\" by now: read it again, and repeat"}"#);
        assert!(text.ends_with("nothing is changed: try again"), "{text}");
    }

    #[test]
    fn a_failure_of_the_server_says_what_to_look_for_in_its_log() {
        let refused = r#"{"status":409,"detail":"in use","request_id":"r-1"}"#;
        let failed = r#"{"status":503,"detail":"try again","request_id":"r-1"}"#;
        assert_eq!([read(refused), read(failed)], ["in use", "try again (request r-1)"]);
    }

    #[test]
    fn a_refused_token_says_where_to_give_one() {
        assert!(read(r#"{"status":401,"detail":"the token is not valid"}"#).contains("SEQUIN_TOKEN"));
    }
}
