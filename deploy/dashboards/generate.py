#!/usr/bin/env python3
"""Writes what is repetitive beside it: Grafana's dashboards, and rules.yaml as a PrometheusRule of Kubernetes.

    deploy/dashboards/generate.py            # after a change of this file or of rules.yaml
    deploy/dashboards/generate.py --check    # says what is not in step, as tests/dashboards.sh does

Needs nothing but Python. A panel is one call below: what it shows, the words to read beside it, and its queries.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent

# Which series a dashboard is about. `job` and `instance` are what Prometheus knows a node by, and what target_info joins
# with its cluster; they are found by the variables below.
NODES = 'job=~"$job",instance=~"$instance"'
TARGET = NODES + ',sequin_target=~"$target"'
POOL = NODES + ',db_client_connection_pool_name=~"$target"'
CONSUMER = TARGET + ',sequin_consumer=~"$consumer"'

# Units, as Grafana calls them.
COUNT, PER_SECOND, SECONDS, BYTES, SHARE = "short", "cps", "s", "bytes", "percentunit"


def of_consumers(metric, more=""):
    """A gauge of consumers. Where one has moved to another node, what is still remembered of the former does not count twice."""
    return f"max by (sequin_consumer, sequin_target{more}) ({metric})"


def rate(metric, by=""):
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[$__rate_interval]))"


def quantile(share, metric, by=""):
    return f"histogram_quantile({share}, {rate(metric, 'le' + (', ' + by if by else ''))})"


def panel(kind, title, description, queries, unit, *, width, height=8, defaults=None, options=None, overrides=(), **more):
    """`queries` are pairs of an expression and a legend."""
    form = more.pop("form", "time_series")
    instant = more.pop("instant", False)
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "editorMode": "code",
            "expr": expression,
            "legendFormat": legend,
            "format": form,
            "instant": instant,
            "range": not instant,
        }
        for number, (expression, legend) in enumerate(queries)
    ]
    field = {"unit": unit, **(defaults or {})}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": height, "w": width},
        "fieldConfig": {"defaults": field, "overrides": list(overrides)},
        "options": options or {},
        "targets": targets,
        **more,
    }


def lines(title, description, queries, unit, *, width=8, stack=False, steps=False, **more):
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if steps else "linear",
        "lineWidth": 1,
        "fillOpacity": 20 if stack else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
    }
    options = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"min": 0, "custom": custom, **more.pop("defaults", {})}
    return panel("timeseries", title, description, queries, unit, width=width, defaults=defaults, options=options, **more)


def number(title, description, expression, unit=COUNT, *, named=None, bad_from=None, bad_below=None, **more):
    """A number, red from `bad_from` on, or below `bad_below`; or, where it is `named` by a legend, that name."""
    steps = [{"color": "text", "value": None}]
    if bad_from is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": bad_from}]
    if bad_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": bad_below}]
    defaults = {"thresholds": {"mode": "absolute", "steps": steps}, **more.pop("defaults", {})}
    options = {
        "colorMode": "value",
        "graphMode": "none" if named else "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "name" if named else "value",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    queries = [(expression, named or title)]
    return panel("stat", title, description, queries, unit, width=4, height=4, defaults=defaults, options=options, instant=bool(named), **more)


def words(names):
    """Names and colours for the values of a gauge that stands for a state."""
    shown = {str(value): {"text": text, "color": color, "index": value} for value, (text, color) in names.items()}
    return [{"type": "value", "options": shown}]


BREAKER = words({0: ("closed", "green"), 1: ("half open", "yellow"), 2: ("open", "red")})


def states(title, description, queries, *, mappings, width=12, **more):
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "rowHeight": 0.9,
        "alignValue": "left",
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {
        "mappings": mappings,
        "custom": {"fillOpacity": 70, "lineWidth": 0},
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"color": "transparent", "value": None}]},
    }
    return panel("state-timeline", title, description, queries, COUNT, width=width, defaults=defaults, options=options, **more)


def heatmap(title, description, expression, unit, *, width=12, **more):
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": False},
        "filterValues": {"le": 1e-9},
        "yAxis": {"axisPlacement": "left", "unit": unit, "reverse": False},
        "rowsFrame": {"layout": "auto"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
        "cellValues": {"unit": "short"},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    return panel(
        "heatmap", title, description, [(expression, "{{le}}")], COUNT, width=width, form="heatmap", options=options, **more
    )


def table(title, description, columns, *, width=12, sort, link=None, **more):
    """`columns` are triples of a name, an expression and a unit, joined by the labels that the expressions have in common."""
    queries = [(expression, name) for name, expression, _ in columns]
    refs = [chr(ord("A") + number) for number in range(len(columns))]
    hidden = {"Time": True} | {f"Time {number}": True for number in range(1, len(columns) + 1)}
    names = {"sequin_consumer": "consumer", "sequin_target": "target"}
    names |= {"Value" if len(columns) == 1 else f"Value #{ref}": name for ref, (name, _, _) in zip(refs, columns)}
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, _, unit in columns
    ]
    for label, (uid, variable) in (link or {}).items():
        url = f"/d/{uid}?var-{variable}=${{__value.raw}}&${{datasource:queryparam}}&${{cluster:queryparam}}&${{__url_time_range}}"
        links = [{"title": f"Open this {label}", "url": url, "targetBlank": False}]
        overrides.append({"matcher": {"id": "byName", "options": label}, "properties": [{"id": "links", "value": links}]})
    return panel(
        "table", title, description, queries, COUNT, width=width, form="table", instant=True, overrides=overrides,
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort, "desc": True}]},
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": names}},
        ],
        **more,
    )


def query_variable(name, label, query, *, multi=False, hide=0, description=""):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "hide": hide,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": f"variable-{name}"},
        # Again whenever the range of time is changed, as nodes and consumers come and go.
        "refresh": 2,
        "sort": 1,
        "multi": multi,
        "includeAll": multi,
        "current": {"text": ["All"], "value": ["$__all"]} if multi else {},
        "options": [],
        "regex": "",
    }


DATASOURCE = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "hide": 0,
              "current": {}, "options": [], "refresh": 1, "regex": "", "multi": False, "includeAll": False}
INFO = 'target_info{service_name="sequin"'
CLUSTER = query_variable(
    "cluster", "Cluster", f"label_values({INFO}}}, service_namespace)", description="SEQUIN_CLUSTER of the nodes"
)
JOB = query_variable("job", "Job", f'label_values({INFO},service_namespace="$cluster"}}, job)', multi=True, hide=2)
NODE = query_variable(
    "instance", "Node", f'label_values({INFO},service_namespace="$cluster",job=~"$job"}}, instance)', multi=True,
    description="as Prometheus knows it: its address where it is scraped, its name where it sends",
)
TARGETS = f"label_values(sequin_target_breaker_state{{{NODES}}}, sequin_target)"
CONSUMERS = f"label_values(sequin_consumer_state{{{TARGET}}}, sequin_consumer)"


def dashboard(uid, title, description, variables, rows):
    panels, y = [], 0
    for name, contents in rows:
        panels.append({"type": "row", "title": name, "collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        x, y, tallest = 0, y + 1, 0
        for each in contents:
            place = each["gridPos"]
            if x + place["w"] > 24:
                x, y, tallest = 0, y + tallest, 0
            each["gridPos"] = {**place, "x": x, "y": y}
            x, tallest = x + place["w"], max(tallest, place["h"])
            panels.append(each)
        y += tallest
    for number, each in enumerate(panels, 1):
        each["id"] = number
    link = {
        "type": "dashboards", "title": "Sequin", "tags": ["sequin"], "asDropdown": False, "icon": "external link",
        "includeVars": True, "keepTime": True, "targetBlank": False, "tooltip": "", "url": "",
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["sequin"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "links": [link],
        "annotations": {"list": []},
        "templating": {"list": [DATASOURCE, CLUSTER, JOB, NODE, *variables]},
        "panels": panels,
    }


def fleet():
    breaker = f"max by (sequin_target) (sequin_target_breaker_state{{{NODES}}})"
    requests = f"http_server_request_duration_seconds_count{{{NODES}}}"
    errors = f'http_server_request_duration_seconds_count{{{NODES},http_response_status_code=~"5.."}}'
    state = of_consumers(f"sequin_consumer_state{{{NODES}}}", ", sequin_state")
    halted = of_consumers(f'sequin_consumer_state{{{NODES},sequin_state="halted"}}')
    lag, age = of_consumers(f"sequin_consumer_lag{{{NODES}}}"), of_consumers(f"sequin_consumer_lag_age_seconds{{{NODES}}}")
    quarantined = of_consumers(f"sequin_consumer_quarantined{{{NODES}}}")
    delay = f"sequin_consumer_delay_seconds_bucket{{{NODES}}}"
    worst = {"consumer": ("sequin-consumer", "consumer"), "target": ("sequin-target", "target")}
    return [
        ("At a glance", [
            number("Nodes", "Nodes that Prometheus hears of. Fewer than you run: see SequinNodeDown.",
                   f"count(sequin_targets_owned{{{NODES}}})", bad_below=1),
            number("Open incidents", "What people have been told of and is still wrong: sequin incident list.",
                   f"sum(max by (sequin_incident_kind) (sequin_incidents_open{{{NODES}}}))", bad_from=1),
            number("Targets not healthy", "Databases whose circuit breaker is open, or only lets a probe through; their consumers wait.",
                   f"count({breaker} > 0) or vector(0)", bad_from=1),
            number("Consumers halted", "Consumers that stopped and need somebody.", f"sum({halted}) or vector(0)", bad_from=1),
            number("In quarantine", "Records that databases refused, and that were set aside.", f"sum({quarantined})", bad_from=1),
            number("Applied", "Records written to or deleted from tables, a second.",
                   rate(f"sequin_consumer_applied_total{{{NODES}}}"), PER_SECOND),
        ]),
        ("Consumers", [
            lines("Consumers by state", "What consumers are doing. Waiting is for their target; halted needs somebody.",
                  [(f"sum by (sequin_state) ({state})", "{{sequin_state}}")], COUNT, stack=True),
            lines("Applied", "Records that reached tables, by what happened to them.",
                  [(rate(f"sequin_consumer_applied_total{{{NODES}}}", "sequin_operation"), "{{sequin_operation}}")], PER_SECOND, stack=True),
            lines("Delay", "From the acknowledgement of a record to its commit in the table: the oldest record of each page, while live.",
                  [(quantile(0.5, delay), "p50"), (quantile(0.99, delay), "p99")], SECONDS),
            lines("Lag: age, the worst ten", "How long the oldest record that is not in its table has been waiting.",
                  [(f"topk(10, {age})", "{{sequin_consumer}}")], SECONDS),
            lines("Lag: records, the worst ten", "How many records wait. A backfill counts here too.",
                  [(f"topk(10, {lag})", "{{sequin_consumer}}")], COUNT),
            lines("In quarantine, the worst ten", "Records that were refused, by consumer. Zero is the only good number.",
                  [(f"topk(10, {quarantined})", "{{sequin_consumer}}")], COUNT),
            table("Consumers that are furthest behind", "Open one by its name.",
                  [("age", f"topk(50, {age})", SECONDS), ("records", f"{lag} and topk(50, {age})", COUNT),
                   ("in quarantine", f"{quarantined} and topk(50, {age})", COUNT)], sort="age", link=worst),
            lines("Failures", "Pipelines that failed, by reason. Each starts again from its checkpoint; a few on an outage are as it should be.",
                  [(rate(f"sequin_consumer_failures_total{{{NODES}}}", "error_type"), "{{error_type}}")], PER_SECOND, width=12),
        ]),
        ("Targets", [
            states("Targets that are not healthy", "The circuit breaker of each database that was in trouble within the range.",
                   [(f"{breaker} > 0", "{{sequin_target}}")], mappings=BREAKER),
            lines("Breaker transitions", "How often breakers opened and closed again. Many: a database that comes and goes.",
                  [(f"sum by (sequin_state) (increase(sequin_target_breaker_transitions_total{{{NODES}}}[$__rate_interval]))", "to {{sequin_state}}")],
                  COUNT, width=12),
        ]),
        ("People", [
            lines("Open incidents by kind", "As the node that alerts counts them.",
                  [(f"max by (sequin_incident_kind) (sequin_incidents_open{{{NODES}}})", "{{sequin_incident_kind}}")], COUNT, steps=True),
            lines("Alert deliveries", "Mails and webhooks, by what became of them.",
                  [(f"sum by (sequin_channel, sequin_outcome) (increase(sequin_alert_deliveries_total{{{NODES}}}[$__rate_interval]))",
                    "{{sequin_channel}} {{sequin_outcome}}")], COUNT),
            lines("Alerts to be delivered", "What people should have been told, and have not. It is kept and tried again.",
                  [(f"max(sequin_alert_pending{{{NODES}}})", "pending")], COUNT, steps=True),
        ]),
        ("Cluster", [
            lines("Targets by node", "How the targets are shared.", [(f"sum by (instance) (sequin_targets_owned{{{NODES}}})", "{{instance}}")],
                  COUNT, stack=True),
            lines("Ownership changes", "Targets that were claimed, let go, or lost with a session. Only a node that comes or goes moves them.",
                  [(f"sum by (sequin_change) (increase(sequin_ownership_changes_total{{{NODES}}}[$__rate_interval]))", "{{sequin_change}}")], COUNT),
            lines("Heartbeats", "Renewals of the nodes' sessions. One that fails for two thirds of its time to live ends the node's pipelines.",
                  [(rate(f"sequin_session_heartbeats_total{{{NODES}}}", "sequin_outcome"), "{{sequin_outcome}}")], PER_SECOND),
            lines("Bytes in flight", "What is on its way between the stream and databases, beside the most there may be.",
                  [(f"sum by (instance) (sequin_budget_used_bytes{{{NODES}}})", "{{instance}}"),
                   (f"max(sequin_budget_limit_bytes{{{NODES}}})", "limit of a node")], BYTES, width=12),
            lines("Readers that waited for bytes, the worst ten", "The share of time that reading stood still because too much was in flight. "
                  "For a while in a backfill it is as it should be: the database is the slower side.",
                  [(f"topk(10, {rate(f'sequin_budget_blocked_seconds_total{{{NODES}}}', 'sequin_consumer')})", "{{sequin_consumer}}")], SHARE, width=12),
        ]),
        ("Publishing and the API", [
            lines("Published", "Records that were taken, by provider.",
                  [(rate(f"messaging_client_sent_messages_total{{{NODES}}}", "messaging_destination_name"), "{{messaging_destination_name}}")],
                  PER_SECOND, stack=True),
            lines("Time to write to the stream", "What a publication waits until its records are durable.",
                  [(quantile(0.5, f"messaging_client_operation_duration_seconds_bucket{{{NODES}}}"), "p50"),
                   (quantile(0.99, f"messaging_client_operation_duration_seconds_bucket{{{NODES}}}"), "p99")], SECONDS),
            lines("Read from streams", "Records that consumers read.", [(rate(f"messaging_client_consumed_messages_total{{{NODES}}}"), "read")], PER_SECOND),
            lines("Requests", "Requests, by the status of their answer.",
                  [(rate(requests, "http_response_status_code"), "{{http_response_status_code}}")], PER_SECOND, width=6, stack=True),
            lines("Requests that failed", "The share of requests that were answered by 5xx.",
                  [(f"({rate(errors)} or vector(0)) / {rate(requests)}", "5xx")], SHARE, width=6),
            lines("Time of requests", "By route, 99 of 100 take no longer.",
                  [(quantile(0.99, f"http_server_request_duration_seconds_bucket{{{NODES}}}", "http_route"), "{{http_route}}")], SECONDS, width=6),
            lines("Requests under way", "Requests that are being answered.",
                  [(f"sum by (instance) (http_server_active_requests{{{NODES}}})", "{{instance}}")], COUNT, width=6),
        ]),
        ("Processes", [
            lines("CPU", "Cores in use.", [(rate(f"process_cpu_time_seconds_total{{{NODES}}}", "instance"), "{{instance}}")], COUNT, width=6),
            lines("Memory", "Resident memory of each node.", [(f"sum by (instance) (process_memory_usage_bytes{{{NODES}}})", "{{instance}}")], BYTES, width=6),
            lines("Tokio: busy", "The share of time that the workers of a node were busy. At 1, the node has too little CPU.",
                  [(f"{rate(f'tokio_runtime_busy_time_seconds_total{{{NODES}}}', 'instance')} / sum by (instance) (tokio_runtime_workers{{{NODES}}})", "{{instance}}")],
                  SHARE, width=6),
            lines("Tokio: queue", "Tasks that wait for a worker.",
                  [(f"sum by (instance) (tokio_runtime_global_queue_depth{{{NODES}}})", "{{instance}}")], COUNT, width=6),
            lines("Tasks and threads", "Tasks that are alive, and threads of the process.",
                  [(f"sum by (instance) (tokio_runtime_alive_tasks{{{NODES}}})", "{{instance}} tasks"),
                   (f"sum by (instance) (process_thread_count{{{NODES}}})", "{{instance}} threads")], COUNT),
            lines("File descriptors", "Files and connections that are open.",
                  [(f"sum by (instance) (process_unix_file_descriptor_count{{{NODES}}})", "{{instance}}")], COUNT),
            lines("Uptime", "Since when each node runs. It falls at a restart.",
                  [(f"max by (instance) (process_uptime_seconds{{{NODES}}})", "{{instance}}")], SECONDS),
        ]),
    ]


def target():
    state = of_consumers(f"sequin_consumer_state{{{TARGET}}}", ", sequin_state")
    breaker = f"max by (sequin_target) (sequin_target_breaker_state{{{TARGET}}})"
    lag, age = of_consumers(f"sequin_consumer_lag{{{TARGET}}}"), of_consumers(f"sequin_consumer_lag_age_seconds{{{TARGET}}}")
    process, size = f"messaging_process_duration_seconds_bucket{{{TARGET}}}", f"sequin_consumer_batch_size_bucket{{{TARGET}}}"
    wait, create = f"db_client_connection_wait_time_seconds_bucket{{{POOL}}}", f"db_client_connection_create_time_seconds_bucket{{{POOL}}}"
    return [
        ("The database", [
            number("Breaker", "Closed: it is written to. Open: it can't be used, and its consumers wait for a probe.",
                   f"max(sequin_target_breaker_state{{{TARGET}}})", defaults={"mappings": BREAKER}),
            number("Consumers", "Consumers of this target.", f"count({of_consumers(f'sequin_consumer_state{{{TARGET}}}')})"),
            number("Waiting", "Consumers that wait for it.",
                   f'sum({of_consumers(f"""sequin_consumer_state{{{TARGET},sequin_state="waiting"}}""")}) or vector(0)', bad_from=1),
            number("Oldest record that waits", "The age of the oldest record that is not in its table.", f"max({age})", SECONDS),
            number("In quarantine", "Records that the database refused.", f"sum({of_consumers(f'sequin_consumer_quarantined{{{TARGET}}}')})", bad_from=1),
            number("Applied", "Records that reached its tables, a second.", rate(f"sequin_consumer_applied_total{{{TARGET}}}"), PER_SECOND),
            states("Breaker", "Whether it can be used.", [(breaker, "{{sequin_target}}")], mappings=BREAKER),
            lines("Breaker transitions", "How often the breaker changed.",
                  [(f"sum by (sequin_state) (increase(sequin_target_breaker_transitions_total{{{TARGET}}}[$__rate_interval]))", "to {{sequin_state}}")],
                  COUNT, width=12),
        ]),
        ("Connections", [
            lines("Sessions", "Sessions with the database, beside the most that its pool_size allows.",
                  [(f"sum by (db_client_connection_state) (db_client_connection_count{{{POOL}}})", "{{db_client_connection_state}}"),
                   (f"sum(db_client_connection_max{{{POOL}}})", "max")], COUNT),
            lines("Writers that wait for a session", "More than none for long: pool_size is too small for its consumers, or the database is slow.",
                  [(f"sum(db_client_connection_pending_requests{{{POOL}}})", "waiting"),
                   (f"sum(increase(db_client_connection_timeouts_total{{{POOL}}}[$__rate_interval]))", "gave up")], COUNT),
            lines("Time to get and to make a session", "What a writer waits for a session of the pool, and what a new one takes.",
                  [(quantile(0.5, wait), "wait, p50"), (quantile(0.99, wait), "wait, p99"), (quantile(0.99, create), "make, p99")], SECONDS),
        ]),
        ("Batches", [
            lines("Time of a transaction", "What a batch takes, commit included. It is mostly the database's.",
                  [(quantile(0.5, process), "p50"), (quantile(0.99, process), "p99")], SECONDS),
            lines("Transactions", "Batches a second, and those that failed, by whose fault it was.",
                  [(rate(f'messaging_process_duration_seconds_count{{{TARGET},error_type=""}}'), "committed"),
                   (rate(f'messaging_process_duration_seconds_count{{{TARGET},error_type!=""}}', "error_type"), "{{error_type}}")], PER_SECOND),
            lines("Records in a batch", "Small while little happens, large when a consumer is behind.",
                  [(quantile(0.5, size), "p50"), (quantile(0.99, size), "p99")], COUNT),
            lines("Applied", "Records that reached its tables, by what happened to them.",
                  [(rate(f"sequin_consumer_applied_total{{{TARGET}}}", "sequin_operation"), "{{sequin_operation}}")], PER_SECOND, width=12, stack=True),
            heatmap("Time of transactions", "Each column is a moment, each cell how many transactions took so long.",
                    f"sum by (le) (increase({process}[$__rate_interval]))", SECONDS),
        ]),
        ("Its consumers", [
            lines("By state", "What they are doing.", [(f"sum by (sequin_state) ({state})", "{{sequin_state}}")], COUNT, stack=True),
            lines("Lag: age, the worst ten", "How long the oldest record that is not in its table has been waiting.",
                  [(f"topk(10, {age})", "{{sequin_consumer}}")], SECONDS),
            lines("Applied, the ten that do most", "Records that reached tables, by consumer.",
                  [(f"topk(10, {rate(f'sequin_consumer_applied_total{{{TARGET}}}', 'sequin_consumer')})", "{{sequin_consumer}}")], PER_SECOND),
            table("Consumers", "Open one by its name.",
                  [("age", f"topk(200, {age})", SECONDS), ("records", f"{lag} and topk(200, {age})", COUNT),
                   ("in quarantine", f"{of_consumers(f'sequin_consumer_quarantined{{{TARGET}}}')} and topk(200, {age})", COUNT)],
                  width=24, sort="age", link={"consumer": ("sequin-consumer", "consumer")}),
        ]),
    ]


def consumer():
    def gauge(name):
        return of_consumers(f"{name}{{{CONSUMER}}}")

    done, size = gauge("sequin_consumer_backfill_done"), gauge("sequin_consumer_backfill_size")
    # At a pace of nothing there is no end in sight, and so nothing to show.
    pace = f"max by (sequin_consumer, sequin_target) (deriv(sequin_consumer_backfill_done{{{CONSUMER}}}[5m]))"
    state = of_consumers(f"sequin_consumer_state{{{CONSUMER}}}", ", sequin_state")
    delay = f"sequin_consumer_delay_seconds_bucket{{{CONSUMER}}}"
    applied, failures = f"sequin_consumer_applied_total{{{CONSUMER}}}", f"sequin_consumer_failures_total{{{CONSUMER}}}"
    return [
        ("At a glance", [
            number("State", "What it is doing. Waiting is for its target; halted needs somebody: sequin consumer get says why.", state,
                   named="{{sequin_state}}"),
            number("Oldest record that waits", "The age of the oldest record that is not in the table.", f"max({gauge('sequin_consumer_lag_age_seconds')})", SECONDS),
            number("Records that wait", "How many are not in the table yet.", f"sum({gauge('sequin_consumer_lag')})"),
            number("Backfill", "How much of what the stream held at the start is in the table.", f"sum({done}) / (sum({size}) > 0)", SHARE),
            number("In quarantine", "Records that the database refused.", f"sum({gauge('sequin_consumer_quarantined')})", bad_from=1),
            number("Not saved for", "For how long the checkpoint has not been saved. What lies beyond it is read again after a crash.",
                   f"max({gauge('sequin_consumer_checkpoint_age_seconds')})", SECONDS, bad_from=60),
        ]),
        ("What it does", [
            states("State", "What it was doing.", [(f"{state} > 0", "{{sequin_state}}")], mappings=words({1: ("yes", "blue")})),
            lines("Applied", "Records that reached the table, by what happened to them.",
                  [(rate(applied, "sequin_operation"), "{{sequin_operation}}")], PER_SECOND, width=12, stack=True),
            lines("Lag: records", "How many records wait.", [(gauge("sequin_consumer_lag"), "{{sequin_consumer}}")], COUNT),
            lines("Lag: age", "How long the oldest record that is not in the table has been waiting.",
                  [(gauge("sequin_consumer_lag_age_seconds"), "{{sequin_consumer}}")], SECONDS),
            lines("Delay", "From the acknowledgement of a record to its commit: the oldest record of each page, while live.",
                  [(quantile(0.5, delay), "p50"), (quantile(0.99, delay), "p99")], SECONDS),
            heatmap("Delay", "Each column is a moment, each cell how many pages came so late.",
                    f"sum by (le) (increase({delay}[$__rate_interval]))", SECONDS),
            lines("Read from the stream", "Records that it read. More than it applies: versions of one record were merged.",
                  [(rate(f'messaging_client_consumed_messages_total{{{NODES},messaging_consumer_group_name=~"$consumer"}}'), "read")], PER_SECOND, width=12),
        ]),
        ("Backfill", [
            lines("Backfill", "Records of the stream at the start, and how many of them are in the table.", [(done, "done"), (size, "size")], COUNT, width=12),
            lines("Time that is left", "At the pace of the last five minutes.", [(f"({size} - {done}) / ({pace} > 0)", "left")], SECONDS, width=12),
        ]),
        ("What is wrong", [
            lines("In quarantine", "Records that were refused: sequin quarantine list.", [(gauge("sequin_consumer_quarantined"), "{{sequin_consumer}}")], COUNT),
            lines("Checkpoint not saved for", "Zero if all is saved. It is saved about once a second.",
                  [(gauge("sequin_consumer_checkpoint_age_seconds"), "{{sequin_consumer}}")], SECONDS),
            lines("Failures", "Pipelines that failed, by reason. Each starts again from its checkpoint.",
                  [(f"sum by (error_type) (increase({failures}[$__rate_interval]))", "{{error_type}}")], COUNT),
            lines("Waited for bytes", "The share of time that reading stood still because too much was in flight.",
                  [(rate(f"sequin_budget_blocked_seconds_total{{{CONSUMER}}}"), "waited")], SHARE, width=24),
        ]),
    ]


def prometheus_rule(rules):
    """The same text as rules.yaml, indented: what is no list of groups there is a comment."""
    body = re.sub(r"(?m)^(?=.)", "  ", rules[rules.index("groups:") :])
    return (
        "# rules.yaml for the Prometheus Operator, written by generate.py: change that one.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: sequin\nspec:\n" + body
    )


def outputs():
    of_target = query_variable("target", "Target", TARGETS)
    any_target = query_variable("target", "Target", TARGETS, multi=True)
    of_consumer = query_variable("consumer", "Consumer", CONSUMERS)
    dashboards = {
        "fleet.json": dashboard("sequin-fleet", "Sequin: fleet", "All nodes, targets and consumers of a cluster.", [], fleet()),
        "target.json": dashboard("sequin-target", "Sequin: target", "One database, and the consumers that write to it.", [of_target], target()),
        "consumer.json": dashboard(
            "sequin-consumer", "Sequin: consumer", "One consumer: how far it is, and what hinders it.", [any_target, of_consumer], consumer()
        ),
    }
    texts = {name: json.dumps(content, indent=1) + "\n" for name, content in dashboards.items()}
    return texts | {"prometheus-rule.yaml": prometheus_rule((HERE / "rules.yaml").read_text())}


def main(arguments):
    stale = []
    for name, text in outputs().items():
        file = HERE / name
        if arguments == ["--check"]:
            stale += [name] if not file.exists() or file.read_text() != text else []
        else:
            file.write_text(text)
    for name in stale:
        print(f"dashboards: {name} is not as generate.py writes it: run deploy/dashboards/generate.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
