"""tools/grafana.json: the dashboard asks for metrics that /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import requests

from tests.web.hosting import hosted

DASHBOARD = Path(__file__).parents[2] / "tools" / "grafana.json"
METRIC = re.compile(r"\bfilmroom_[a-z_]+")


def test_every_metric_of_the_dashboard_is_exposed(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if "datasource" in variable
    ]
    asked = {name for expression in expressions for name in METRIC.findall(expression)}
    with hosted(tmp_path / "data") as hosting:
        hosting.engine.metrics.peer("CT1").instances += 1
        hosting.engine.metrics.counters["instances_refused"] += 1
        hosting.on_loop(hosting.engine.admission.look)  # as the worker does all the time
        requests.get(f"{hosting.url}/metrics", timeout=30)  # counted as an operation from then on
        text = requests.get(f"{hosting.url}/metrics", timeout=30).text
    exposed = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert asked and sorted(asked - exposed) == []


def test_panels_have_titles_of_their_own_and_lie_beside_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
