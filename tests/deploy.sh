#!/usr/bin/env bash
# Holds what is in deploy/ against the rules of those who will read it: the Dockerfile against hadolint, compose.yaml
# against Compose's schema, NATS' configurations against nats-server, each of Kubernetes' overlays, as it is rendered,
# against the schemas of the oldest version that we support and of the newest, and all of it against rules of our own
# (tests/deploy/rules.py). Nothing is run. Takes seconds, and one minute the first time.
#
# Needs Python 3.10 or later with venv, and PyPI the first time; what is installed lies in target/deploy. Overlays are
# rendered by kubectl (1.27 or later) or kustomize (5 or later), which no registry that we trust has: without them, what
# the overlays are made of is checked instead, and this says so.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/setup.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tool=$target/deploy
requirements=tests/deploy/requirements.txt
python=${PYTHON:-python3}

if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  printf 'deploy: needs Python 3.10 or later with venv; on Debian: apt-get install python3-venv\n' >&2
  exit 1
fi
# Copied last: an installation that broke off is begun again.
if ! cmp -s "$requirements" "$tool/installed"; then
  printf 'deploy: installing what checks it in %s\n' "$tool" >&2
  rm -rf "$tool"
  "$python" -m venv "$tool"
  "$tool/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements"
  cp "$requirements" "$tool/installed"
fi

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

quietly() { "$@" >"$directory/log" 2>&1 || { cat "$directory/log" >&2; return 1; }; }

"$tool/bin/hadolint" --no-color deploy/Dockerfile
quietly "$tool/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml

nats=$target/tools/bin/nats-server
[[ -x $nats ]] || nats=$(command -v nats-server)
for file in deploy/compose/nats.conf deploy/kubernetes/nats/nats.conf deploy/kubernetes/overlays/*/nats.conf; do
  # The variables that it takes from its environment, as deploy/README.md has them made.
  quietly env POD_NAME=nats-0 SERVER_NAME=nats-1 NATS_PASSWORD=n1 SEQUIN_PASSWORD=n2 SYSTEM_PASSWORD=n3 "$nats" -t -c "$file"
done

render=()
if command -v kubectl >/dev/null; then
  render=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
  render=(kustomize build)
fi
for overlay in deploy/kubernetes/overlays/*/; do
  name=$(basename "$overlay")
  if [[ ${#render[@]} -gt 0 ]]; then
    # It warns of what it will no longer understand, and that is an error here.
    "${render[@]}" "$overlay" >"$directory/$name.yaml" 2>"$directory/log" || { cat "$directory/log" >&2; exit 1; }
    if [[ -s $directory/log ]]; then cat "$directory/log" >&2; exit 1; fi
  fi
done
if [[ ${#render[@]} -eq 0 ]]; then
  printf 'deploy: not rendered: neither kubectl 1.27 nor kustomize 5 is in PATH; checking what overlays are made of\n' >&2
  for file in deploy/kubernetes/{sequin,nats}/*.yaml; do
    case ${file##*/} in kustomization.yaml | login.yaml | egress.yaml) continue ;; esac
    cat "$file"
    printf '\n---\n'
  done >"$directory/parts.yaml"
fi
"$tool/bin/python" tests/deploy/rules.py "$directory"/*.yaml
