#!/usr/bin/env bash
# Pipes a real Singer tap (pipelinewise-tap-postgres, from PyPI) into a table, several times, and looks at the outcome.
# It reads from a PostgreSQL that the test starts, so it needs no network but for PyPI the first time.
#
# Needs Python 3.8 or later with venv and pip (Debian: apt-get install python3-venv).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/setup.sh

requirements=tests/singer/requirements.txt
environment=${CARGO_TARGET_DIR:-$PWD/target}/singer
python=${PYTHON:-python3}

if ! cmp -s "$requirements" "$environment/installed"; then
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    printf 'singer: not run: %s lacks venv and pip (Debian: apt-get install python3-venv)\n' "$python" >&2
    exit 1
  fi
  printf 'singer: installing the tap\n' >&2
  rm -rf "$environment"
  mkdir -p "$(dirname "$environment")"
  "$python" -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" >&2
  # Last: an installation that broke off is begun again.
  cp "$requirements" "$environment/installed"
fi

export SINGER_TAP_POSTGRES=$environment/bin/tap-postgres
exec cargo test --test end_to_end -- --ignored --nocapture a_real_tap
