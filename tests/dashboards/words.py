"""Whether what deploy/dashboards/ says holds together, as far as files can tell: each alert has a case in which it fires and one in
which it does not, and a page; each page is of an alert; each panel says what it shows, and in which unit.
"""

import re
import sys
from collections import Counter

from files import DASHBOARDS, HERE, PAGES, panels

SECTIONS = ["## What it means", "## What customers notice", "## How to look", "## What to do", "## When to wake somebody"]


def findings():
    rules, cases = (HERE / "rules.yaml").read_text(), (HERE / "rules.test.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    for alert in alerts:
        if f"runbook_url: runbook/{alert}.md\n" not in rules:
            yield f"rules.yaml: {alert} does not name its page"
        if not re.search(rf"alertname: {alert}, eval_time: \w+, exp_alerts: \[\]", cases):
            yield f"rules.test.yaml has no case in which {alert} does not fire"
        if not re.search(rf"alertname: {alert}\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels", cases):
            yield f"rules.test.yaml has no case in which {alert} fires"
    for missing in sorted(set(alerts) ^ {page.stem for page in PAGES}):
        yield f"runbook/ and rules.yaml: only one of them has {missing}"
    for page in PAGES:
        text = page.read_text()
        for section in SECTIONS:
            if section not in text:
                yield f"runbook/{page.name} has no section {section}"
    for dashboard in DASHBOARDS:
        for panel in panels(dashboard):
            if not panel["description"] or not panel["fieldConfig"]["defaults"]["unit"]:
                yield f"{dashboard['title']}: {panel['title']} has no description or no unit"
        repeated = [number for number, times in Counter(panel["id"] for panel in dashboard["panels"]).items() if times > 1]
        if repeated:
            yield f"{dashboard['title']}: panels share the ids {repeated}"
        places = Counter(
            (x, y)
            for panel in dashboard["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        )
        if max(places.values()) > 1 or max(x for x, _ in places) > 23:
            yield f"{dashboard['title']}: panels lie on each other, or beyond the edge"


if __name__ == "__main__":
    found = list(findings())
    for finding in found:
        print(f"dashboards: {finding}", file=sys.stderr)
    sys.exit(bool(found))
