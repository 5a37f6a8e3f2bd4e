"""The program that measures PostgreSQL as the place where nodes agree runs, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

from perf import cluster
from tests.cluster.postgres import Postgres, database, server

__all__ = ["database", "server"]


def test_the_measurement_runs_and_cleans_up(server: Postgres, database: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    assert cluster.main(["--database", server.words(database), "--smoke", "--json", str(result)]) == 0
    figures = json.loads(result.read_text())["cluster"]
    assert {"barrier", "append 32", "visible"} <= set(figures)
    assert server.execute("select count(*) from filmroom.archives", database) == [(0,)]
