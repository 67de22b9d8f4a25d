#!/usr/bin/env bash
# Holds a live node against the description of its API: schemathesis tries what the description allows and forbids, and
# looks for server errors, statuses that are not described and bodies that break their schema. Takes about a minute.
#
# Needs Python 3.10 or later with venv (Debian: apt-get install python3-venv), and PyPI the first time; what is installed
# lies in target/schemathesis. Arguments go to schemathesis: `tests/schemathesis.sh --include-tag targets`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tool=$target/schemathesis
requirements=tests/schemathesis/requirements.txt
python=${PYTHON:-python3}

if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  printf 'schemathesis: needs Python 3.10 or later with venv; on Debian: apt-get install python3-venv\n' >&2
  exit 1
fi
# Copied last: an installation that broke off is begun again.
if ! cmp -s "$requirements" "$tool/installed"; then
  printf 'schemathesis: installing it in %s\n' "$tool" >&2
  rm -rf "$tool"
  "$python" -m venv "$tool"
  "$tool/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements"
  cp "$requirements" "$tool/installed"
fi

cargo build
program=$target/debug/sequin
directory=$(mktemp -d)
node=
trap '[[ -z $node ]] || kill "$node"; rm -rf "$directory"' EXIT

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export SEQUIN_ADMIN_TOKEN=a-token-for-schemathesis-only
SEQUIN_LISTEN=127.0.0.1:$port SEQUIN_BACKEND=embedded:$directory/data RUST_LOG=warn "$program" serve >"$directory/log" 2>&1 &
node=$!

settings=$PWD/tests/schemathesis
export SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$settings PYTHONDONTWRITEBYTECODE=1
# It leaves a cache where it runs.
cd "$directory"
if ! "$tool/bin/schemathesis" --config-file "$settings/schemathesis.toml" \
  run "http://127.0.0.1:$port/openapi.json" --wait-for-schema 30 "$@"; then
  printf '\nthe node said last:\n' >&2
  tail -n 20 "$directory/log" >&2
  exit 1
fi
# It has lived through all of it.
kill -0 "$node"
