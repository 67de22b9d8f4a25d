#!/usr/bin/env bash
# Runs every test of the workspace. Arguments go to the runner: `tests/run.sh backfill` runs the tests so named.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/setup.sh

# A failed test says what it waited for, and what the node's log says: a backtrace would hide both.
export RUST_BACKTRACE=0

if ! cargo nextest --version >/dev/null 2>&1; then
  exec cargo test --workspace --no-fail-fast "$@"
fi

# nextest does not run the examples in the documentation. They go first, so that its summary is the last line.
if [[ $# -eq 0 ]]; then
  cargo test --workspace --doc --quiet
fi
exec cargo nextest run --workspace "$@"
