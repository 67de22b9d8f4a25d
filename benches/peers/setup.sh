#!/usr/bin/env bash
# Makes a virtual environment for each peer, in target/peers, with the versions that are pinned beside this file. One
# that is there already, of the same versions, is left as it is.
#
# Needs Python 3.9 or later with venv (Debian: apt-get install python3-venv), and PyPI the first time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
environments=${CARGO_TARGET_DIR:-$root/target}/peers
python=${PYTHON:-python3}

for peer in dlt target-postgres; do
  requirements=$here/$peer.requirements.txt
  environment=$environments/$peer
  cmp -s "$requirements" "$environment/installed" && continue
  printf 'peers: installing %s\n' "$peer" >&2
  rm -rf "$environment"
  mkdir -p "$environments"
  "$python" -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" >&2
  # Last: an installation that broke off is begun again.
  cp "$requirements" "$environment/installed"
done
printf '%s\n' "$environments"
