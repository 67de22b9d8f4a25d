"""What deploy/dashboards/ asks Prometheus, and what its pages tell people to type."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy/dashboards"
PAGES = sorted((HERE / "runbook").glob("*.md"))
DASHBOARDS = [json.loads((HERE / name).read_text()) for name in ("fleet.json", "target.json", "consumer.json")]

# The metrics that are Sequin's, among whatever else stands in a text.
METRIC = re.compile(r"\b(?:sequin|messaging|db_client|http_server|process|tokio)_[a-z0-9_]+\b")


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries():
    """Where it stands, and the query, of each panel."""
    for dashboard in DASHBOARDS:
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{dashboard['title']}, {panel['title']}", target["expr"]


def fenced(language):
    """The lines of a page that are to be typed: where they stand, and what."""
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.strip().splitlines():
                yield f"runbook/{page.name}", line.split(" #")[0].strip()


def selectors(expression):
    """The metrics that an expression names, each with the labels that it selects by."""
    bare = re.sub(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", "", expression)
    outside = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", bare)
    named = {metric: set() for metric in METRIC.findall(outside)}
    for metric, labels in re.findall(r"\b([a-z][a-z0-9_]*)\{([^}]*)\}", bare):
        named.setdefault(metric, set()).update(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', labels)))
    return named


def grouped(expression):
    """The labels that an expression groups or joins by."""
    lists = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    return {label.strip() for names in lists for label in names.split(",")}
