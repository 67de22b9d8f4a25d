#!/usr/bin/env bash
# Holds deploy/dashboards/ against a live node: whether the files are in step with what they are written from, the rules do
# as their unit tests say, each alert has its page; and then a real Prometheus scrapes a node that has something to show, and
# is asked every query of every dashboard, rule and page. Each has to give data, of metrics and labels that there are.
# Takes about half a minute, and a little more the first time.
#
# Needs Python 3.9 or later, and Prometheus with promtool: 2.42 or later from PATH, or the one of Debian, which is unpacked in
# target/tools without being installed, so that no daemon starts.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/setup.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/tools
python=${PYTHON:-python3}

# Debian's package, unpacked; a download that broke off leaves nothing behind.
unpack_prometheus() {
  local place
  mkdir -p "$tools/bin"
  place=$(mktemp -d "$tools/prometheus.XXXXXX")
  if (cd "$place" && apt-get -q download prometheus && dpkg -x ./*.deb unpacked) >&2; then
    mv "$place/unpacked/usr/bin/promtool" "$place/unpacked/usr/bin/prometheus" "$tools/bin"
  fi
  rm -rf "$place"
  [[ -x $tools/bin/prometheus ]]
}

if ! [[ -x $tools/bin/prometheus && -x $tools/bin/promtool ]]; then
  if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    mkdir -p "$tools/bin"
    ln -sf "$(command -v prometheus)" "$(command -v promtool)" "$tools/bin"
  elif command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    printf "dashboards: unpacking Debian's Prometheus in %s\n" "$tools/bin" >&2
    unpack_prometheus || {
      # A machine that has never asked for a package knows of none.
      if [[ $EUID -eq 0 ]]; then apt-get -q update >&2; else sudo apt-get -q update >&2; fi
      unpack_prometheus
    }
  else
    printf 'dashboards: NOT RUN: this is not Debian, and neither prometheus nor promtool is in PATH\n' >&2
    exit
  fi
fi

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
quietly() { "$@" >"$directory/log" 2>&1 || { cat "$directory/log" >&2; return 1; }; }

export PYTHONDONTWRITEBYTECODE=1
"$python" deploy/dashboards/generate.py --check
quietly "$tools/bin/promtool" check rules deploy/dashboards/rules.yaml
quietly "$tools/bin/promtool" test rules deploy/dashboards/rules.test.yaml
# The scrape configurations name files that exist where they are used, and not here.
quietly "$tools/bin/promtool" check config --syntax-only deploy/dashboards/prometheus.yaml
"$python" tests/dashboards/words.py

cargo build --quiet
"$python" tests/dashboards/live.py "$target/debug/sequin" "$tools/bin"
