//! Where words go: results to standard output, notes to standard error.

use std::{
    fmt::Display,
    io::{self, Write},
};

use clap::ValueEnum;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs, as the API gives it.
    Json,
}

/// Standard output was closed by whoever read it, as `head` does.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the results")]
pub(super) struct NobodyReads;

/// Prints a part of the result, and ends the line.
pub(super) fn print(text: impl Display) -> anyhow::Result<()> {
    let text = text.to_string();
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") })
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(NobodyReads.into()),
        written => Ok(written?),
    }
}

/// Tells the person at the terminal something that is no result. Where that can't be written, it is nobody's loss.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
