"""Runs a node that has something to show, has a real Prometheus scrape it, and asks that every query of deploy/dashboards/."""

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from files import DASHBOARDS, HERE, PAGES, fenced, grouped, queries, selectors
from servers import free_port, node, postgres, prometheus, until, webhook

# What Prometheus itself adds, and what rules may name beside Sequin's metrics.
ALWAYS = {"job", "instance", "le"}
NOT_OURS = {"up"}
# What promtool says of names that OpenTelemetry's conventions give.
SO_BE_IT = re.compile(
    r"^(db_client_connection_count|process_thread_count|process_unix_file_descriptor_count) "
    r'non-histogram and non-summary metrics should not have "_count" suffix$'
)
# Alerts that what happens below has to raise, pending or firing.
RAISED = {"SequinTargetUnhealthy", "SequinConsumerHalted", "SequinRecordsQuarantined"}


def records(numbers, payload=None, **more):
    return [
        {"collection_id": "contact", "upstream_id": str(number), "payload": payload or {"n": number}, **more}
        for number in numbers
    ]


def consumer(node, name, provider, target):
    node.cli("consumer", "add", name, "--target", target, "--provider", provider, "--schema", "sequin", "--table", name)
    node.cli("consumer", "create-table", name)


def live(node, name):
    until(f"{name} is live", lambda: '"live"' in node.cli("consumer", "get", name, "--output", "json"))


def set_up(node, psql, database_port, hook):
    """A target that works and one that does not, and consumers in most of the states that there are."""
    connection = ["--host", "127.0.0.1", "--database", "app", "--username", "sequin", "--tls-mode", "disable"]
    for target in ["app", "gone"]:
        node.cli("target", "add", target, *connection, "--port", str(database_port))
    for name, provider, target in [("works", "hubspot", "app"), ("fails", "erp", "app"), ("fills", "crm", "app"), ("waits", "hubspot", "gone")]:
        consumer(node, name, provider, target)
    node.publish("crm", records(range(2000)))
    # A backfill that lasts for some seconds: somebody holds the table.
    psql("begin; lock table sequin.fills in exclusive mode; select pg_sleep(9); commit", wait=False)
    for name in ["works", "fails", "waits", "fills"]:
        node.cli("consumer", "start", name)
    live(node, "waits")
    node.cli("target", "update", "gone", "--port", str(free_port()))
    live(node, "fails")
    psql("drop table sequin.fails")
    node.publish("erp", records(range(10)))
    live(node, "works")
    node.publish("hubspot", records(["refused"], payload={"text": "no \0 in PostgreSQL"}))
    node.request("PUT", "/v1/alerting", {"webhooks": [{"name": "catcher", "url": hook}]})
    node.request("POST", "/v1/alerting/test", {})


def keep_busy(node, psql, number):
    node.publish("hubspot", records(range(number, number + 20)))
    node.publish("hubspot", [{key: value for key, value in record.items() if key != "payload"} for record in records([number], op="delete")])
    # What rests is cut off, so that sessions are made all the time.
    psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'sequin/%' and state = 'idle'")


def resolve(prometheus):
    """The dashboards' variables, found as Grafana finds them."""
    values = {"__rate_interval": "10s", "__range": "1m"}
    variables = [variable for dashboard in DASHBOARDS for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    for variable in variables:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", substitute(variable["definition"], values)).groups()
        found = prometheus.get(f"label/{label}/values", **{"match[]": selector})
        if not found:
            raise ValueError(f"the variable {variable['name']} has no values: {selector}")
        values[variable["name"]] = found[0] if len(found) == 1 else f"({'|'.join(found)})"
    return values


def substitute(expression, values):
    return re.sub(r"\$\{?(\w+)\}?", lambda name: values[name.group(1)], expression)


def has_data(prometheus, expression):
    return any(math.isfinite(value) for _, value in prometheus.query(expression))


def unanswered(node, psql, prometheus, asked, seconds=30):
    """Asks until everything has data, or it was long enough, while more happens all the time."""
    deadline, left, number = time.monotonic() + seconds, list(asked), 0
    while True:
        keep_busy(node, psql, number)
        number += 20
        try:
            values = resolve(prometheus)
            left = [(where, query) for where, query in left if not has_data(prometheus, substitute(query, values))]
            missing = "" if left else raised(prometheus)
        except ValueError as error:
            missing = str(error)
        if not left and not missing:
            return
        if time.monotonic() > deadline:
            yield from (f"{where}: no data for {query}" for where, query in left)
            if missing:
                yield missing
            return


def raised(prometheus):
    missing = RAISED - {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}
    return f"these alerts are not raised, though they should be: {', '.join(sorted(missing))}" if missing else ""


def unknown(prometheus, asked):
    """Metrics and labels that are named, and that nobody has."""
    known = {}
    for where, query in asked:
        named = selectors(query)
        for metric in named:
            if metric not in known:
                known[metric] = prometheus.labels(metric)
            if not known[metric] and metric not in NOT_OURS:
                yield f"{where}: there is no metric {metric}"
        for metric, labels in named.items():
            for label in sorted(labels - known[metric]) if known[metric] else []:
                yield f"{where}: {metric} has no label {label}"
        anywhere = ALWAYS.union(*(known[metric] for metric in named))
        for label in sorted(grouped(query) - anywhere):
            yield f"{where}: groups by {label}, which none of {', '.join(named)} has"


def rules(prometheus):
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                raise ValueError(f"the rule {rule['name']}: {rule['health']}: {rule.get('lastError')}")
            yield f"rules.yaml, {rule['name']}", rule["query"]


def commands(node):
    """Commands of pages that the program does not have, and paths that its API does not."""
    for where, line in fenced("sh"):
        if line.startswith("sequin"):
            yield from (f"{where}: {line}: there is no {word}" for word in node.lacks(line))
    for page in PAGES:
        for line in re.findall(r"`(sequin [^`]+)`", page.read_text()):
            yield from (f"runbook/{page.name}: {line}: there is no {word}" for word in node.lacks(line))
    described = node.request("GET", "/openapi.json")
    for page in PAGES:
        for path in sorted(set(re.findall(r"/v1/[a-z/{}_-]+[a-z}]", page.read_text()))):
            if f'"{path}"' not in described:
                yield f"runbook/{page.name}: the API has no {path}"


def lint(tools, scrape):
    done = subprocess.run([tools / "promtool", "check", "metrics"], input=scrape, capture_output=True, text=True)
    for line in done.stderr.splitlines() + done.stdout.splitlines():
        if line and not SO_BE_IT.match(line):
            yield f"promtool check metrics: {line}"


def findings(program, tools, directory):
    with ExitStack() as servers:
        database_port, psql = servers.enter_context(postgres(directory / "postgres.log"))
        hook = servers.enter_context(webhook())
        served = servers.enter_context(node(program, tools, directory))
        yield from commands(served)
        token = json.loads(served.cli("token", "create", "prometheus", "--role", "read", "--output", "json"))["token"]
        watch = servers.enter_context(prometheus(tools, directory, served, token, HERE / "rules.yaml"))
        set_up(served, psql, database_port, hook)
        asked = list(queries()) + list(fenced("promql"))
        yield from unanswered(served, psql, watch, asked)
        until("the rules were evaluated", lambda: all(group["rules"][0]["health"] != "unknown" for group in watch.get("rules")["groups"]))
        yield from unknown(watch, asked + list(rules(watch)))
        yield from lint(tools, served.request("GET", "/metrics", token=token))


def main(program, tools):
    with tempfile.TemporaryDirectory(prefix="sequin-dashboards.") as place:
        found, whole = False, False
        try:
            for finding in findings(Path(program), Path(tools), Path(place)):
                found = True
                print(f"dashboards: {finding}", file=sys.stderr)
            whole = True
        finally:
            log = Path(place) / "node.log"
            if (found or not whole) and log.exists():
                print("\nthe node said last:", *log.read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
