//! The `sequin` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    sequin::cli::main()
}
