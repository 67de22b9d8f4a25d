#!/usr/bin/env bash
# Runs a cluster on this machine, to look at and to break: three nodes, three NATS servers, and a PostgreSQL to write to.
# Ctrl-C ends all of it, and removes what it kept.
#
#   deploy/cluster.sh [--directory DIR] [--keep] [--port PORT] [--program FILE]
#
#   --directory DIR   where everything is kept: target/cluster
#   --keep            don't remove it in the end; the next run goes on from there
#   --port PORT       the first of 13 ports in a row, all of which are on 127.0.0.1: 7400
#   --program FILE    this `sequin` rather than one that is built first; each node has its own copy, so that versions mix
set -euo pipefail
umask 077

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
directory=$target/cluster port=7400 keep='' program=''

say() { printf 'cluster: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

while [[ $# -gt 0 ]]; do
  case $1 in
    --keep) keep=yes ;;
    --directory | --port | --program)
      [[ $# -gt 1 ]] || { say "$1 takes a value"; exit 2; }
      case $1 in
        --directory) directory=$(realpath -m "$2") ;;
        --port) port=$2 ;;
        --program) program=$(realpath "$2") ;;
      esac
      shift
      ;;
    --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit ;;
    *) say "no such option: $1; --help lists them"; exit 2 ;;
  esac
  shift
done
[[ $port =~ ^[0-9]{4,5}$ && $port -le 65000 ]] || { say "--port takes a port from 1000 to 65000, not $port"; exit 2; }

nodes=(node-1 node-2 node-3) servers=(nats-1 nats-2 nats-3)
node_port() { echo $((port + $1)); }
nats_port() { echo $((port + 3 + $1)); }
route_port() { echo $((port + 6 + $1)); }
monitor_port() { echo $((port + 9 + $1)); }
postgres_port=$port

# Whether GET of a path is answered by 200.
answers() {
  local connection status=''
  exec {connection}<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&"$connection"
  read -r -t 5 _ status _ <&"$connection" || true
  exec {connection}>&-
  [[ $status == 200 ]]
} 2>/dev/null

# Whether it runs, and is not another process that has got its number since.
runs() {
  local number
  number=$(cat "$directory/$1/pid" 2>/dev/null) && [[ $(ps -o args= -p "$number") == *"$directory/$1/"* ]]
}

signal() {
  if runs "$2"; then kill -s "$1" "$(cat "$directory/$2/pid")" 2>/dev/null || true; fi
}

# until_so SECONDS WHAT COMMAND…: waits until the command succeeds.
until_so() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < deadline)) || { say "gave up waiting until $what"; return 1; }
    sleep 0.2
  done
}

as_postgres() {
  if [[ $EUID -eq 0 ]]; then
    (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@")
  else
    "$@"
  fi
}

none_runs() {
  local name
  for name in "$@"; do ! runs "$name" || return 1; done
}

stop() {
  local name
  for name in "$@"; do signal TERM "$name"; done
  until_so 40 "these have ended: $*" none_runs "$@" && return
  for name in "$@"; do signal KILL "$name"; done
}

ended=''
end() {
  [[ -z $ended ]] || return 0
  ended=yes
  trap '' INT TERM
  say "ending: nodes finish what is in flight"
  # Nodes go first, while NATS is there to take their checkpoints.
  stop "${nodes[@]}"
  stop "${servers[@]}"
  if [[ -f $database/postmaster.pid ]]; then
    as_postgres "$postgres/pg_ctl" --pgdata "$database" --mode fast --silent stop || true
  fi
  if [[ -n $keep ]]; then
    say "kept: $directory"
  else
    rm -rf "$database" "$directory"
  fi
}

# A program with its settings beside it, and a script that runs it: whoever has killed it can start it again.
prepare() {
  local name=$1
  shift
  printf '#!/usr/bin/env bash\n# Runs %s in the foreground; it writes to the file log beside this.\n' "$name"
  printf 'cd %q && echo $$ >pid && exec %s >>log 2>&1\n' "$directory/$name" "$(printf '%q ' "$@")"
} >"$directory/$1/start"

# In a process group of its own, so that Ctrl-C is for this script, which ends them in order.
launch() {
  chmod u+x "$directory/$1/start"
  set -m
  ("$directory/$1/start" &)
  set +m
}

if [[ -d $directory && ! -f $directory/made-by-cluster.sh && -n $(ls -A "$directory") ]]; then
  fail "$directory holds something else: name another by --directory"
fi
none_runs "${nodes[@]}" "${servers[@]}" || fail "a cluster runs in $directory already"
for number in {0..12}; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$((port + number))") 2>/dev/null; then
    fail "port $((port + number)) is taken: name the first of 13 others by --port"
  fi
done

"$root/deploy/setup.sh"
if [[ -z $program ]]; then
  cargo build --release --manifest-path "$root/Cargo.toml" --bin sequin
  program=$target/release/sequin
fi
nats=$target/tools/bin/nats-server
[[ -x $nats ]] || nats=$(command -v nats-server)
postgres=$(dirname "$(command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1)")

mkdir -p "$directory" "${nodes[@]/#/$directory/}" "${servers[@]/#/$directory/}"
touch "$directory/made-by-cluster.sh"
secret() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
[[ -s $directory/encryption-key ]] || head -c 32 /dev/urandom | base64 >"$directory/encryption-key"
# NATS takes what begins with a digit for a number.
for file in admin-token nats-password postgres-password; do
  [[ -s $directory/$file ]] || printf 'n%s\n' "$(secret)" >"$directory/$file"
done
read_secret() { cat "$directory/$1"; }

# PostgreSQL's own user, which it has where this is run by root, may not be able to look into our directory.
database=$(cat "$directory/postgres-directory" 2>/dev/null || true)

trap end EXIT
trap exit INT TERM

say "starting PostgreSQL and three NATS servers"
if [[ ! -d $database ]]; then
  database=$(mktemp -d "${TMPDIR:-/tmp}/sequin-cluster.XXXXXX")
  echo "$database" >"$directory/postgres-directory"
  if [[ $EUID -eq 0 ]]; then chown postgres: "$database"; fi
fi
if [[ ! -f $database/PG_VERSION ]]; then
  as_postgres "$postgres/initdb" --pgdata "$database" --username postgres --auth-local trust --auth-host scram-sha-256 \
    --encoding UTF8 --no-sync >"$directory/postgres.log"
fi
as_postgres "$postgres/pg_ctl" --pgdata "$database" --silent --wait --log "$database/log" \
  --options "-p $postgres_port -h 127.0.0.1 -k $database" start
sql() { as_postgres psql --quiet --no-psqlrc --tuples-only --host "$database" --port "$postgres_port" --username postgres "$@"; }
if [[ -z $(sql --command "select 1 from pg_roles where rolname = 'sequin'") ]]; then
  sql --command "create user sequin password '$(read_secret postgres-password)'" --command 'create database app owner sequin'
fi

routes='' urls=''
for number in 1 2 3; do
  routes+="${routes:+, }nats://127.0.0.1:$(route_port $number)"
  urls+="${urls:+,}127.0.0.1:$(nats_port $number)"
done
for number in 1 2 3; do
  cat >"$directory/nats-$number/nats.conf" <<CONF
server_name: nats-$number
listen: 127.0.0.1:$(nats_port $number)
http: 127.0.0.1:$(monitor_port $number)
max_payload: 8MB
jetstream { store_dir: "$directory/nats-$number", limits { default_max_consumers: -1 } }
accounts {
  SEQUIN: { jetstream: enabled, users: [ { user: sequin, password: "$(read_secret nats-password)" } ] }
}
cluster { name: sequin, listen: 127.0.0.1:$(route_port $number), routes: [ $routes ] }
CONF
  prepare "nats-$number" "$nats" --config "$directory/nats-$number/nats.conf"
  launch "nats-$number"
done
for number in 1 2 3; do
  until_so 60 "nats-$number is ready (see $directory/nats-$number/log)" answers "$(monitor_port $number)" /healthz
done

say "starting three nodes"
for number in 1 2 3; do
  cat >"$directory/node-$number/sequin.toml" <<TOML
SEQUIN_LISTEN = "127.0.0.1:$(node_port $number)"
SEQUIN_NODE = "node-$number"
SEQUIN_BACKEND = "nats://$urls"
SEQUIN_NATS_USER = "sequin"
SEQUIN_NATS_PASSWORD = "$(read_secret nats-password)"
SEQUIN_ENCRYPTION_KEY = "$(read_secret encryption-key)"
SEQUIN_ADMIN_TOKEN = "$(read_secret admin-token)"
TOML
  cp "$program" "$directory/node-$number/sequin"
  prepare "node-$number" "$directory/node-$number/sequin" serve --config "$directory/node-$number/sequin.toml"
  launch "node-$number"
done
for number in 1 2 3; do
  until_so 60 "node-$number is ready (see $directory/node-$number/log)" answers "$(node_port $number)" /readyz
done

cat <<GUIDE

It runs: http://127.0.0.1:$(node_port 1), :$(node_port 2) and :$(node_port 3) are its nodes, any of which answers for all.
Everything is in $directory: a folder for each process with its settings and its log.

In another terminal:

  cd $directory
  export PATH=\$PWD/node-1:\$PATH SEQUIN_URL=http://127.0.0.1:$(node_port 1) SEQUIN_TOKEN=\$(cat admin-token)
  export PGPASSWORD=\$(cat postgres-password); export SEQUIN_TARGET_PASSWORD=\$PGPASSWORD
  sequin target add app --host 127.0.0.1 --port $postgres_port --database app --username sequin --tls-mode disable
  sequin consumer add hubspot-to-app --target app --provider hubspot --schema sequin --table hubspot
  sequin consumer create-table hubspot-to-app && sequin consumer start hubspot-to-app
  for id in {1..10000}; do
    echo '{"provider":"hubspot","sync_id":"0dea6e4e-64b9-4b1c-ac03-2e6b25795c18","collection_id":"contact","upstream_id":"'\$id'","payload":{}}'
  done | sequin publish
  sequin node list && sequin status
  psql --host 127.0.0.1 --port $postgres_port --username sequin app --command 'select count(*) from sequin.hubspot'

Then break it, and look at \`sequin node list\` again (by --url http://127.0.0.1:$(node_port 2) where node-1 is gone):

  kill -s KILL \$(cat node-1/pid)    # its targets run elsewhere soon
  kill -s TERM \$(cat node-2/pid)    # it hands over first
  kill -s STOP \$(cat node-3/pid)    # and CONT later: it finds that it was replaced
  kill -s KILL \$(cat nats-1/pid)    # two of three servers go on
  node-1/start                      # any of them comes back like this, in the foreground

Ctrl-C ends all of it.
GUIDE

# A pipe that nobody writes to: waits without a process that Ctrl-C would go to.
exec {clock}<> <(:)
declare -A seen
for name in "${nodes[@]}" "${servers[@]}"; do seen[$name]=runs; done
while true; do
  read -r -t 1 -u "$clock" || true
  for name in "${nodes[@]}" "${servers[@]}"; do
    if runs "$name"; then now=runs; else now='does not run'; fi
    if [[ $now != "${seen[$name]}" ]]; then say "$name $now"; fi
    seen[$name]=$now
  done
done
