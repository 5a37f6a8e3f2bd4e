"""For the whole run: how much it does, slow files first, and nothing collected is looked through again."""

from __future__ import annotations

import gc

import pytest

from tests import effort


def pytest_report_header() -> str:
    return effort.describe()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files are dealt out to the processes in this order: one that takes a minute must not be the last to begin.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Some hundred thousand objects of modules and tests: each full collection would walk them, thousands of times.
    gc.collect()
    gc.freeze()
