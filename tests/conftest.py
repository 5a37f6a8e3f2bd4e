"""For the whole run: what is there once the tests are collected is not looked through by the collector again."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    # Some hundred thousand objects of modules and tests: each full collection would walk them, thousands of times.
    gc.collect()
    gc.freeze()
