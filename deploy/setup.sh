#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks.
#
# On Debian and its kin that is done with apt-get; elsewhere this says what to install. Rust is never installed here,
# because its users choose how. When nothing is missing, nothing is said.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")

say() { printf 'setup: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null; }

# Debian keeps the server's programs out of PATH.
has_postgres() { has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

has_rust() {
  local found
  found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  has cargo && printf '%s\n' "$rust" "$found" | sort -C -V
}

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

missing=() packages=()
lacks() {
  missing+=("$1")
  shift
  packages+=("$@")
}

has cc || lacks "a C compiler, as cc in PATH" gcc libc6-dev
has_postgres || lacks "PostgreSQL 12 or later, the server, with initdb in PATH" postgresql
has psql || lacks "PostgreSQL 12 or later, the client, with psql in PATH" postgresql-client

if [[ ${#packages[@]} -gt 0 ]] && has apt-get; then
  say "installing ${packages[*]}"
  [[ $EUID -eq 0 ]] || has sudo || { say "not root, and there is no sudo: run this as root"; exit 1; }
  has_postgres || keep_postgres_from_starting
  apt_get update
  apt_get install -y --no-install-recommends "${packages[@]}"
  missing=()
fi

has_rust || missing+=("Rust $rust or later, from https://rustup.rs (or: rustup update stable), with cargo in PATH")
[[ ${#missing[@]} -eq 0 ]] && exit
say "install what is missing, and run this again:"
for what in "${missing[@]}"; do say "  $what"; done
exit 1
