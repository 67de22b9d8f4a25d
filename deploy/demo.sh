#!/usr/bin/env bash
# Shows the whole product on a fresh machine. Arguments go to `sequin demo`; file names are relative to where you are.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/deploy/setup.sh" demo
exec cargo run --release --manifest-path "$root/Cargo.toml" --bin sequin -- demo "$@"
