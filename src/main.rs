//! The `sequin` program.

use std::process::ExitCode;

/// The system's allocator keeps what many threads have freed, which a bound on memory can't count on. Nor can it on huge pages, of
/// which a few bytes take all: they are off (`no_thp`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sequin::cli::main()
}
